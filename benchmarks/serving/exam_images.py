"""DICOM images of one invented patient, and variants that do not belong in her exam."""

from functools import cache
from typing import Any

from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.phantoms.mias_tree import make_film
from tests.processing.conftest import write_dicom

IDENTITY = ("Doe^Jane", "DOE_JANE", "PID4711", "19481127")
"""Text that no answer and no log line may contain: a name, a file's name, a patient's number, a date of birth."""
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"PatientID": "PID4712"},
    {"PatientName": "Doe^Janet", "PatientBirthDate": "19501127"},
    {"PatientID": None, "PatientName": None},
    {"StudyInstanceUID": "1.2.826.4712", "StudyDate": "20160101"},
    {"SOPInstanceUID": "1.2.826.4711.1.1"},
    {"ImageLaterality": "R", "ViewPosition": "CC"},
    {"ImageLaterality": None, "ViewPosition": None},
    {"PaddleDescription": "SPOT 10CM"},
    {"BreastImplantPresent": "YES", "PartialView": "YES"},
    {"PatientAge": "016Y"},
    {"PresentationIntentType": "FOR PROCESSING"},
    {"Modality": "SR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"},
    {"NumberOfFrames": "2"},
    {"PatientOrientation": ["P", "FL"]},
)
"""Changes that make an image differ from the others of its exam: in patient, study, instance, view or kind."""


@cache
def relatives() -> tuple[bytes, ...]:
    """Return DICOM images of one patient and one study: two with each of the `CHANGES`."""
    return tuple(_relative(number, change) for number in range(2) for change in CHANGES)


def _relative(number: int, change: dict[str, Any]) -> bytes:
    """Return one image of the patient with changed attributes; its pixels differ from every other image's."""
    seed = 100 + number * len(CHANGES) + CHANGES.index(change)
    film = make_film(seed, label=Label.NORMAL, laterality=Laterality.LEFT, height=160, width=128)
    return write_dicom(film.pixels >> 4, bits=12, **{**person(seed, Laterality.LEFT), **change})


def person(number: int, side: Laterality) -> dict[str, Any]:
    """Return the attributes of an image of the patient; `number` determines its SOP Instance UID."""
    return {
        "PatientName": IDENTITY[0],
        "PatientID": IDENTITY[2],
        "PatientBirthDate": IDENTITY[3],
        "Modality": "MG",
        "ImageLaterality": side.value,
        "ViewPosition": View.MLO.value,
        "StudyInstanceUID": "1.2.826.4711",
        "SeriesInstanceUID": "1.2.826.4711.1",
        "SOPInstanceUID": f"1.2.826.4711.1.{number + 1}",
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2",
    }
