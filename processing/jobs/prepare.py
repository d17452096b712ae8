"""The Prepare job: makes a manifest with splits and 16-bit PNG images from a label table and an image tree.

It reads the processing inputs `labels` (the folder of the label table, such as `Info.txt` or `train.csv`), `images`
(the image tree) and, if patient ids are to be hashed, `salt` (one file with the secret). It writes the processing
outputs `prepared` and `test-reads` (the file that opens the register of test reads). The images are divided by the
label table alone, before any pixel is read. Under the protocol `published` they are not divided here: Segment divides
originals and augmented copies.

Pretrained weights are the processing input `weights`, if there are any. Prepare does not use them, but refuses missing
and damaged ones, which training would otherwise find only after three paid steps.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import Field

from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.container.arguments import add_arguments, settings_in
from mammopipe.processing.container.job import run
from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.datasets.collection import is_image
from mammopipe.processing.datasets.manifest import ImageRecord, Lesion, SplitProtocol
from mammopipe.processing.datasets.registry import DATASETS
from mammopipe.processing.dicom.header import origin
from mammopipe.processing.errors import ConfigError, ImageError, LabelError
from mammopipe.processing.files import sha256
from mammopipe.processing.images.mammogram import identity_fields, write_png
from mammopipe.processing.jobs.half_decode import ImageFile, measure, read_reduced
from mammopipe.processing.jobs.split_settings import image_place
from mammopipe.processing.jobs.stage import Stage, require_few_refused
from mammopipe.processing.read_config import ForProcessing, Phi
from mammopipe.processing.settings import Settings
from mammopipe.processing.splits import read_register
from mammopipe.processing.splits.assignment import SplitConfig, assign_splits, keep_splits, states_splits
from mammopipe.processing.turn import Turn
from mammopipe.processing.weight_sums import check_sums

BURNT_IN = "BurnedInAnnotation"


class PrepareSettings(Settings):
    """The settings of the job besides the dataset."""

    protocol: SplitProtocol = Field(
        default=SplitProtocol.PATIENT,
        description="what is divided into splits: patients; images (film); or originals and copies after augmentation "
        "(published)",
    )
    seed: int = Field(default=0, description="another seed gives another division of the patients")
    test_fraction: float = Field(default=0.2, description="share of the patients in the test split")
    folds: int = Field(default=5, description="number of folds of the other patients")
    validation_fold: int = Field(default=0, description="fold that is the validation split")
    max_height: int = Field(
        default=PreprocessConfig().max_height, ge=1, description="most rows; taller images are reduced"
    )
    reduced_decode: bool = Field(
        default=False,
        description="decode JPEG 2000 at half the resolution if that is enough: faster, but not the same pixels; the "
        "difference is measured and written into stage.json; images that differ much are decoded in full",
    )
    for_processing: ForProcessing = Field(
        default=ForProcessing.REFUSE,
        description="what to do with raw images: refuse them, or convert them, with the flag for-processing-converted",
    )
    data_digest: str = Field(
        default="",
        description="digest of the staged files, recorded in stage.json; a new digest makes a cached step run again",
    )
    max_quarantine: float = Field(default=0.05, ge=0, le=1, description="share of images that may be refused")
    phi: Phi = Field(
        default=Phi.REFUSE,
        description="what to do with an image whose header names its patient: quarantine it, or drop the header",
    )

    @property
    def split(self) -> SplitConfig:
        """The division into splits; raises `ConfigError` where its values contradict each other."""
        return SplitConfig(self.test_fraction, self.folds, self.validation_fold, self.seed)


@dataclass(frozen=True)
class PrepareTask:
    """One image to decode: its file, and the stage's folder for the PNG."""

    source: ImageFile
    folder: Path
    phi: Phi

    @property
    def record(self) -> ImageRecord:
        """The record of the label table."""
        return self.source.record


