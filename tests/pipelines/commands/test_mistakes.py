"""Plausible mistakes at the command line give one line and an exit code before anything starts."""

import argparse
import errno
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from mammopipe.pipelines import cli
from mammopipe.pipelines.commands import config, run
from mammopipe.pipelines.commands.models import predict
from mammopipe.pipelines.commands.studies import tune
from mammopipe.processing.phantoms.own_tree import write_own_tree

OWN = "image,patient,label\n1.png,P1,malignant\n2.png,P2,normal\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the mistakes name."""
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "few"):
        (tmp_path / name).mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "few" / name).touch()
    (tmp_path / "few" / "labels.csv").write_text(OWN)
    (tmp_path / "few" / "nolabel.txt").write_text("")
    (tmp_path / "text.tar.gz").write_text("no archive")
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "few" / "labels.csv", "labels.csv")
    (tmp_path / "bad.toml").write_text("[training]\nepoch = 3\n")
    (tmp_path / "own.toml").write_text('dataset = "own"\n[own.columns]\nlabel = "class"\n')
    (tmp_path / "broken.toml").write_text("profile = ")
    (tmp_path / "vgg16.pth").write_bytes(b"weights")
    return tmp_path


RUN = "run --dataset mias --source few"
MISTAKES = [
    ("rnu", "did you mean run"),
    ("run --profil quick", "did you mean --profile"),
    ("run --profile quik", "did you mean quick"),
    ("run --dataset mais", "did you mean mias"),
    ("run --backend proces", "did you mean process"),
    ("run --cnns resnet5", "resnet50"),
    ("run --set training.learning_rat=1e-4", "did you mean training.learning_rate"),
    ("run --set learning_rate=1e-4", "did you mean training.learning_rate"),
    ("run --set training.epochs=many", "must be a whole number"),
    ("run --set training.learning_rate=5", "between 1e-08 and 1"),
    ("run --set segmentation.height=0", "segmentation.height = 0: between 64 and 16384"),
    ("run --set evaluation.min_macro_auc=60", "between 0 and 1"),
    ("run --set MinMacroAuc=60", "pipeline parameter MinMacroAuc=60: min_macro_auc = "),
    ("run --set ImageHeight=0", "pipeline parameter ImageHeight=0: height = "),
    ("run --set MinMacroAuk=0.6", "did you mean MinMacroAuc"),
    ("run --set epochs", "must be KEY=VALUE"),
    ("run --cnns modified_cnn --set per_cnn.resnet50.lr=1e-3", "unknown key 'per_cnn.resnet50.lr'; known:"),
    ("run --cnns modified_cnn --set per_cnn.resnet50.seed=3", "per_cnn.resnet50.seed is set by data.seed"),
    ("run --set keep=images,images", "keep = images, images: each once"),
    ("run --set tags.aws:x=1", "tags.aws:x: AWS reserves the prefix aws:"),
    ("run --set tags.site=A;B", "tags.site = 'A;B': must have only letters, digits, spaces"),
    ("run --set compute.processing_instance_type=ml.m5.xlrge", "SageMaker knows; did you mean ml.m5.xlarge"),
    ("run --set endpoint.instance_type=ml.foo", "endpoint.instance_type=ml.foo: no instance type that SageMaker knows"),
    ("run --set ProcessingInstanceType=ml.m5", "pipeline parameter ProcessingInstanceType=ml.m5: no instance type"),
    ("run --set region=", "region = '': must name a region"),
    ("tune --set training.learning_rate=log(1e-5,1e-2) --source none", "none: no such file or folder"),
    ("tune --set training.learning_rate=log(1e-5,1e-2) --phantoms -2", "--phantoms -2: must be at least 2"),
    ("run --set training.=5", "must be KEY=VALUE"),
    ("run --set training.batch_size=100000000", "training.batch_size=100000000 at segmentation.height=160"),
    ("run --set segmentation.height=100000", "segmentation.height = 100000: between 64 and 16384"),
    ("run --set augmentation.copies=100000000", "are free; a run on phantoms needs about"),
    ("run --set data.seed=99999999999999999999", "data.seed = 99999999999999999999: between 0 and 4294967295"),
    ("run --phantoms 1000000000", "are free; a run on phantoms needs about"),
    ("run --config few", "few: not a readable TOML file: Is a directory"),
    ("data check none.csv", "none.csv: no such file or folder"),
    ("data check few --montage out.jpg", "give a name that ends in .png"),
    ("run --set training.learns=head --cnns resnet50", "a head learns on pretrained weights; give --weights"),
    ("run --config none.toml", "none.toml: no such configuration file"),
    ("run --config bad.toml", "unknown key 'training.epoch'; did you mean epochs"),
    ("run --config broken.toml", "broken.toml: not a readable TOML file"),
    ("run --recipe mias-lokated", "did you mean mias-located"),
    ("run --source none", "none: no such file or folder"),
    ("run --source empty", "no Info.txt here"),
    ("run --source text.tar.gz", "cannot be unpacked as a tar archive"),
    ("run --source other.tar.gz", "no Info.txt here"),
    ("run --dataset rsna --source few", "no train.csv here"),
    ("run --dataset own --source empty", "must be a table"),
    ("run --dataset own --source few", "would have no image of class negative"),
    ("run --config own.toml --source few", "no column 'class', which own.columns.label names"),
    ("run --weights none.pth", "none.pth: no such file or folder of weights"),
    ("run --weights vgg16.pth", "fit none of the candidates resnet50, alexnet, modified_cnn"),
    ("run --source s3://bucket/films", "s3://bucket/films: the S3 of a local run starts empty"),
    ("run --weights s3://bucket/weights", "s3://bucket/weights: the S3 of a local run starts empty"),
    ("run --phantoms -5", "--phantoms -5: must be at least 2"),
    ("run --phantoms 4 --source few", "--phantoms: sets how many phantoms are made"),
    ("predict none few -o out.csv", "no run"),
    ("predict few few -o out.csv", "neither model.json nor model.tar.gz"),
    ("data check few/nolabel.txt", "a table ends in .csv"),
    ("data check few --set own.columns.label=class", "which own.columns.label names"),
    ("config explain segmentation.hight", "did you mean segmentation.height"),
    ("config show extra", "takes no KEY"),
    ("power --auc 1.5 --malignant 10", "--auc 1.5: must be above 0.5 and below 1"),
    ("runs --runs text.tar.gz", "text.tar.gz: is a file; --runs names the folder of all runs"),
    ("power --auc 0.75 --malignant 1000000000", "--malignant 1000000000: must be at most 100000"),
    ("power --auc 0.75 --malignant -3", "--malignant -3: must be at least 5"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_named_in_one_line_before_anything_starts(
    here: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = cli.main(words.split())
    except SystemExit as ended:
        code = int(str(ended.code))
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert (code, "error: " in said) == (2, True), said
    assert message in said and "<" not in said.replace("<mammopipe", "")
    assert not list(here.glob("runs/*/execution.json")) and not {"tune", "out.csv"} & {
        path.name for path in here.iterdir()
    }


def test_a_read_only_folder_of_runs_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "runs").write_text("a file where the folder should be")
    assert cli.main(["run"]) == 2
    assert "runs" in capsys.readouterr().err.splitlines()[-1]


def test_a_table_that_can_be_used_is_counted_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_own_tree(tmp_path, images=36, height=160, width=130)
    assert cli.main(["data", "check", str(tmp_path), "--montage", str(tmp_path / "montage.png")]) == 0
    said = capsys.readouterr().out
    assert "36 images of 18 patients, 12 lesions; 36 images are synthetic" in said
    assert "benign 6, malignant 6, normal 24" in said and "A run on this table can start." in said
    assert (tmp_path / "montage.png").stat().st_size > 10_000
    assert cli.main(["data", "check", str(tmp_path), "--montage", str(tmp_path)]) == 2
    assert "is written as PNG; give a name that ends in .png" in capsys.readouterr().err
    (tmp_path / "images" / "p002-R.png").write_bytes(b"no picture")
    assert cli.main(["data", "check", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "refused    1" in said and "p002-R.png: neither DICOM, PGM, PNG nor TIFF" in said


def test_unused_columns_and_patients_of_several_sites_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "1.png,P1,malignant,A,L\n2.png,P1,normal,B,R\n3.png,P2,normal,B,L\n"
    (tmp_path / "labels.csv").write_text(f"image,patient,label,site,laterality\n{rows}")
    for name in ("1.png", "2.png", "3.png"):
        (tmp_path / name).touch()
    cli.main(["data", "check", str(tmp_path), "--table-only"])
    said = capsys.readouterr().out
    assert "not used   laterality (side?)\nnote       1 patients have images of several sites, such as P1; " in said


def test_one_image_of_two_patients_is_a_problem_if_the_split_divides_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_own_tree(tmp_path, images=36, height=160, width=130)
    images = tmp_path / "images"
    (images / "p000-R.png").write_bytes((images / "p000-L.png").read_bytes())
    assert cli.main(["data", "check", str(tmp_path)]) == 0
    assert "duplicates images/p000-L.png, images/p000-R.png" in capsys.readouterr().out
    for name in images.iterdir():  # every patient the same right breast: no split can keep them together
        if name.stem.endswith("-R"):
            name.write_bytes((images / "p000-L.png").read_bytes())
    assert cli.main(["data", "check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "are the same image in different splits; the leakage audit would refuse the run" in said


def test_more_refused_rows_or_images_than_a_run_allows_are_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_own_tree(tmp_path, images=36, height=160, width=130)
    for patient in ("p002", "p003"):
        (tmp_path / "images" / f"{patient}-R.png").write_bytes(b"no picture")
    assert cli.main(["data", "check", str(tmp_path)]) == 1
    assert "problem    2 of 36 images would be refused, more than 5%" in capsys.readouterr().out
    assert cli.main(["data", "check", str(tmp_path), "--set", "data.max_quarantine=0.1"]) == 0
    assert (
        cli.main(["data", "check", str(tmp_path), "--set", "training.folds=9", "--set", "data.max_quarantine=1"]) == 1
    )
    assert "training.folds=9: each fold needs an image of every class; of " in capsys.readouterr().out
    (tmp_path / "images" / "p002-R.png").unlink()
    assert cli.main(["data", "check", str(tmp_path), "--set", "data.max_quarantine=0.1"]) == 1
    assert "problem    1 of 36 rows cannot be used, more than 1%" in capsys.readouterr().out


def test_density_and_finding_are_counted_in_the_words_of_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "1.png,P1,malignant,D,SPIC\n2.png,P2,normal,,\n"
    (tmp_path / "labels.csv").write_text(f"image,patient,label,density,finding\n{rows}")
    for name in ("1.png", "2.png"):
        (tmp_path / name).touch()
    cli.main(["data", "check", str(tmp_path), "--table-only"])
    said = capsys.readouterr().out
    assert "densities  D 1 (as the table writes them; MIAS: F fatty" in said and "findings   SPIC 1 (as" in said


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x.json")

    monkeypatch.setattr(config, "recipes", full)
    assert cli.main(["recipes"]) == 2
    assert capsys.readouterr().err == "error: runs/x.json: No space left on device\n"


@pytest.mark.parametrize(
    ("words", "how"),
    [
        ("run", "training goes on from its last epoch; with --set compute.cache=P30D, finished steps are reused, too"),
        ("tune --set training.epochs=int(1,2)", "finished trials are kept, and the search continues"),
        ("predict latest images -o out.csv", "images that already have a row are skipped"),
        ("recipes", ""),
    ],
)
def test_an_interrupted_command_says_how_to_go_on(
    words: str, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    name, *_ = words.split()
    module = {"run": run, "tune": tune, "predict": predict, "recipes": config}[name]
    monkeypatch.setattr(module, name, interrupted)
    assert cli.main(words.split()) == 130
    said = "error: interrupted; every job was stopped"
    assert capsys.readouterr().err.strip() == (f"{said}; start the same command again: {how}" if how else said)


def test_the_version_and_every_help_need_no_torch_and_no_sagemaker(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("mammopipe ")


def test_the_help_of_every_command_loads_neither_torch_nor_the_sdk() -> None:
    code = """
import argparse, contextlib, io, sys
from mammopipe.pipelines import cli
commands = next(a.choices for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction))
for name in commands:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
        cli.main([name, "--help"])
    assert f"example: mammopipe {name}" in " ".join(said.getvalue().split()), name
print(len(commands), sorted({"torch", "sagemaker", "moto", "boto3", "cv2", "pandas"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    count, _, heavy = done.stdout.strip().partition(" ")
    assert int(count) >= 20 and heavy == "[]", done.stderr or done.stdout
