"""Makes synthetic images in the layouts of public collections: INbreast, CBIS-DDSM, CMMD and VinDr-Mammo as released.

The DICOM files are marked as phantoms. Folders, file names, tables and attributes are those of the releases, with
their irregularities: line breaks in paths, masks and cropped lesions confused, extra files.
"""

import csv
import io
import plistlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from mammopipe.processing.datasets import cbis_ddsm, inbreast, vindr_mammo
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.dicom.file import PHANTOM_WRITER
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes
from mammopipe.processing.phantoms.film import Film, make_film

_ROOT = "1.3.6.1.4.1.9590.100.1.2"
_UID_ROOT = "2.25.7205759403792795"
_VIEWS = ((Laterality.LEFT, View.CC), (Laterality.LEFT, View.MLO), (Laterality.RIGHT, View.CC),
          (Laterality.RIGHT, View.MLO))  # fmt: skip


@dataclass(frozen=True)
class _Image:
    """One synthetic image of one woman."""

    woman: int
    number: int
    side: Laterality
    view: View
    label: Label
    drawn: Film


def _images(
    count: int, labels: Sequence[Label], seed: int, size: tuple[int, int], *, normal: bool = True
) -> Iterator[_Image]:
    """Yield four images per woman; one breast has her class, the other is normal or, without `normal`, the same."""
    if count < 4:
        raise ConfigError(f"images={count}: must be at least 4, the images of one woman")
    for woman in range(count // 4):
        label = labels[woman % len(labels)]
        affected = (Laterality.LEFT, Laterality.RIGHT)[woman // len(labels) % 2]
        for place, (side, view) in enumerate(_VIEWS):
            shown = label if side is affected or not normal else Label.NORMAL
            draw = int(np.random.SeedSequence((seed, woman, place)).generate_state(1, np.uint64)[0])
            drawn = make_film(
                draw, label=shown, laterality=side, view=view, height=size[0], width=size[1], padded=False,
                patient_seed=1000 * seed + woman, bits=12,
            )  # fmt: skip
            yield _Image(woman, 4 * woman + place, side, view, shown, drawn)


def write_inbreast_tree(folder: Path, images: int = 24, seed: int = 0, *, size: tuple[int, int] = (512, 416)) -> None:
    """Write `INbreast Release 1.0/` with `AllDICOMs`, `AllXML` and `INbreast.csv`, four images per woman."""
    place = folder / "INbreast Release 1.0"
    birads = {Label.NORMAL: ("1",), Label.BENIGN: ("2", "3"), Label.MALIGNANT: ("4a", "4c", "5", "6")}
    rows: list[Sequence[object]] = [
        ("Patient ID", "Patient age", "Laterality", "View", "Acquisition date", "File Name", "ACR", "Bi-Rads")
    ]
    for image in _images(images, (Label.MALIGNANT, Label.BENIGN, Label.NORMAL), seed, size):
        number, view = 20586908 + 26 * image.number, {View.MLO: "ML"}.get(image.view, str(image.view))
        name = f"{number}_{image.woman:016x}_MG_{image.side}_{view}_ANON"
        _write_dicom(place / "AllDICOMs" / f"{name}.dcm", image.drawn.pixels >> 4, 12, f"{image.number}", {
            "Modality": "MG", "PatientID": "removed", "ImageLaterality": str(image.side), "ViewPosition": view,
        })  # fmt: skip
        choices = birads[image.label]
        rows.append(
            ("removed", "removed", image.side, image.view, 200801 + image.woman % 12, number, 1 + image.woman % 4,
             choices[image.woman % len(choices)])
        )  # fmt: skip
        if image.drawn.lesions:
            write_bytes(place / inbreast.OUTLINES / f"{number}.xml", plistlib.dumps(_outlines(image)))
    rows += [("",) * 8] * 2
    write_bytes(place / inbreast.LABEL_TABLE, _table(rows, ";"))
    write_bytes(place / "AllDICOMs" / ".DS_Store", b"\0\0\0\1Bud1")


def _outlines(image: _Image) -> dict[str, Any]:
    regions = []
    for lesion in image.drawn.lesions:
        turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        points = [
            f"({lesion.x + lesion.radius * np.cos(t):f}, {lesion.y + lesion.radius * np.sin(t):f})" for t in turns
        ]
        regions.append({"Name": "Mass", "NumberOfPoints": len(points), "Point_px": points, "Type": 15})
    regions.append({"Name": "Calcification", "NumberOfPoints": 1, "Point_px": ["(12.000000, 9.000000)"], "Type": 19})
    return {"Images": [{"ImageIndex": 0, "NumberOfROIs": len(regions), "ROIs": regions}]}


def write_vindr_tree(folder: Path, images: int = 24, seed: int = 0, *, size: tuple[int, int] = (512, 416)) -> None:
    """Write `images/<study_id>/<image_id>.dicom`, both tables and `metadata.csv`, four images per study."""
    birads = {Label.NORMAL: (1,), Label.BENIGN: (2, 3), Label.MALIGNANT: (4, 5)}
    common = ("study_id", "series_id", "image_id", "laterality", "view_position", "height", "width", "breast_birads",
              "breast_density")  # fmt: skip
    breasts: list[Sequence[object]] = [(*common, "split")]
    findings: list[Sequence[object]] = [
        (*common, "finding_categories", "finding_birads", "xmin", "ymin", "xmax", "ymax", "split")
    ]
    for image in _images(images, (Label.MALIGNANT, Label.BENIGN, Label.NORMAL), seed, size):
        study, name = f"{0xB8D273 + image.woman:032x}", f"{0xD8125545 + image.number:032x}"
        photometric = ("MONOCHROME2", "MONOCHROME1")[image.woman % 2]
        stored = image.drawn.pixels >> 4
        _write_dicom(
            folder / "images" / study / f"{name}.dicom",
            4095 - stored if photometric == "MONOCHROME1" else stored, 12, f"{image.number}",
            {"Modality": "MG", "PatientID": study, "ImageLaterality": str(image.side), "ViewPosition": str(image.view),
             "PhotometricInterpretation": photometric, "Manufacturer": "SIEMENS"},
        )  # fmt: skip
        choices = birads[image.label]
        category = f"BI-RADS {choices[image.woman % len(choices)]}"
        split = "test" if image.woman % 5 == 4 else "training"
        row = (study, f"{image.woman:032x}", name, image.side, image.view, size[0], size[1], category,
               f"DENSITY {'ABCD'[image.woman % 4]}")  # fmt: skip
        breasts.append((*row, split))
        boxes = [
            (lesion.x - lesion.radius, lesion.y - lesion.radius, lesion.x + lesion.radius, lesion.y + lesion.radius)
            for lesion in image.drawn.lesions
            if category not in ("BI-RADS 1", "BI-RADS 2")
        ]
        findings += [(*row, "['Mass', 'Nipple Retraction']", category, *box, split) for box in boxes]
        findings += [] if boxes else [(*row, "['No Finding']", "", "", "", "", "", split)]
    write_bytes(folder / vindr_mammo.FINDINGS, _table(findings, ","))
    write_bytes(folder / vindr_mammo.LABEL_TABLE, _table(breasts, ","))
    write_bytes(folder / "metadata.csv", b"SOP Instance UID,Series Instance UID,Patient's Age\n")
    write_bytes(folder / "LICENSE.txt", b"Synthetic images.\n")


def write_cmmd_tree(folder: Path, images: int = 24, seed: int = 0, *, size: tuple[int, int] = (512, 416)) -> None:
    """Write `CMMD/<ID1>/<study>/<series>/1-<n>.dcm` and the clinical table as a CSV file, four images per woman."""
    rows: list[Sequence[object]] = [("ID1", "LeftRight", "Age", "number", "abnormality", "classification", "subtype")]
    codes = {View.CC: ("399162004", "cranio-caudal"), View.MLO: ("399368009", "medio-lateral oblique")}
    seen = set()
    for image in _images(images, (Label.MALIGNANT, Label.BENIGN), seed, size, normal=False):
        patient = f"D1-{image.woman + 1:04d}"
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = (
            codes[image.view][0],
            "SCT",
            codes[image.view][1],
        )
        _write_dicom(
            folder / "CMMD" / patient / f"07-18-2010-NA-NA-{79377 + image.woman}" / f"1.000000-NA-{70244 + image.woman}"
            / f"1-{image.number % 4 + 1}.dcm",
            (image.drawn.pixels >> 8).astype(np.uint8), 8, f"{image.number}",
            {"Modality": "MG", "PatientID": patient, "ImageLaterality": str(image.side),
             "ViewCodeSequence": DicomSequence([code])},
        )  # fmt: skip
        if (patient, image.side) not in seen:
            seen.add((patient, image.side))
            rows.append((patient, image.side, 40 + image.woman % 30, 4, "mass", image.label.title(),
                         "Luminal A" if image.label is Label.MALIGNANT else ""))  # fmt: skip
    write_bytes(folder / "CMMD_clinicaldata_revision.csv", _table(rows, ","))
    write_bytes(folder / "CMMD" / "LICENSE", b"Synthetic images.\n")


def write_cbis_tree(folder: Path, images: int = 24, seed: int = 0, *, size: tuple[int, int] = (512, 416)) -> None:
    """Write the four tables and `CBIS-DDSM/<image>/<study>/<series>/1-1.dcm` with masks, four images per woman."""
    tables: dict[str, list[Sequence[object]]] = {
        name: [_cbis_columns(name)] for name in (cbis_ddsm.LABEL_TABLE, *cbis_ddsm.OTHER_TABLES)
    }
    for image in _images(images, (Label.MALIGNANT, Label.BENIGN), seed, size, normal=False):
        kind = ("Mass", "Calc")[image.woman // 2 % 2]
        part = ("Training", "Test")[image.woman % 5 == 4]
        side = "LEFT" if image.side is Laterality.LEFT else "RIGHT"
        name = f"{kind}-{part}_P_{image.woman + 1:05d}_{side}_{image.view}"
        table = tables[f"{kind.lower()}_case_description_{'train' if part == 'Training' else 'test'}_set.csv"]
        tags = {"Laterality": str(image.side), "PatientOrientation": str(image.view), "ConversionType": "WSD"}
        _cbis_dicom(folder, name, "full mammogram images", "1-1", image.drawn.pixels, image.number, tags)
        for number, lesion in enumerate(image.drawn.lesions, 1):
            mask, cut = _mask(lesion, size), _cut(lesion, image.drawn.pixels)
            series = f"{name}_{number}"
            _cbis_dicom(folder, series, "ROI mask images", "1-2", mask, image.number + 500 * number, tags)
            _cbis_dicom(folder, series, "ROI mask images", "1-1", cut, image.number + 500 * number, tags)
            paths = [_cbis_path(series, image.number + 500 * number, file) for file in ("000000", "000001")]
            pathology = "MALIGNANT" if image.label is Label.MALIGNANT else _BENIGN[image.woman % 2]
            details = ("IRREGULAR", "SPICULATED") if kind == "Mass" else ("PLEOMORPHIC", "CLUSTERED")
            table.append((
                f"P_{image.woman + 1:05d}", 1 + image.woman % 4, side, image.view, number,
                "mass" if kind == "Mass" else "calcification", *details, 4, pathology, 3,
                _cbis_path(name, image.number, "000000"), *(f"{path}\n" for path in paths[:: 1 - 2 * (number % 2)]),
            ))  # fmt: skip
    for file, rows in tables.items():
        if len(rows) > 1:
            write_bytes(folder / file, _table(rows, ","))


_BENIGN = ("BENIGN", "BENIGN_WITHOUT_CALLBACK")


def _cbis_columns(table: str) -> Sequence[str]:
    calc = table.startswith("calc")
    kind = ("calc type", "calc distribution") if calc else ("mass shape", "mass margins")
    return (
        "patient_id", "breast density" if calc else "breast_density", "left or right breast", "image view",
        "abnormality id", "abnormality type", *kind, "assessment", "pathology", "subtlety", "image file path",
        "cropped image file path", "ROI mask file path",
    )  # fmt: skip


def _cbis_path(name: str, number: int, file: str) -> str:
    """Return a path of the table; as in the release, it is not the path of the downloaded file."""
    return f"{name}/{_ROOT}.{10**6 + number}/{_ROOT}.{2 * 10**6 + number}/{file}.dcm"


def _cbis_dicom(
    folder: Path, name: str, series: str, file: str, pixels: NDArray[Any], number: int, tags: Mapping[str, Any]
) -> None:
    place = folder / "CBIS-DDSM" / name / "07-20-2016-DDSM-NA-30104" / f"1.000000-{series}-{number:05d}"
    whole = {"Modality": "MG", "PatientID": name, "PatientName": name, "SeriesDescription": series, **tags}
    bits = 8 * pixels.dtype.itemsize
    _write_dicom(
        place / f"{file}.dcm", pixels, bits, f"{number}.{file[-1]}", whole, storage=SecondaryCaptureImageStorage
    )


def _mask(lesion: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    rows, columns = np.ogrid[: size[0], : size[1]]
    inside = np.hypot(columns - lesion.x, rows - lesion.y) <= lesion.radius
    return np.asarray(inside.astype(np.uint8) * np.uint8(255))


def _cut(lesion: Any, pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    top, left = max(0, round(lesion.y - lesion.radius)), max(0, round(lesion.x - lesion.radius))
    return pixels[top : top + 2 * round(lesion.radius) + 1, left : left + 2 * round(lesion.radius) + 1]


def _write_dicom(
    path: Path, pixels: NDArray[Any], bits: int, number: str, tags: Mapping[str, Any], *,
    storage: UID = DigitalMammographyXRayImageStorageForPresentation,
) -> None:  # fmt: skip
    """Write an uncompressed DICOM file that is marked as a phantom."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = storage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = UID(f"{_UID_ROOT}.{number}")
    data.file_meta.ImplementationClassUID = UID(f"{_UID_ROOT}.0")
    data.file_meta.ImplementationVersionName = PHANTOM_WRITER
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PixelRepresentation, data.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 * pixels.dtype.itemsize, bits, bits - 1
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    data["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    write_bytes(path, stream.getvalue())


def _table(rows: Sequence[Sequence[object]], separator: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


WRITERS: Mapping[str, Callable[[Path, int], None]] = {
    "inbreast": write_inbreast_tree,
    "cbis-ddsm": write_cbis_tree,
    "cmmd": write_cmmd_tree,
    "vindr-mammo": write_vindr_tree,
}
"""Writers by the name of the dataset."""
