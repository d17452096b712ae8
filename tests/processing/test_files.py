"""Archives: plain files are extracted, and nothing outside the folder, also by a Python without PEP 706."""

import io
import tarfile
from pathlib import Path

import pytest

from mammopipe.processing.files import extract


@pytest.fixture(params=["with the filter", "without it"])
def python(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without it":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)


def archive(*members: tarfile.TarInfo) -> tarfile.TarFile:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for member in members:
            member.size = 3 if member.isfile() else 0
            tar.addfile(member, io.BytesIO(b"abc") if member.isfile() else None)
    return tarfile.open(fileobj=io.BytesIO(written.getvalue()))


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def test_files_and_folders_are_unpacked(python: None, tmp_path: Path) -> None:
    folder = tarfile.TarInfo("deep")
    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
    with archive(folder, tarfile.TarInfo("deep/file")) as tar:
        extract(tar, tmp_path / "out")
    assert (tmp_path / "out" / "deep" / "file").read_bytes() == b"abc"


@pytest.mark.parametrize("bad", [tarfile.TarInfo("../file"), link("deep", "/etc"), link("deep", "../..")])
def test_members_outside_the_folder_are_refused(python: None, tmp_path: Path, bad: tarfile.TarInfo) -> None:
    with archive(bad) as tar, pytest.raises(tarfile.TarError):
        extract(tar, tmp_path / "out")
    assert not (tmp_path / "file").exists()
