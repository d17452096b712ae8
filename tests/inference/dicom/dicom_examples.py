"""Answers for phantoms, their DICOM results, and functions that read structured reports."""

import hashlib
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from mammopipe.inference.contract.schema import Answer, ExamAnswer
from mammopipe.inference.dicom.results import overlay_capture, structured_report
from mammopipe.inference.prediction.heatmap import overlay
from mammopipe.processing.images.mammogram import Mammogram, read_mammogram
from mammopipe.processing.phantoms.rsna_tree import write_rsna_tree

MODEL = {
    "id": "model-package/7",
    "architecture": "resnet50",
    "weights_sha256": "ab" * 32,
    "preprocess_digest": "cd" * 32,
}
DECISION = {
    "operating_point": "sensitivity",
    "threshold": 0.31,
    "finding": "suspicious",
    "sensitivity": 0.92,
    "specificity": None,
}
POOR = {"refer": True, "reasons": [{"code": "segmentation", "message": "the mask covers 96 % of the film"}]}
FINE: dict[str, Any] = {"refer": False, "reasons": []}
REGIONS = [
    {"left": 10, "top": 20, "right": 110, "bottom": 220, "peak_x": 60, "peak_y": 99, "strength": 0.9312},
    {"left": 0, "top": 0, "right": 7, "bottom": 5, "peak_x": 3, "peak_y": 4, "strength": 0.6},
]
SECRETS = {
    "PatientName": "DOE^JANE",
    "PatientID": "MRN-4711",
    "PatientBirthDate": "19610203",
    "PatientSex": "F",
    "AccessionNumber": "ACC-42",
    "ReferringPhysicianName": "HOUSE^GREGORY",
    "StudyDate": "20260101",
    "StudyTime": "101112",
    "StudyID": "S-9",
    "StudyDescription": "SCREENING OF JANE",
}


@cache
def phantom_exams() -> list[list[bytes]]:
    """Return two patients' files: the first of a MONOCHROME2 machine, the second of a MONOCHROME1 machine."""
    with TemporaryDirectory() as folder:
        write_rsna_tree(Path(folder), patients=2, height=260)
        return [
            [file.read_bytes() for file in sorted(patient.iterdir())]
            for patient in sorted(Path(folder, "train_images").iterdir())
        ]


def oriented(data: bytes, **attributes: Any) -> bytes:
    """Return a phantom's file with the Patient Orientation in which it lies, and other attributes."""
    side = opened(data).ImageLaterality
    return changed(data, PatientOrientation=["A", "FR"] if side == "L" else ["P", "FL"], **attributes)


def changed(data: bytes, **attributes: Any) -> bytes:
    """Return a DICOM file with other attributes; `None` takes one out, of the file meta information, too."""
    dataset = pydicom.dcmread(BytesIO(data))
    for keyword, value in attributes.items():
        if value is not None:
            setattr(dataset, keyword, value)
            continue
        for holder, name in ((dataset, keyword), (dataset.file_meta, f"MediaStorage{keyword}")):
            if name in holder.dir():
                delattr(holder, name)
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=False)
    return stream.getvalue()


def image_facts(data: bytes, **other: Any) -> dict[str, Any]:
    mammogram = read_mammogram(data)
    rows, columns = mammogram.pixels.shape
    image = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "rows": rows,
        "columns": columns,
        "laterality": mammogram.laterality,
        "view": "MLO",
        "quality": {},
    }
    heatmap = {
        "target": "malignant",
        "rows": rows,
        "columns": columns,
        "png": "",
        "outside_share": 0.0,
        "regions": REGIONS,
    }
    return {
        "image": image,
        "probabilities": {"normal": 0.2, "benign": 0.1, "malignant": 0.7},
        "warnings": [],
        "malignancy_score": 70.0,
        "decile": 9,
        "entropy": 0.801818,
        "decision": DECISION,
        "referral": FINE,
        "heatmap": heatmap,
        **other,
    }


def one(data: bytes, request_id: str = "r1", model: dict[str, str] = MODEL, **other: Any) -> Answer:
    return Answer.model_validate(
        {"request_id": request_id, "model": model, "timings_ms": {"read": 1.5}, **image_facts(data, **other)}
    )


def exam(files: list[bytes]) -> ExamAnswer:
    images = [{"index": index, **image_facts(data)} for index, data in enumerate(files)]
    images[0] |= {"referral": POOR, "heatmap": None}
    sides = [image["image"]["laterality"] for image in images]
    breasts = [
        {
            "laterality": side,
            "images": [index for index, other in enumerate(sides) if other == side],
            "rule": "mean",
            "malignancy_score": 61.0,
            "decision": None,
            "referral": FINE,
        }
        for side in "LR"
    ]
    warnings = [{"code": "no-reference", "message": "the model has no reference"}]
    return ExamAnswer.model_validate(
        {
            "request_id": "r1",
            "model": MODEL,
            "timings_ms": {},
            "images": images,
            "breasts": breasts,
            "exam": {"malignancy_score": 64.0, "decision": DECISION, "referral": POOR},
            "warnings": warnings,
        }
    )


def opened(data: bytes) -> Dataset:
    return pydicom.dcmread(BytesIO(data))


def items(container: Dataset) -> Iterator[Dataset]:
    """Yield every content item below one, in the order of the document."""
    for item in container.get("ContentSequence", []):
        yield item
        yield from items(item)


def groups(report: Dataset) -> dict[str, Dataset]:
    """Return the measurement groups by their tracking identifiers, without the part that names a drawing tool."""
    found = [item for item in items(report) if item.ValueType == "CONTAINER" and name_of(item) == "125007"]
    return {str(group.ContentSequence[0].TextValue).rpartition(":")[2]: group for group in found}


def section(report: Dataset, code: Any) -> Dataset:
    """Return the section of the document with this concept name."""
    [found] = [item for item in report.ContentSequence if name_of(item) == code.value]
    return found


def name_of(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""


def numbers(group: Dataset) -> dict[str, float]:
    return {
        name_of(item): float(item.MeasuredValueSequence[0].NumericValue)
        for item in items(group)
        if item.get("ValueType") == "NUM"
    }


def coded(group: Dataset) -> dict[str, str]:
    return {
        name_of(item): str(item.ConceptCodeSequence[0].CodeValue) for item in items(group) if item.ValueType == "CODE"
    }


def words(group: Dataset) -> list[str]:
    return [str(item.TextValue) for item in group.ContentSequence if name_of(item) == codes.DCM.Comment.value]


def referred(group: Dataset) -> list[str]:
    return [
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in items(group)
        if item.get("ValueType") == "IMAGE"
    ]


def instances(files: list[bytes]) -> list[str]:
    return [str(opened(data).SOPInstanceUID) for data in files]


def results(data: bytes) -> list[bytes]:
    mammogram = read_mammogram(data)
    return [structured_report([data], one(data)), overlay_capture(data, heat_over(mammogram), one(data))]


def heat_over(mammogram: Mammogram) -> NDArray[np.uint8]:
    heat = np.zeros(mammogram.pixels.shape, np.float32)
    cv2.circle(heat, (mammogram.pixels.shape[1] // 2, mammogram.pixels.shape[0] // 2), 20, 1.0, -1)
    return overlay(mammogram.pixels, cv2.GaussianBlur(heat, (0, 0), 5))
