"""Makes synthetic screening exams in the layout of RSNA 2023: `train.csv` and `train_images/PATIENT/IMAGE.dcm`.

The files have the attributes of the real files (Kaggle stripped Modality and View Position, among others) and the
pixels of two machines. Machine 21 writes 12 bits, MONOCHROME2, with a linear window. Machine 29 writes 16 bits,
MONOCHROME1, with a sigmoid VOI function, several windows and lines of pixel padding. Both write JPEG 2000 lossless.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, DigitalMammographyXRayImageStorageForPresentation, JPEG2000Lossless

from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.datasets.rsna import COLUMNS
from mammopipe.processing.dicom.file import PHANTOM_WRITER
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes, write_csv
from mammopipe.processing.phantoms.anatomy import Density
from mammopipe.processing.phantoms.film import Film, make_film

_IDS = ("patient_id", "image_id")
_UID_ROOT = "2.25.7205759403792794"
_FIRST_PATIENT = 100_000
"""Number of the first patient, above all patient numbers of the real dataset."""
_MOST_PATIENTS = 90_000


class Machine(StrEnum):
    """The imitated machines, by their number in the dataset."""

    LINEAR = "21"
    SIGMOID = "29"

    @property
    def full_size(self) -> tuple[int, int]:
        """Rows and columns of the real files."""
        return (2776, 2082) if self is Machine.LINEAR else (5355, 4915)


@dataclass(frozen=True)
class _Patient:
    """A patient with the data of her exam, which are the same in all her rows."""

    number: int
    seed: int
    label: Label
    affected: Laterality
    machine: Machine
    site: int
    age: str
    density: Density
    letter: str
    implant: bool
    views: tuple[tuple[Laterality, View], ...]


def rsna_images(
    patients: int = 12, seed: int = 0, *, height: int | None = 700
) -> Iterator[tuple[dict[str, str], Machine, Film]]:
    """Yield the row of `train.csv`, the machine and the synthetic mammogram of each image, in the order of the table.

    `Film.pixels` and the masks are 0 in lines of padding. The images of a patient depend only on `seed` and her number.

    Args:
        patients: Number of patients.
        seed: Seed of all images.
        height: Number of rows; the columns follow from the machine's real proportions. `None` gives the real size.

    Raises:
        ConfigError: A number is out of range.
    """
    if not 1 <= patients <= _MOST_PATIENTS:
        raise ConfigError(f"patients={patients}: must be from 1 to {_MOST_PATIENTS}")
    if seed < 0:
        raise ConfigError(f"seed={seed}: must not be negative")
    return (image for number in range(patients) for image in _exam(_patient(number, seed), height))


def write_rsna_tree(folder: Path, *, patients: int = 12, seed: int = 0, height: int | None = 700) -> None:
    """Write the DICOM files of `rsna_images` and, last, `train.csv` into `folder`.

    A third of the patients have a breast with cancer, and a third have a breast with a benign biopsy. The same
    arguments give the same bytes. Raises `ConfigError` like `rsna_images`.
    """
    rows = []
    for row, machine, image in rsna_images(patients, seed, height=height):
        write_bytes(folder / "train_images" / row["patient_id"] / f"{row['image_id']}.dcm", _dicom(row, machine, image))
        rows.append(row)
    write_csv(folder / "train.csv", list(COLUMNS), rows)


def write_rsna_image(folder: Path, row: Mapping[str, str], *, seed: int = 0, height: int = 256) -> None:
    """Write a synthetic image for one row of any `train.csv`, such as the real one, to its place in `folder`.

    Side, view, class and machine are those of the row: machine 29 writes as `Machine.SIGMOID` does, all others as
    `Machine.LINEAR`. Views other than CC are drawn as MLO. The same row and seed give the same bytes.

    Args:
        folder: The folder of the table.
        row: The cells by column (`COLUMNS`).
        seed: Seed of all images.
        height: Number of rows; the columns follow from the machine's real proportions.
    """
    machine = Machine.SIGMOID if row["machine_id"] == Machine.SIGMOID else Machine.LINEAR
    benign = Label.BENIGN if row["biopsy"] == "1" else Label.NORMAL
    patient_seed, image_seed = (int(np.random.default_rng((seed, int(row[key]))).integers(2**62)) for key in _IDS)
    image = _draw(
        machine,
        (image_seed, patient_seed),
        height,
        label=Label.MALIGNANT if row["cancer"] == "1" else benign,
        laterality=Laterality(row["laterality"]),
        view=View.CC if row["view"] == View.CC.value else View.MLO,
    )
    path = folder / "train_images" / row["patient_id"] / f"{row['image_id']}.dcm"
    write_bytes(path, _dicom(dict(row), machine, image))


def _draw(
    machine: Machine,
    seeds: tuple[int, int],
    height: int | None,
    *,
    label: Label,
    laterality: Laterality,
    view: View,
    density: Density | None = None,
) -> Film:
    """Return an image as a machine stores it; the seeds are those of the image and of the patient."""
    rows, columns = machine.full_size
    image = make_film(
        seeds[0],
        label=label,
        laterality=laterality,
        view=view,
        height=rows if height is None else height,
        width=columns if height is None else round(height * columns / rows),
        density=density,
        patient_seed=seeds[1],
        padded=False,
        bits=12 if machine is Machine.LINEAR else 16,
    )
    return image if machine is Machine.LINEAR else _with_padding(image)


def _patient(number: int, seed: int) -> _Patient:
    """Return a patient; classes, sides, machines and sites alternate, so that a few patients cover all combinations."""
    rng = np.random.default_rng((seed, number))
    # Among twelve patients, each class occurs equally often with both sides, both machines and both sites.
    kind, turn = number % 3, number // 3
    site = 1 + (turn + turn // 2 + kind) % 2
    density = list(Density)[int(rng.integers(3))]
    fatty = "AB"[int(rng.integers(2))]
    age = f"{min(max(rng.normal(58.5, 10), 30), 89):.0f}.0"
    sides = (Laterality.LEFT, Laterality.RIGHT)
    views = [(side, view) for side in sides for view in (View.CC, View.MLO)]
    extra = [views[int(rng.integers(4))]] if number % 4 == 2 else []
    return _Patient(
        number=_FIRST_PATIENT + number,
        seed=int(rng.integers(2**62)),
        label=(Label.MALIGNANT, Label.BENIGN, Label.NORMAL)[kind],
        affected=sides[turn % 2],
        machine=list(Machine)[(turn // 2 + kind) % 2],
        site=site,
        age="" if number % 11 == 7 else age,
        density=density,
        letter={Density.FATTY: fatty, Density.GLANDULAR: "C", Density.DENSE: "D"}[density] if site == 1 else "",
        implant=number % 13 == 8,
        views=tuple(sorted(views + extra)),
    )


def _exam(patient: _Patient, height: int | None) -> Iterator[tuple[dict[str, str], Machine, Film]]:
    findings = {side: _breast_columns(patient, side) for side in Laterality}
    for index, (laterality, view) in enumerate(patient.views):
        row = {
            "site_id": str(patient.site),
            "patient_id": str(patient.number),
            "image_id": str(1_000_000_000 + patient.number * 100 + index),
            "laterality": laterality.value,
            "view": view.value,
            "age": patient.age,
            "implant": str(int(patient.implant)),
            "density": patient.letter,
            "machine_id": patient.machine.value,
            **findings[laterality],
        }
        seeds = patient.seed + 1 + index, patient.seed
        label = patient.label if laterality is patient.affected else Label.NORMAL
        image = _draw(
            patient.machine, seeds, height, label=label, laterality=laterality, view=view, density=patient.density
        )
        yield row, patient.machine, image


def _breast_columns(patient: _Patient, side: Laterality) -> dict[str, str]:
    """Return the columns of one breast, which the table repeats for each of its views."""
    rng = np.random.default_rng((patient.seed, list(Laterality).index(side)))
    label = patient.label if side is patient.affected else Label.NORMAL
    cancer, biopsy = label is Label.MALIGNANT, label is not Label.NORMAL
    # As in the real table, the second site has a BI-RADS value only for recalled breasts.
    if biopsy:
        birads = "0.0" if rng.random() < 0.7 else ""
    else:
        birads = ("1.0", "2.0", "")[int(rng.choice(3, p=(0.6, 0.15, 0.25)))] if patient.site == 1 else ""
    return {
        "cancer": str(int(cancer)),
        "biopsy": str(int(biopsy)),
        "invasive": str(int(cancer and rng.random() < 0.7)),
        "BIRADS": birads,
        "difficult_negative_case": str(label is Label.BENIGN),
    }


def _with_padding(image: Film) -> Film:
    """Return the image with lines of padding at its top and bottom and opposite the chest wall."""
    rows, columns = image.pixels.shape
    kept = np.zeros(image.pixels.shape, np.bool_)
    above, beside = max(1, rows // 200), max(1, columns // 100)
    kept[above:-above, :-beside] = True
    if image.laterality is Laterality.RIGHT:
        kept = np.ascontiguousarray(kept[:, ::-1])
    return replace(
        image,
        pixels=image.pixels * kept,
        breast=image.breast & kept,
        pectoral=image.pectoral & kept,
        artefacts=image.artefacts & kept,
        lesion_mask=image.lesion_mask & kept,
        padding=~kept,
    )


def _dicom(row: dict[str, str], machine: Machine, image: Film) -> bytes:
    """Return a DICOM file whose presentation values, scaled to 16 bits, are the pixels of `image`."""
    dataset = _identity(row)
    dataset.update(_linear_tags() if machine is Machine.LINEAR else _sigmoid_tags())
    stored = image.pixels >> 4 if machine is Machine.LINEAR else _sigmoid_stored(image)
    dataset.Rows, dataset.Columns = stored.shape
    codestream = imagecodecs.jpeg2k_encode(
        stored, level=0, codecformat="j2k", bitspersample=dataset.BitsStored, reversible=True
    )
    dataset.PixelData = encapsulate([bytes(codestream)])
    dataset["PixelData"].VR = "OB"
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _identity(row: dict[str, str]) -> Dataset:
    """Return the attributes that all real files have: file meta information, pseudonyms, and one grey frame."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    meta.TransferSyntaxUID = JPEG2000Lossless
    meta.ImplementationClassUID = UID(f"{_UID_ROOT}.0")
    meta.ImplementationVersionName = PHANTOM_WRITER
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPInstanceUID = UID(f"{_UID_ROOT}.{row['patient_id']}.1.{row['image_id']}")
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.ContentDate, dataset.ContentTime = "20221118", "120000.000000"
    dataset.PatientID = row["patient_id"]
    dataset.StudyInstanceUID = f"{_UID_ROOT}.{row['patient_id']}"
    dataset.SeriesInstanceUID = f"{_UID_ROOT}.{row['patient_id']}.1"
    dataset.InstanceNumber = row["image_id"]
    dataset.ImageLaterality = row["laterality"]
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.PixelRepresentation = 1, 16, 0
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", 1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.PartialView, dataset.LossyImageCompression = "NO", "00"
    return dataset


