"""Images of earlier studies in an exam are left out on request, and refused otherwise."""

from typing import Any

import pytest

from mammopipe.inference.contract.errors import RequestError
from mammopipe.inference.contract.request import Priors
from tests.inference.payload.examples import dicom
from tests.inference.payload.test_identity import OTHER_PATIENT, exam_of

PRIOR = {"StudyInstanceUID": "1.2.0", "StudyDate": "20160101"}


def test_priors_are_left_out_where_the_request_says_so() -> None:
    found = exam_of(dicom(1, **PRIOR), dicom(2), dicom(3, **PRIOR), dicom(4), priors=Priors.IGNORE)
    assert [source.index for source in found.sources] == [1, 3]
    places = [(each.index, each.reason, each.place) for each in found.skipped]
    assert places == [(0, "prior", "image 0"), (2, "prior", "image 2")]
    assert [(warning.code, warning.message) for warning in found.warnings] == [
        ("priors-ignored", "2 images of earlier studies were left out")
    ]


@pytest.mark.parametrize(
    ("prior", "code", "message"),
    [
        ({**PRIOR, "PatientID": "MRN-4712"}, "mixed_patients", OTHER_PATIENT.format("PatientID (0010,0020)")),
        (
            {**PRIOR, "StudyDate": None},
            "mixed_studies",
            "the image has no study date, so that no study is known to be the latest",
        ),
        (
            {**PRIOR, "StudyDate": "20260101"},
            "mixed_studies",
            "several studies are of the latest day, so that none is known to be the current one",
        ),
    ],
)
def test_a_prior_must_be_the_patient_s_and_be_known_to_be_older(prior: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        exam_of(dicom(1), dicom(2, **prior), priors=Priors.IGNORE)
    assert (caught.value.code, caught.value.message, caught.value.detail) == (code, message, {"image": 1})


def test_an_image_that_could_be_of_either_study_is_refused() -> None:
    with pytest.raises(RequestError, match="to which of the exam's studies"):
        exam_of(dicom(1), dicom(2, **PRIOR), b"P5 1 1 255\n\0", priors=Priors.IGNORE)
