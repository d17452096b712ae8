"""The images of an exam must be one patient's: an answer made of two women's images would be about neither."""

from collections.abc import Sequence

from mammopipe.inference.contract.errors import UnusableImageError, from_image_error
from mammopipe.inference.payload.exam_body import Source
from mammopipe.processing.dicom.file import is_dicom, parse
from mammopipe.processing.errors import ImageError
from mammopipe.processing.read_config import Limits

_PATIENT_ID = 0x00100020


def check(sources: Sequence[Source], limits: Limits) -> None:
    """Raise `UnusableImageError`, without naming either, where DICOM files state different Patient IDs (0010,0020).

    Files that state none, and PGM and PNG, are taken as the same patient's: their sender says so.
    """
    first = b""
    for index, source in enumerate(sources):
        found = _patient(source.data, limits, index)
        first = first or found
        if found and found != first:
            raise UnusableImageError(
                "mixed_patients", "the DICOM files state different Patient IDs (0010,0020); an exam is one patient's"
            ).at(index)


def _patient(data: bytes, limits: Limits, index: int) -> bytes:
    if not is_dicom(data):
        return b""
    try:
        return parse(data, where="<bytes>", limits=limits, tags=(_PATIENT_ID,)).tags.data(_PATIENT_ID).strip(b" \0")
    except ImageError as error:
        raise from_image_error(error).at(index) from None
