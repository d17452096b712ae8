"""A site's own table: its columns and values are mapped, its images found, and unusable rows refused by name."""

import json
import re
import unicodedata
from pathlib import Path

import pytest

from mammopipe.processing.datasets import DATASETS, Label, Laterality, Split, View
from mammopipe.processing.datasets.own import arrange, images_of, read_own, unused_columns
from mammopipe.processing.datasets.own_table import OwnTable, find_table
from mammopipe.processing.errors import LabelError
from tests.support.spreadsheets import write_spreadsheet

HEAD = "image,patient,label"


def table(folder: Path, text: str, *images: str, name: str = "labels.csv") -> Path:
    for image in images:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).touch()
    (folder / name).write_text(text)
    return folder / name


def test_words_sides_views_and_numbers_are_read(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        f"{HEAD},side,view,age,implant,pixel_spacing_mm,synthetic\n1.png,P1,Malignant,Left,mlo,061Y,no,0.07,TRUE\n",
        "1.png",
    )
    (record,) = read_own(path).records
    assert (record.label, record.laterality, record.view) == (Label.MALIGNANT, Laterality.LEFT, View.MLO)
    assert (record.age, record.implant, record.pixel_spacing_mm, record.synthetic) == (61, False, 0.07, True)


def test_columns_and_values_are_mapped_and_the_folder_of_images_too(tmp_path: Path) -> None:
    path = table(tmp_path, "File;PatNo;Cancer\n1;7;1\n2;8;0\n", "images/1.pgm", "images/2.pgm")
    mapping = OwnTable(
        columns={"image": "File", "patient": "PatNo", "label": "Cancer"},
        values={"label": {"0": "normal", "1": "malignant"}},
        images="images",
    )
    records = read_own(path, mapping).records
    assert [(record.path, record.label) for record in records] == [("1.pgm", "malignant"), ("2.pgm", "normal")]


def test_several_rows_of_an_image_are_its_lesions_as_circles_or_boxes(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        f"{HEAD},lesion_x_min,lesion_y_min,lesion_x_max,lesion_y_max,lesion_label\n"
        "1.png,P1,malignant,10,20,30,60,\n1.png,P1,malignant,1,1,3,3,benign\n",
        "1.png",
    )
    (record,) = read_own(path).records
    first, second = record.lesions
    assert (first.x, first.y, first.radius, first.label) == (20, 40, 20, Label.MALIGNANT)
    assert (second.radius, second.label) == (1, Label.BENIGN)
    circles = json.dumps([{"x": 5, "y": 6, "radius": 2}]).replace('"', '""')
    (record,) = read_own(table(tmp_path, f'{HEAD},lesions\n1.png,P1,benign,"{circles}"\n')).records
    assert (record.lesions[0].x, record.lesions[0].radius, record.lesions[0].label) == (5, 2, Label.BENIGN)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2.png,P2,benigne,,,", "label 'benigne' must be one of normal, benign, malignant"),
        ("2.png,,benign,,,", "patient is empty"),
        ("2.png,P2,,,,", "label is empty"),
        ("none.png,P2,benign,,,", "image 'none.png': no such file"),
        ("../2.png,P2,benign,,,", "must lie in the folder of images"),
        ("2.png,P2,benign,4,,", "lesion_y, lesion_radius must be given with lesion_x"),
        ("2.png,P2,benign,4,5,0", "radius 0 must be finite and above 0"),
        ("2.png,P2,benign,4,5,inf", "radius inf must be finite"),
        ("2.png,P2,benign,4,x,5", "y 'x' must be a number"),
    ],
)
def test_a_row_that_cannot_be_used_is_left_out_with_its_line_and_reason(tmp_path: Path, row: str, reason: str) -> None:
    text = f"{HEAD},lesion_x,lesion_y,lesion_radius\n1.png,P1,normal,,,\n{row}\n"
    found = read_own(table(tmp_path, text, "1.png", "2.png"))
    assert [record.image_id for record in found.records] == ["1"]
    ((_, stated),) = found.refused
    assert stated.startswith("labels.csv, line 3: ") and reason in stated


def test_rows_that_contradict_each_other_are_left_out(tmp_path: Path) -> None:
    path = table(tmp_path, f"{HEAD}\n1.png,P1,normal\n1.png,P1,benign\n2.png,P1,normal\n", "1.png", "2.png")
    ((_, reason),) = read_own(path).refused
    assert "image '1.png' has label 'normal' and, in line 3, 'benign'" in reason


