"""Predictions of many images without a server: the rows are those of the predictor, resumed, in several processes."""

import csv
import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.serving.exam_images import CHANGES, relatives
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.pipelines import cli
from mammopipe.pipelines.commands.models.predict import PredictionTable
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.phantoms.own_tree import write_own_tree
from mammopipe.training.model.archive import pack


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    write_own_tree(folder, images=4, height=256, width=200)
    (folder / "images" / "z-broken.png").write_bytes(b"no picture")
    return folder


def test_a_folder_has_a_row_an_image_equal_to_the_predictors_table(base: Path, own: Path, tmp_path: Path) -> None:
    output, heatmaps = tmp_path / "out" / "predictions.csv", tmp_path / "heat"
    words = ["predict", str(base / "model"), str(own / "images"), "-o", str(output), "--processes", "1"]
    assert cli.main([*words, "--heatmaps", str(heatmaps)]) == 0
    rows = rows_of(output)
    table = Predictor(base / "model").predict_table(sorted((own / "images").iterdir()))
    assert [row["path"] for row in rows] == list(table["path"])
    assert [float(row["malignancy"]) for row in rows[:4]] == pytest.approx(list(table["malignancy"][:4]))
    assert rows[4]["error"].endswith("it starts with the bytes '6e 6f 20 70'") and not rows[4]["malignancy"]
    assert sorted(path.name for path in heatmaps.iterdir()) == [f"p00{n}-{side}.png" for n in (0, 1) for side in "LR"]


def test_a_stopped_prediction_goes_on_where_it_was(
    base: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "predictions.csv"
    pack(base / "model", tmp_path / "model.tar.gz")
    words = ["predict", str(tmp_path / "model.tar.gz"), str(own / "images"), "-o", str(output), "--processes", "1"]
    assert cli.main(words) == 0
    whole = output.read_text()
    lines = whole.splitlines(keepends=True)
    output.write_text("".join(lines[:3]) + lines[3][:20])
    capsys.readouterr()
    assert cli.main(words) == 0
    assert "2 of 5 were predicted before" in capsys.readouterr().err
    assert output.read_text() == whole
    assert cli.main([*words[:-1], "2"]) == 0, "nothing is left to predict"
    assert output.read_text() == whole
    output.write_text(whole.replace(whole.splitlines()[1].split(",")[0], "another-model"))
    assert cli.main(words) == 2
    assert "another model's predictions" in capsys.readouterr().err


def test_a_table_on_a_full_disk_keeps_its_rows_and_two_commands_never_write_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, row = tmp_path / "predictions.csv", {"model": "m", "path": "a.png", "error": ""}
    with PredictionTable(path, list(row), "m") as table:
        table.add([row])
        with pytest.raises(ConfigError, match="another command is writing it"):
            PredictionTable(path, list(row), "m").__enter__()

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="cannot be written: No space left on device"):
        patch.setattr(os, "replace", full)
        PredictionTable(path, list(row), "m").__enter__()
    assert [item.name for item in tmp_path.iterdir()] == [
        path.name
    ] and path.read_text() == "model,path,error\nm,a.png,\n"
    (tmp_path / "link.csv").symlink_to(path)
    with PredictionTable(tmp_path / "link.csv", list(row), "m") as table:
        assert table.done == {"a.png"}
    assert (tmp_path / "link.csv").is_symlink()


def test_several_processes_and_a_table_give_the_same_rows_and_exams_beside_them(
    exported: Path, own: Path, tmp_path: Path
) -> None:
    output = tmp_path / "predictions.csv"
    model, labels = str(exported / "model"), str(own / "labels.csv")
    words = ["predict", model, labels, "-o", str(output), "--exams", "--processes", "2"]
    assert cli.main(words) == 0
    rows, exams = rows_of(output), rows_of(tmp_path / "predictions-exams.csv")
    assert [row["patient_id"] for row in rows] == ["P000", "P000", "P001", "P001"]
    assert [(row["patient_id"], row["level"], row["laterality"]) for row in exams[:3]] == [
        ("P000", "breast", "L"),
        ("P000", "breast", "R"),
        ("P000", "patient", ""),
    ]
    of_images = {(row["patient_id"], row["laterality"]): float(row["malignancy"]) for row in rows}
    for row in exams:
        if row["level"] == "breast":
            expected = of_images[row["patient_id"], row["laterality"]]
        else:
            expected = max(score for (patient, _), score in of_images.items() if patient == row["patient_id"])
        assert float(row["malignancy"]) == pytest.approx(expected, abs=1e-6)
    # The rows of exams can be made later from the same images, for example if the table was lost.
    table, whole = tmp_path / "predictions-exams.csv", (tmp_path / "predictions-exams.csv").read_text()
    table.write_text("".join(whole.splitlines(keepends=True)[:3]))
    assert cli.main(words) == 0
    assert table.read_text() == whole and rows_of(output) == rows


