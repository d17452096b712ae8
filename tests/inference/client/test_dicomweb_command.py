"""`mammopipe invoke --dicomweb`: one study read from a DICOMweb server, judged, and its results stored."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mammopipe.inference.dicom.results import all_results
from mammopipe.pipelines import cli
from tests.inference.client.dicomweb_archive import Archive, study_of
from tests.inference.dicom.dicom_examples import exam, opened
from tests.support.standin import container


def test_the_command_asks_about_a_study_and_stores_the_results(
    archive: tuple[str, Archive],
    files: list[bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, held = archive
    held.files = list(files)
    monkeypatch.setenv("MAMMOPIPE_DICOMWEB_TOKEN", "secret")
    with container() as endpoint:
        endpoint.replies = [(200, all_results(files, exam(files), []))]
        words = ["invoke", "--dicomweb", url, "--study", study_of(files), "--store", "--endpoint", endpoint.url]
        assert cli.main(words) == 0
        sent = endpoint.requests[0]
    assert sent[1]["accept"] == "application/zip" and sent[1]["content-type"] == "application/zip"
    kinds = [opened(data).SOPClassUID.name for data in held.files[len(files) :]]
    assert kinds == [
        "Comprehensive SR Storage",
        "Mammography CAD SR Storage",
        "Grayscale Softcopy Presentation State Storage",
    ]
    output = capsys.readouterr().out
    assert "stored 3 results in the study" in output and "refer to reader" in output
    assert "DOE" not in output and {one.get("HTTP_AUTHORIZATION") for one in held.headers} == {"Bearer secret"}


def test_the_command_without_store_leaves_the_study_as_it_is(
    archive: tuple[str, Archive], files: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    url, held = archive
    held.files = list(files)
    with container() as endpoint:
        words = ["invoke", "--dicomweb", url, "--study", study_of(files), "--endpoint", endpoint.url, "--json"]
        assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["breasts"] and len(held.files) == len(files)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--study", "1.2"], "--study and --store need --dicomweb URL"),
        ([], "invoke needs FILEs"),
        (["--dicomweb", "http://127.0.0.1:9"], "--dicomweb needs --study UID"),
        (["a.dcm", "--dicomweb", "http://127.0.0.1:9", "--study", "1.2"], "FILEs cannot be given with --dicomweb"),
        (["--dicomweb", "pacs.example", "--study", "1.2"], "must be the http:// or https:// URL"),
    ],
)
def test_arguments_that_cannot_be_meant(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["invoke", *words, "--endpoint", "http://127.0.0.1:9"]) == 2
    assert message in capsys.readouterr().err


BASE = "boto3 botocore numpy tqdm pydantic pydantic_core pydantic_settings annotated_types typing_extensions"


BASE += " typing_inspection jmespath s3transfer urllib3 dateutil six certifi dotenv mammopipe"


BASE_INSTALL = f"""
import importlib.abc, sys

class OnlyTheBaseInstall(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names and top not in {BASE.split()!r} and not top.startswith("_"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, OnlyTheBaseInstall())
from mammopipe.pipelines.cli import console
console()
"""


@pytest.mark.parametrize("words", [[], ["--dicomweb", "http://127.0.0.1:9", "--study", "1.2"]])
def test_the_command_works_with_the_base_install_or_names_the_extra(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "left.pgm").write_bytes(b"P5\n2 1\n255\n\x01\x02")
    with container() as endpoint:
        files = [] if words else ["left.pgm"]
        command = [sys.executable, "-c", BASE_INSTALL, "invoke", *files, *words, "--endpoint", endpoint.url]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    if words:
        assert done.returncode == 2 and "pip install 'mammopipe[dicomweb]'" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert "tables need rich (pip install 'mammopipe[pipelines]')" in done.stderr
    assert json.loads(done.stdout[: done.stdout.rindex("}") + 1])["malignancy_score"] == 70.0
    assert (tmp_path / "left-overlay.png").is_file()