@pytest.mark.parametrize(
    ("text", "mapping", "message"),
    [
        ("File,patient,label\n1,2,3\n", {}, "no column 'image'; its columns are File, patient, label"),
        (f"{HEAD}\n", {}, "has no rows"),
        (f"{HEAD}\n1.png,P,normal\n", {"columns": {"patient": "Pat"}}, "no column 'Pat', which own.columns.patient"),
        (
            f"{HEAD}\n1.png,P,normal\n",
            {"columns": {"pateint": "P"}},
            "own.columns.pateint: no such name; did you mean",
        ),
        (f"{HEAD}\n1.png,P,normal\n", {}, "no usable row; the first: labels.csv, line 2: image '1.png': no such file"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str, mapping: dict, message: str) -> None:
    with pytest.raises(LabelError, match="labels.csv|own") as caught:
        read_own(table(tmp_path, text), OwnTable(**mapping))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("1.png,P1,normal,5,5,3", "line 2: label 'normal' contradicts the lesion; call the image benign"),
        ("1.png,P1,benign,0.2,0.3,0.1", "line 2: a lesion of radius 0.1 must have at least 0.5 pixels"),
        ("1.png,NaN,benign,,,", "line 2: patient is empty"),
        ("1.png,P1,n/a,,,", "line 2: label is empty"),
        ("1.png,7,benign,,,\n2.png,007.0,benign,,,", "patient '7' in line 2 and '007.0' in line 3 may be one"),
        ("1.png,Pat 1,benign,,,\n2.png,pat1,benign,,,", "patient 'Pat 1' in line 2 and 'pat1' in line 3 may be one"),
    ],
)
def test_what_could_mix_patients_or_mislead_is_refused_with_its_line(tmp_path: Path, rows: str, reason: str) -> None:
    head = f"{HEAD},lesion_x,lesion_y,lesion_radius\n"
    with pytest.raises(LabelError, match=re.escape(reason)):
        read_own(table(tmp_path, f"{head}{rows}\n", "1.png", "2.png"))
    assert read_own(table(tmp_path, f"{head}1.png,1,benign,,,\n2.png,10,benign,,,\n")).records[1].patient_id == "10"


def test_a_word_for_a_missing_value_is_none_unless_it_is_mapped_or_a_name(tmp_path: Path) -> None:
    text = f"{HEAD},side,view,age,site,density\n1.png,P1,none,NaN,nan,N/A,NA,none\n"
    path = table(tmp_path, text, "1.png")
    (record,) = read_own(path, OwnTable(values={"label": {"none": "normal"}})).records
    assert (record.label, record.laterality, record.view, record.age) == (Label.NORMAL, None, None, None)
    assert (record.site_id, record.density) == ("NA", "")


def test_a_name_is_found_however_its_accents_are_written(tmp_path: Path) -> None:
    apart, together = (unicodedata.normalize(form, "\u00e9.png") for form in ("NFD", "NFC"))
    path = table(tmp_path, f"{HEAD}\n{together},P1,normal\n", apart)
    assert read_own(path).records[0].path == apart != together


def test_columns_that_no_field_takes_are_named(tmp_path: Path) -> None:
    path = table(tmp_path, f"{HEAD},Laterality,agee,BMI\n1.png,P1,normal,L,50,22\n", "1.png")
    assert unused_columns(path, OwnTable()) == ["Laterality (side?)", "agee (age?)", "BMI"]
    assert unused_columns(path, OwnTable(columns={"side": "Laterality"})) == ["agee (age?)", "BMI"]


def test_a_parquet_table_gives_the_same_records(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    (tmp_path / "1.png").touch()
    frame = pandas.DataFrame({"image": ["1"], "patient": [7], "label": ["normal"], "age": [None], "lesion_x": [None]})
    frame.to_parquet(tmp_path / "labels.parquet")
    (record,) = read_own(tmp_path).records
    assert (record.patient_id, record.age, record.lesions) == ("7", None, ())
    frame.set_index("image").to_parquet(tmp_path / "labels.parquet")
    assert read_own(tmp_path).records == [record]


def test_the_folder_of_a_table_must_hold_one(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="must be a table"):
        find_table(tmp_path)
    table(tmp_path, HEAD)
    table(tmp_path, HEAD, name="more.csv")
    with pytest.raises(LabelError, match="here are labels.csv, more.csv"):
        find_table(tmp_path)


def test_an_arranged_table_is_read_as_the_dataset_own(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    path = table(tmp_path / "mine", f"{HEAD},split\na/1.png,P1,normal,train\n", "a/1.png")
    arranged = arrange(path, tmp_path / "out").records
    assert DATASETS["own"].read(tmp_path / "out").records == arranged
    assert [item.relative_to(tmp_path / "out").as_posix() for item in DATASETS["own"].files(tmp_path / "out")] == [
        "images/a/1.png",
        "manifest.csv",
    ]
    assert arranged[0].split is Split.TRAIN


def test_a_staged_dataset_can_be_read_again(tmp_path: Path) -> None:
    made = arrange(table(tmp_path, f"{HEAD},side\n1.png,P1,malignant,L\n", "1.png"), tmp_path / "staged")
    again = read_own(tmp_path / "staged")
    assert again.records == made.records
    assert images_of(find_table(tmp_path / "staged"), OwnTable()) == tmp_path / "staged" / "images"
    assert arrange(tmp_path / "staged", tmp_path / "more").records == made.records


ROWS = f"{HEAD},lesion_x,lesion_y,lesion_radius,age\n1.png,P1,malignant,40.5,20,3,61\n2.png,P2,normal,,,,\n"


def semicolons(text: str) -> bytes:
    return text.replace(",", ";").replace("40.5", "40,5").encode()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(ROWS.encode(), id="plain"),
        pytest.param(b"\xef\xbb\xbf" + ROWS.encode(), id="byte order mark"),
        pytest.param(ROWS.replace("\n", "\r\n").encode(), id="CRLF"),
        pytest.param(semicolons(ROWS), id="semicolons and decimal commas"),
        pytest.param(ROWS.replace(",", "\t").encode("utf-16"), id="Unicode text of a spreadsheet"),
        pytest.param(
            "\n".join('"' + line.replace(",", '","') + '"' for line in ROWS.splitlines()).encode(), id="quotes"
        ),
        pytest.param(ROWS.replace("image,patient", " Image , PATIENT").encode(), id="names with spaces and capitals"),
        pytest.param((ROWS + ",,,,,,\n\n").encode(), id="empty rows at the end"),
        pytest.param(ROWS.replace(",", "|").encode(), id="vertical bars"),
        pytest.param(b"\xef\xbb\xbfsep=;\r\n" + semicolons(ROWS), id="Excel's line of the separator"),
    ],
)
def test_a_table_is_read_as_programs_write_it(tmp_path: Path, data: bytes) -> None:
    table(tmp_path, "", "1.png", "2.png").write_bytes(data)
    first, second = read_own(tmp_path).records
    assert (first.patient_id, first.label, first.age) == ("P1", Label.MALIGNANT, 61)
    assert (first.lesions[0].x, first.lesions[0].radius, second.lesions) == (40.5, 3, ())