def exam_rows(base: Path, folder: Path, files: Sequence[bytes]) -> list[dict[str, str]]:
    """Return the rows of breasts and patients that `mammopipe predict --exams` writes for these files."""
    folder.mkdir()
    for number, data in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(data)
    output = folder.with_suffix(".csv")
    cli.main(["predict", str(base / "model"), str(folder), "-o", str(output), "--exams", "--processes", "1"])
    return rows_of(output.with_name(f"{output.stem}-exams.csv"))


def test_a_folder_of_an_exam_follows_the_rules_of_the_endpoint(base: Path, tmp_path: Path) -> None:
    """As in requests: an image that is not a whole-breast view is left out; any other faulty image refuses the exam."""
    sound = [relatives()[0], relatives()[len(CHANGES)]]
    spot, minor, other = (changed_relative(change) for change in ("PaddleDescription", "PatientAge", "PatientName"))
    rows = exam_rows(base, tmp_path / "spot", [*sound, spot])
    assert [(row["level"], row["images"], row["refused"]) for row in rows] == [
        ("breast", "2", ""),
        ("patient", "2", "not_a_mammogram"),
    ]
    assert [row["referred"] for row in rows] == ["False", "True"], "the spot view may be all of the other breast"
    for name, data, error in (
        ("minor", minor, "excluded (under-18)"),
        ("mixed", other, "PatientBirthDate (0010,0030)"),
        ("broken", sound[1][:-20_000], "pixel data"),
    ):
        [row] = exam_rows(base, tmp_path / name, [sound[0], data])
        assert (row["level"], row["malignancy"]) == ("patient", "") and error.lower() in row["error"].lower()


def changed_relative(keyword: str) -> bytes:
    return relatives()[next(index for index, change in enumerate(CHANGES) if keyword in change)]


def test_where_no_image_can_be_judged_the_exit_code_says_so(base: Path, own: Path, tmp_path: Path) -> None:
    broken = str(own / "images" / "z-broken.png")
    assert cli.main(["predict", str(base / "model"), broken, "-o", str(tmp_path / "out.csv")]) == 1


def test_a_folder_whose_name_ends_like_an_image_is_none(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images" / "left.png").mkdir(parents=True)
    output = tmp_path / "out.csv"
    assert cli.main(["predict", str(base / "model"), str(tmp_path / "images"), "-o", str(output)]) != 0
    assert "no images here" in capsys.readouterr().err and not output.exists()


@pytest.mark.filterwarnings("ignore")  # the library's own imports warn of each other
def test_mlflow_loads_the_model_as_a_pyfunc_that_predicts(base: Path, own: Path, tmp_path: Path) -> None:
    pyfunc = pytest.importorskip("mlflow.pyfunc")
    pandas = pytest.importorskip("pandas")
    from mammopipe.pipelines.runs.tracking.mlflow_store import flavour

    pack(base / "model", tmp_path / "model.tar.gz")
    model = pyfunc.load_model(str(flavour(tmp_path / "model.tar.gz", tmp_path / "scratch")))
    path = str(own / "images" / "p000-L.png")
    found = model.predict(pandas.DataFrame({"path": [path], "laterality": ["L"], "view": ["MLO"]}))
    expected = Predictor(base / "model").predict_table([path])
    assert found["malignancy"][0] == pytest.approx(expected["malignancy"][0]) and found["view"][0] == "MLO"
