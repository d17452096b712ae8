"""S3 as a folder: the behaviour of `Storage` without a service, and without loading files into memory."""

import errno
import os
import resource
import shutil
from pathlib import Path

import pytest

from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.pipelines.data.folder_storage import FolderStorage
from mammopipe.pipelines.data.s3 import Storage
from mammopipe.processing.errors import StorageError
from tests.pipelines.conftest import BUCKET

NAMES = ("a.pgm", "images/b.png", "images/deep/c.dcm", "images-2/d.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "up"


@pytest.fixture
def storage(services: LocalServices, tmp_path: Path) -> FolderStorage:
    made = FolderStorage(services.storage.client, root=tmp_path / "s3")
    made.ensure_bucket(BUCKET)
    return made


@pytest.mark.parametrize("prefix", ["x", "x/", "x/images", "x/images/", "x/a.pgm", "y"])
def test_it_lists_and_brings_what_a_service_does(
    services: LocalServices, storage: FolderStorage, folder: Path, tmp_path: Path, prefix: str
) -> None:
    found = []
    for number, one in enumerate((services.storage, storage)):
        assert one.upload(folder, f"s3://{BUCKET}/x") == len(NAMES)
        target = tmp_path / f"down-{number}"
        one.download(f"s3://{BUCKET}/{prefix}", target)
        got = {path.relative_to(target).as_posix(): path.read_text() for path in target.rglob("*") if path.is_file()}
        found.append(([(item.key, item.size) for item in one.list(f"s3://{BUCKET}/{prefix}")], got))
    assert found[0] == found[1]


def test_a_copy_that_stops_on_a_full_disk_leaves_the_old_file(
    storage: FolderStorage, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.upload(folder, f"s3://{BUCKET}/x")

    def other_disk(*arguments: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def half(source: Path, target: Path) -> None:
        Path(target).write_text("hal")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "down").mkdir()
    (tmp_path / "down" / "a.pgm").write_text("old")
    monkeypatch.setattr(os, "link", other_disk)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(shutil, "copy2", half)
        storage.download(f"s3://{BUCKET}/x/a.pgm", tmp_path / "down")
    assert [(path.name, path.read_text()) for path in (tmp_path / "down").iterdir()] == [("a.pgm", "old")]
    storage.download(f"s3://{BUCKET}/x/", tmp_path / "down")
    assert (tmp_path / "down" / "a.pgm").read_text() == "a.pgm"


def test_files_are_linked_and_a_new_one_replaces_the_old(storage: FolderStorage, folder: Path, tmp_path: Path) -> None:
    storage.upload(folder, f"s3://{BUCKET}/x")
    storage.download(f"s3://{BUCKET}/x/", tmp_path / "down")
    assert (tmp_path / "down" / "a.pgm").samefile(folder / "a.pgm")
    other = tmp_path / "other"
    other.write_text("new")
    storage.put(other, f"s3://{BUCKET}/x/a.pgm")
    assert storage.read(f"s3://{BUCKET}/x/a.pgm") == b"new"
    assert (folder / "a.pgm").read_text() == "a.pgm", "the source stays what it is"


@pytest.mark.parametrize("uri", [f"s3://{BUCKET}/../a", f"s3://{BUCKET}/x/../../a", f"s3://{BUCKET}//etc/passwd"])
def test_a_key_cannot_lead_out_of_the_bucket(storage: FolderStorage, folder: Path, uri: str) -> None:
    with pytest.raises(StorageError):
        storage.put(folder / "a.pgm", uri)
    with pytest.raises(StorageError):
        storage.read(uri)


def test_what_is_missing_is_named(storage: FolderStorage) -> None:
    with pytest.raises(StorageError, match="s3://mammopipe/none: does not exist"):
        storage.read(f"s3://{BUCKET}/none")
    with pytest.raises(StorageError, match="bucket does not exist"):
        storage.list("s3://nowhere/a")


def test_large_files_take_no_memory(storage: FolderStorage, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as stream:
        stream.truncate(2**31)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    storage.put(large, f"s3://{BUCKET}/large")
    storage.download(f"s3://{BUCKET}/large", tmp_path / "down")
    assert (tmp_path / "down" / "large").stat().st_size == 2**31
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kilobytes"
    assert isinstance(storage, Storage)