def main(arguments: Sequence[str]) -> None:
    """Run the job on the container's folders."""
    options = _parser().parse_args(arguments)
    job = settings_in(options, PrepareSettings)
    paths = ContainerPaths.from_environment()
    if (weights := paths.processing_input("weights")).is_dir():
        check_sums(weights)
    split, protocol = job.split, job.protocol
    table = DATASETS[options.dataset].read(paths.processing_input("labels"))
    records = table.records
    if protocol is not SplitProtocol.PUBLISHED:
        records = keep_splits(records, split) if states_splits(records) else assign_splits(records, split, protocol)
    config: dict[str, object] = {"dataset": options.dataset, "max_height": job.max_height, "phi": str(job.phi)}
    config |= {"protocol": str(protocol), "split": asdict(split)}
    # These are recorded only if they are set, so that the record without them stays the same as in earlier versions.
    config |= {"reduced_decode": True} if job.reduced_decode else {}
    raw = job.for_processing
    config |= {} if raw is ForProcessing.REFUSE else {"for_processing": str(raw)}
    config |= {"data_digest": job.data_digest} if job.data_digest else {}
    stage = Stage.open("prepare", paths, "prepared", config, records)
    images, half = paths.processing_input("images"), job.reduced_decode
    prepare(records, images, stage, max_height=job.max_height, phi=job.phi, half=half, for_processing=raw)
    list_refused_rows(stage, table.refused, len(records), job.max_quarantine)
    if salt := _salt(paths.processing_input("salt")):
        stage.records = [_pseudonymous(record, salt) for record in stage.records]
    stage.close(max_quarantine=job.max_quarantine)
    read_register.write_head(paths.processing_output(read_register.NAME))


def prepare(
    records: Sequence[ImageRecord],
    images: Path,
    stage: Stage,
    *,
    max_height: int,
    phi: Phi = Phi.REFUSE,
    half: bool = False,
    for_processing: ForProcessing = ForProcessing.REFUSE,
) -> None:
    """Decode this host's share of the images into the stage's folder.

    Args:
        records: The records of the label table.
        images: The image tree.
        stage: The output.
        max_height: The greatest number of rows; taller images are reduced.
        phi: What to do with an image whose header names its patient.
        half: Whether to decode at half resolution where that is enough and differs little from full resolution
            (`mammopipe.processing.jobs.half_decode`).
        for_processing: What to do with raw images.

    Raises:
        LabelError: The job has one instance, and none of the images is in the tree.
    """
    present = {path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()}
    mine = [record for record in records if record.path in present]
    # With more instances than images, an instance may get no image.
    if not mine and len(stage.hosts) == 1:
        raise LabelError(f"{images}: none of the {len(records)} images of the label table is here")
    for path in sorted(present - {record.path for record in records}):
        if is_image(Path(path)):
            stage.quarantine(Path(path).stem, f"{path}: no row in the label table names this image")
    unseen = [record for record in records if record.path not in present]
    if len(stage.hosts) == 1:
        for record in unseen:
            stage.quarantine(record.image_id, f"{record.path}: no such file; the label table names it")
    else:  # another instance may have the image: a later job compares the lists of all instances
        stage.unseen = [record.image_id for record in unseen]
    sources = [ImageFile(record, images / record.path, max_height, half, for_processing) for record in mine]
    if half:
        difference = measure(sources)
        stage.measured["reduced_decode"] = difference
        whole = set(difference["whole"])
        sources = [replace(source, half=source.record.image_id not in whole) for source in sources]
    stage.work(prepare_image, [PrepareTask(source, stage.folder, phi) for source in sources])


def list_refused_rows(stage: Stage, refused: Sequence[tuple[str, str]], images: int, max_quarantine: float) -> None:
    """Add the refused rows of the label table to the quarantine of the first instance.

    Every instance reads the whole table, so the share of refused rows is that of all images, not of one instance's.

    Args:
        stage: The output.
        refused: The id and the reason of each refused row.
        images: Number of the other rows.
        max_quarantine: The greatest share of the rows that may be refused.
    """
    if len(stage.hosts) == 1:
        stage.quarantined += refused
        return
    require_few_refused(refused, images, max_quarantine)
    if stage.host == stage.hosts[0]:
        stage.refused_before += refused


