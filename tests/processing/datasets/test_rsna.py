"""The label table of RSNA 2023, and Prepare on its exams."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mammopipe.processing.container.paths import BASE_VARIABLE
from mammopipe.processing.datasets.manifest import Label, Laterality, View, read_manifest
from mammopipe.processing.datasets.registry import read_labels
from mammopipe.processing.datasets.rsna import COLUMNS, LABEL_TABLE, read_table
from mammopipe.processing.errors import LabelError
from mammopipe.processing.jobs import prepare
from mammopipe.processing.phantoms.mias_tree import write_rsna_tree

ROW = dict(zip(COLUMNS, "2,10011,220375232,L,CC,55.0,0,0,0,,0,,21,False".split(","), strict=True))


def table(folder: Path, *changes: dict[str, str]) -> Path:
    path = folder / LABEL_TABLE
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(ROW | {"image_id": str(number)} | change for number, change in enumerate(changes))
    return path


@pytest.mark.parametrize(
    ("cancer", "biopsy", "label"),
    [("1", "1", Label.MALIGNANT), ("1", "0", Label.MALIGNANT), ("0", "1", Label.BENIGN), ("0", "0", Label.NORMAL)],
)
def test_cancer_goes_before_biopsy(tmp_path: Path, cancer: str, biopsy: str, label: Label) -> None:
    (record,) = read_labels("rsna", table(tmp_path, {"cancer": cancer, "biopsy": biopsy}))
    assert record.label is label


def test_stated_values_are_kept_and_missing_ones_stay_missing(tmp_path: Path) -> None:
    stated = {"age": "61.0", "density": "B", "BIRADS": "2.0", "implant": "1", "view": "MLO", "laterality": "R"}
    first, second = read_labels("rsna", table(tmp_path, {"age": ""}, stated))
    assert (first.age, first.density, first.birads, first.implant) == (None, "", "", False)
    assert (second.age, second.density, second.birads, second.implant) == (61.0, "B", "2", True)
    assert (second.view, second.laterality) == (View.MLO, Laterality.RIGHT)
    assert (second.machine_id, second.site_id) == ("21", "2")
    assert second.path == "10011/1.dcm"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"view": "XX"}, "view='XX'"),
        ({"image_id": "0"}, "occurs twice"),
        ({"cancer": "2"}, "cancer='2'"),
        ({"laterality": ""}, "laterality=''"),
        ({"image_id": "../7"}, "image_id must be digits"),
        ({"age": "900"}, "age=900"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_too_many_refuse_the_table(
    tmp_path: Path, change: dict[str, str], named: str
) -> None:
    path = table(tmp_path, {}, change)
    ((_, reason),) = read_table(path).refused
    assert named in reason and "line 3" in reason
    with pytest.raises(LabelError, match="1 of 2 rows cannot be used, more than 1%"):
        read_labels("rsna", path)
    assert len(read_table(path).records) == 1


def test_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / LABEL_TABLE).write_text("patient_id,image_id\n1,2\n")
    with pytest.raises(LabelError, match="columns must be site_id"):
        read_labels("rsna", tmp_path / LABEL_TABLE)


def test_the_real_table_has_its_golden_facts(rsna_folder: Path) -> None:
    records = read_labels("rsna", rsna_folder / LABEL_TABLE)
    assert len(records) == 54706
    assert len({record.patient_id for record in records}) == 11913
    assert Counter(record.label for record in records)[Label.MALIGNANT] == 1158


@pytest.fixture
def exams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_rsna_tree(tmp_path / "tree", patients=2, height=300)
    inputs = tmp_path / "processing" / "input"
    inputs.mkdir(parents=True)
    (inputs / "labels").symlink_to(tmp_path / "tree")
    (inputs / "images").symlink_to(tmp_path / "tree" / "train_images")
    monkeypatch.setenv(BASE_VARIABLE, str(tmp_path))
    return tmp_path


def test_prepare_reads_exams_and_hashes_patients_when_asked(exams: Path) -> None:
    salt = exams / "processing" / "input" / "salt" / "name"
    salt.parent.mkdir()
    salt.write_text("-pepper, and no argument")
    prepare.main(["--dataset", "rsna"])
    records = read_manifest(exams / "processing" / "output" / "prepared")
    assert len(records) == len(list((exams / "tree").rglob("*.dcm")))
    assert all(record.synthetic for record in records)
    patients = {record.patient_id for record in records}
    assert len(patients) == 2 and all(len(name) == 16 for name in patients)


@pytest.mark.parametrize(("policy", "refused"), [("refuse", {"900"}), ("drop", set[str]())])
def test_an_image_that_names_its_patient_is_quarantined_or_its_header_dropped(
    exams: Path, make_dicom: Callable[..., bytes], policy: str, refused: set[str]
) -> None:
    cells = np.tile(np.arange(256, dtype=np.uint16) * 16, (256, 1))
    target = exams / "tree" / "train_images" / "900" / "900.dcm"
    target.parent.mkdir()
    target.write_bytes(make_dicom(cells, bits=12, PatientName="Doe^Jane", ImageLaterality="L"))
    with (exams / "tree" / LABEL_TABLE).open("a", newline="") as stream:
        csv.DictWriter(stream, COLUMNS).writerow(ROW | {"patient_id": "900", "image_id": "900"})
    prepare.main(["--dataset", "rsna", "--phi", policy, "--max-quarantine", "0.5"])
    output = exams / "processing" / "output" / "prepared"
    with (output / "quarantine.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["image_id"] for row in rows} == refused
    assert all("PatientName" in row["reason"] and "Doe" not in row["reason"] for row in rows)
    assert ("900" in {record.image_id for record in read_manifest(output)}) is not bool(refused)


def test_a_row_of_another_length_is_named(tmp_path: Path) -> None:
    path = table(tmp_path, {}, {})
    path.write_text(path.read_text() + "2,10011,9\n\n" + ",".join(ROW.values()) + ",more\n")
    refused = read_table(path).refused
    assert [image_id for image_id, _ in refused] == ["9", ROW["image_id"]]
    assert "line 4: 3 cells where there are 14 columns" in refused[0][1] and "15 cells" in refused[1][1]
