"""Two phantom exams for the tests of DICOM results."""

import pytest

from tests.inference.dicom.dicom_examples import (
    phantom_exams,
)


@pytest.fixture(scope="session")
def exams() -> list[list[bytes]]:
    return phantom_exams()
