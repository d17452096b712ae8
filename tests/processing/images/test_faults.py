"""A fault in one file affects that file only, and the text of the error reaches no message."""

from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest

from mammopipe.processing.errors import ImageError, ReaderFaultError
from mammopipe.processing.images import mammogram
from mammopipe.processing.images.mammogram import identity_fields, read_mammogram

CELLS = (np.add.outer(np.arange(64), np.arange(48)) * 36).astype(np.uint16)


class OddError(Exception):
    """An error that cannot be pickled, as some of pydicom's cannot."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def test_a_fault_of_the_reader_is_a_refusal_with_its_name(
    make_dicom: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OddError("Doe^Jane", "4711")

    data = make_dicom(CELLS, bits=12)
    monkeypatch.setattr(mammogram, "read_dicom", fail)
    monkeypatch.setattr(mammogram.deidentification, "identity_fields", fail)
    for read in (read_mammogram, identity_fields):
        with pytest.raises(ReaderFaultError, match="the reader failed with OddError") as caught:
            read(data)
        assert isinstance(caught.value, ImageError) and "Doe" not in str(caught.value)


@pytest.mark.parametrize("error", [MemoryError(), imagecodecs.DelayedImportError("jpegls_decode")])
def test_a_failure_of_the_machine_is_not_taken_for_a_damaged_file(
    make_dicom: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: bytes) -> None:
        raise error

    data = make_dicom(CELLS, bits=12, syntax="1.2.840.10008.1.2.4.80")
    monkeypatch.setattr(imagecodecs, "jpegls_decode", fail)
    with pytest.raises(ReaderFaultError, match=f"the reader failed with {type(error).__name__}"):
        read_mammogram(data)
