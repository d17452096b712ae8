import socket
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.pipelines.data import staging
from mammopipe.pipelines.data.s3 import S3Object, Storage, content_type, s3_client, together
from mammopipe.pipelines.graph.sdk import OFFLINE
from mammopipe.processing.container.s3_uri import S3Uri
from mammopipe.processing.errors import StorageError
from tests.pipelines.conftest import BUCKET


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.pgm", "images/b.png", "images/deep/c.dcm"):
        path = tmp_path / "up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "up"


def files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("cached", [False, True])
def test_a_folder_comes_back_as_it_went(services: LocalServices, folder: Path, tmp_path: Path, cached: bool) -> None:
    storage = Storage(services.storage.client, tmp_path / "cache" if cached else None)
    uri = f"s3://{BUCKET}/{'cached' if cached else 'plain'}/tree"
    assert storage.upload(folder, uri) == 3
    assert storage.download(f"{uri}/", tmp_path / "down") == 3
    assert files(tmp_path / "down") == files(folder)


def test_a_copy_is_not_used_for_an_object_that_has_changed_since(services: LocalServices, tmp_path: Path) -> None:
    storage, uri = Storage(services.storage.client, tmp_path / "cache"), f"s3://{BUCKET}/changed/a.txt"
    path = tmp_path / "a.txt"
    path.write_text("old")
    storage.put(path, uri)
    services.storage.client.put_object(Bucket=BUCKET, Key="changed/a.txt", Body=b"new")
    storage.download(uri, tmp_path / "down")
    assert files(tmp_path / "down") == {"a.txt": "new"}


@pytest.mark.parametrize(
    ("prefix", "key", "name"),
    [
        ("p/images/", "p/images/train/a.png", "train/a.png"),
        ("p/images", "p/images/train/a.png", "train/a.png"),
        ("p/manifest", "p/manifest.csv", "manifest.csv"),
        ("p/manifest", "p/manifest-algo-1.csv", "manifest-algo-1.csv"),
        ("p/Info.txt", "p/Info.txt", "Info.txt"),
        ("model.tar.gz", "model.tar.gz", "model.tar.gz"),
        ("", "p/a.png", "p/a.png"),
    ],
)
def test_names_below_a_prefix_are_those_of_sagemaker(prefix: str, key: str, name: str) -> None:
    assert S3Uri("b", prefix).name_below(key) == name


def test_a_key_cannot_lead_out_of_the_folder(services: LocalServices, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="leads out of its folder"):
        services.storage.download(f"s3://{BUCKET}/x/", tmp_path / "down", [S3Object("x/../../escape", 1, "")])


@pytest.mark.parametrize("uri", ["bucket/key", "s3://", "http://bucket/key", ""])
def test_what_is_no_s3_uri_is_refused(uri: str) -> None:
    with pytest.raises(StorageError, match="written s3://BUCKET/KEY"):
        S3Uri.parse(uri)


def test_a_missing_bucket_is_named(services: LocalServices) -> None:
    with pytest.raises(StorageError, match=r"^s3://absent-bucket/x: bucket does not exist \(S3 at http://127"):
        services.storage.list("s3://absent-bucket/x")


def test_a_missing_object_is_named(services: LocalServices) -> None:
    with pytest.raises(StorageError, match=f"^s3://{BUCKET}/absent: does not exist"):
        services.storage.read(f"s3://{BUCKET}/absent")


def test_an_endpoint_that_nobody_answers_is_named(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        storage = Storage(s3_client(boto3.Session(region_name="us-east-1", **OFFLINE), url))
        with pytest.raises(StorageError) as caught:
            storage.ensure_bucket("films")
    assert str(caught.value).startswith(f"s3://films: S3 at {url} cannot be reached")
    assert "\n" not in str(caught.value)


def test_a_local_file_that_is_missing_is_no_matter_of_s3(services: LocalServices, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        services.storage.put(tmp_path / "absent", f"s3://{BUCKET}/x")


def test_the_first_error_ends_a_transfer() -> None:
    def fail(item: int) -> None:
        raise StorageError(f"item {item}")

    with pytest.raises(StorageError, match="item 0"):
        together(fail, list(range(100)))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.pgm", "image/x-portable-graymap"),
        ("a.DCM", "application/dicom"),
        ("a.png", "image/png"),
        ("manifest.csv", "text/csv"),
        ("model.tar.gz", "application/gzip"),
        ("a", "application/octet-stream"),
    ],
)
def test_content_types(name: str, kind: str) -> None:
    assert content_type(Path(name)) == kind


def test_a_folder_has_the_digest_of_what_lies_in_it(services: LocalServices, folder: Path) -> None:
    services.storage.upload(folder, f"s3://{BUCKET}/a")
    services.storage.upload(folder, f"s3://{BUCKET}/b")
    first = services.storage.digest(f"s3://{BUCKET}/a")
    assert first == services.storage.digest(f"s3://{BUCKET}/a/") == services.storage.digest(f"s3://{BUCKET}/b")
    next(path for path in sorted(folder.rglob("*")) if path.is_file()).write_bytes(b"other")
    services.storage.upload(folder, f"s3://{BUCKET}/b")
    assert services.storage.digest(f"s3://{BUCKET}/b") != first


def test_what_lies_there_already_is_not_sent_again_though_its_etag_is_no_digest(
    services: LocalServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.pgm", "b.pgm"):
        (tmp_path / name).write_bytes(name.encode())
    files, uri = sorted(tmp_path.glob("*.pgm")), f"s3://{BUCKET}/kms"
    assert len(staging._send(tmp_path, files, uri, services.storage, title="")) == 2
    real = Storage.list
    monkeypatch.setattr(Storage, "list", lambda self, uri: [replace(item, etag="of-kms") for item in real(self, uri)])
    assert staging._send(tmp_path, files, uri, services.storage, title="") == []
    files[0].write_bytes(b"A.pgm")
    assert staging._send(tmp_path, files, uri, services.storage, title="") == files[:1]