def test_a_spreadsheet_is_a_table(tmp_path: Path) -> None:
    rows = [
        ["image", "patient", "label", "age"],
        ["1.png", 7, "malignant", 61.5],
        ["2.png", "008", "normal", ""],
        ["", "", "", ""],
    ]
    table(tmp_path, "", "1.png", "2.png").unlink()
    write_spreadsheet(tmp_path / "labels.xlsx", rows)
    first, second = read_own(tmp_path).records
    assert (first.patient_id, first.age, second.patient_id, second.age) == ("7", 61.5, "008", None)


def test_a_file_that_is_no_spreadsheet_is_named(tmp_path: Path) -> None:
    path = table(tmp_path, ROWS, name="labels.xlsx")
    with pytest.raises(LabelError, match="labels.xlsx: cannot be read as a spreadsheet"):
        read_own(path)


def test_absolute_paths_within_the_folder_of_images_are_found(tmp_path: Path) -> None:
    path = table(tmp_path, f"{HEAD}\n{tmp_path / 'a' / '1.png'},P1,normal\n", "a/1.png")
    (record,) = read_own(path).records
    assert (record.path, record.image_id) == ("a/1.png", "a_1")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="none.csv: no such file or folder"):
        read_own(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "labels.csv: is empty"),
        (
            "exported today\n1.png,P1,normal\n",
            "line 1, 'exported today', must name the columns, such as image, patient",
        ),
        (f"{HEAD}\n1.png,Z\xfcrich,normal\n", "line 2, byte 27 is not UTF-8; save the table as UTF-8"),
        (f"{HEAD}\n1.png,P1,normal,more\n", "line 2 has 4 fields, the header 3; quote a value that contains ','"),
        (f"{HEAD},patient\n1.png,P1,normal,P2\n", "2 columns are named 'patient'"),
        (f"{HEAD}\n1.png,P1,normal\n1.png,P1,normal\n", "line 3 repeats line 2"),
        (f"{HEAD},age\n1.png,P1,normal,old\n", "age 'old' must be a number of years"),
        (f"{HEAD},lesion_x,lesion_y,lesion_radius\n1.png,P1,benign,4;5,1,1\n", "x '4;5' must be a number"),
        (f'{HEAD}\n1.png,P1,normal\n2.png,"P2,benign\n3.png,P3,benign\n', "line 3 opens a quote that is not closed"),
        (f"{HEAD}\n1.png,P\0,normal\n", "line 2 contains a zero byte"),
        (
            f"{HEAD},side\n1.png,P1,normal,links\n",
            "side 'links' must be one of L, R (own.values.side maps other values)",
        ),
        (f"{HEAD},pixel_spacing_mm\n1.png,P1,normal,70\n", "pixel_spacing_mm 70 must be at most 2 millimetres"),
        (
            f'{HEAD},lesions\n1.png,P1,benign,"[{{""x"": 1, ""radius"": 2}}]"\n',
            "must have radius, x, y or x_max, x_min",
        ),
        (
            f'{HEAD},lesions\n1.png,P1,benign,"[{{""x"":1,""y"":1,""radius"":2,""label"":""krebs""}}]"\n',
            "lesions: label 'krebs' must be one of normal, benign",
        ),
    ],
)
def test_an_unreadable_table_is_refused_in_words(tmp_path: Path, text: str, message: str) -> None:
    table(tmp_path, "", "1.png").write_bytes(text.encode("latin-1"))
    with pytest.raises(LabelError) as refused:
        read_own(tmp_path)
    assert message in str(refused.value)