def prepare_image(task: PrepareTask) -> list[ImageRecord]:
    """Write one image as 16-bit PNG and return its record, with lesions and spacing scaled like the pixels.

    Machine and site come from the header, as for the requests that the drift monitor reads, or from the label table.
    """
    record = task.record
    _check_identity(task)
    mammogram, scale = read_reduced(task.source)
    machine, site = origin(task.source.path.read_bytes(), where=str(task.source.path))
    _check_lesions(record, mammogram.pixels.shape, scale)
    path = "images" / image_place(record)
    write_png(task.folder / path, mammogram.pixels)
    prepared = record.with_moved(
        (_placed(lesion, mammogram.turn, scale) for lesion in record.lesions),
        path=path.as_posix(),
        laterality=mammogram.laterality,
        view=mammogram.view,
        height=mammogram.pixels.shape[0],
        width=mammogram.pixels.shape[1],
        pixel_spacing_mm=mammogram.pixel_spacing_mm,
        machine_id=machine or record.machine_id,
        site_id=site or record.site_id,
        sha256=sha256(task.folder / path),
        synthetic=record.synthetic or bool(mammogram.facts.get("phantom", False)),
        quality={**record.quality, "image_flags": [str(flag) for flag in mammogram.flags]},
    )
    return [prepared]


def _check_identity(task: PrepareTask) -> None:
    """Refuse an image that names its patient; text burned into the pixels remains even if the header is dropped."""
    filled = identity_fields(task.source.path)
    if task.phi is Phi.DROP:
        filled = tuple(name for name in filled if name == BURNT_IN)
    if filled:
        raise ImageError(f"{task.source.path}: {', '.join(filled)} must not be filled where phi={task.phi}")


def _check_lesions(record: ImageRecord, shape: tuple[int, ...], scale: float) -> None:
    """Refuse an image if the table places a lesion outside it: the coordinates then do not belong to this image."""
    rows, columns = shape[0] / scale, shape[1] / scale
    for lesion in record.lesions:
        if not (-0.5 <= lesion.x <= columns and -0.5 <= lesion.y <= rows):
            raise ImageError(
                f"{record.path}: the table puts a lesion at x={lesion.x:g}, y={lesion.y:g}, outside the image of "
                f"{rows:.0f} rows and {columns:.0f} columns"
            )


def _salt(folder: Path) -> str:
    """Return the secret in the processing input `salt`; empty if the job has no such input."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if len(files) > 1:
        raise ConfigError(f"{folder}: {len(files)} files, where the salt of the patient ids is one")
    salt = files[0].read_text(encoding="utf-8").strip() if files else ""
    if files and not salt:
        raise ConfigError(f"{files[0]}: the salt of the patient ids is empty")
    return salt


def _pseudonymous(record: ImageRecord, salt: str) -> ImageRecord:
    digest = hashlib.sha256(f"{salt}/{record.dataset}/{record.patient_id}".encode()).hexdigest()
    return replace(record, patient_id=digest[:16])


def _placed(lesion: Lesion, turn: Turn, scale: float) -> Lesion:
    """Return a lesion turned and scaled from the file's pixels to the written pixels."""
    if not turn and scale == 1:
        return lesion
    x, y = turn.from_stored(lesion.x, lesion.y)
    # Pixel centres are at whole numbers, so the image's corner is at -0.5 before and after scaling.
    return replace(lesion, x=(x + 0.5) * scale - 0.5, y=(y + 0.5) * scale - 0.5, radius=lesion.radius * scale)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mammopipe.processing.jobs.prepare", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--dataset", required=True, choices=[*DATASETS])
    add_arguments(parser, PrepareSettings)
    return parser


if __name__ == "__main__":
    sys.exit(run(main, "message"))