def _linear_tags() -> Dataset:
    """Return the attributes of machine 21: its window is exactly the range of 12 bits (PS3.3 C.11.2.1.2)."""
    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.BitsStored, dataset.HighBit = "MONOCHROME2", 12, 11
    dataset.PixelPaddingValue = 0
    dataset.WindowCenter, dataset.WindowWidth = "2048", "4096"
    return dataset


_CENTRES = (32768, 30500, 35000)
_WIDTHS = (16000, 20000, 13000)


def _sigmoid_tags() -> Dataset:
    """Return the attributes of machine 29: dark on bright, a sigmoid VOI function, and declared pixel padding."""
    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.BitsStored, dataset.HighBit = "MONOCHROME1", 16, 15
    dataset.add_new("PixelPaddingValue", "US", 0)
    dataset.WindowCenter, dataset.WindowWidth = list(map(str, _CENTRES)), list(map(str, _WIDTHS))
    dataset.WindowCenterWidthExplanation = ["NORMAL", "SOFTER", "HARDER"]
    dataset.VOILUTFunction = "SIGMOID"
    return dataset


def _sigmoid_stored(image: Film) -> npt.NDArray[np.uint16]:
    """Return stored values that the first window's sigmoid and inversion turn into the pixels of `image`.

    Source: PS3.3 C.11.2.1.3.1 (SIGMOID).

    The sigmoid never reaches 0 or 1, so air is read back as at most 20 of 65,535.
    """
    shown = 1 - (np.arange(65536) / 65535).clip(1e-6, 1 - 1e-6)
    stored = _CENTRES[0] - _WIDTHS[0] / 4 * np.log(1 / shown - 1)
    table = np.round(stored).clip(1, 65535).astype(np.uint16)
    return np.asarray(np.where(image.padding, np.uint16(0), table[image.pixels]))
