"""The reader notices overwritten JPEG 2000 data by the position where decoding ends; intact files raise no alarm."""

import logging
import threading
from collections.abc import Callable
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, get_frame

from mammopipe.processing.dicom.codestreams.jpeg2000 import with_checked_ends
from mammopipe.processing.dicom.codestreams.jpeg2000_damage import VERBOSE, differences
from mammopipe.processing.images.mammogram import CorruptImageError, ReadConfig, read_mammogram
from tests.support.clinical_phantoms import Kind, make_clinical_phantom

MakeDicom = Callable[..., bytes]
J2K = "1.2.840.10008.1.2.4.91"


@pytest.fixture(scope="module")
def cells() -> NDArray[np.uint16]:
    pixels = make_clinical_phantom(3, Kind.NOISY_AIR, rows=200, columns=150).pixels
    return np.asarray(pixels >> 4, np.uint16)


def encoded(cells: NDArray[Any], **options: Any) -> bytes:
    stream = BytesIO()
    Image.fromarray(cells).save(stream, "JPEG2000", no_jp2=True, **options)
    return stream.getvalue()


def dicom(make_dicom: MakeDicom, cells: NDArray[Any], frame: bytes) -> bytes:
    frame += b"\0" * (len(frame) % 2)
    return make_dicom(cells, syntax=J2K, pixel_data=encapsulate([frame]))


WHOLE: list[dict[str, Any]] = [
    *({"irreversible": lossy, **options} for lossy in (False, True) for options in (
        {}, {"quality_layers": [40, 10, 3]}, {"quality_layers": [200]}, {"codeblock_size": (16, 16)},
        {"precinct_size": (64, 64)}, {"num_resolutions": 1}, {"tile_size": (128, 128)}, {"progression": "CPRL"},
    )),
    {"quality_layers": [60, 40], "quality_mode": "dB"},
]  # fmt: skip


@pytest.mark.parametrize("options", WHOLE, ids=str)
@pytest.mark.parametrize("kind", ["breast", "noise", "flat", "edges"])
def test_whole_files_of_every_kind_are_read(
    make_dicom: MakeDicom, cells: NDArray[np.uint16], options: dict[str, Any], kind: str
) -> None:
    random = np.random.default_rng(0)
    shown = {
        "breast": cells,
        "noise": random.integers(0, 65536, cells.shape).astype(np.uint16),
        "flat": np.full_like(cells, 77),
        "edges": np.where(np.indices(cells.shape).sum(0) // 9 % 2, 60000, 3).astype(np.uint16),
    }[kind]
    frame = encoded(shown, **options)
    expected = np.asarray(Image.open(BytesIO(frame)))
    assert np.array_equal(read_mammogram(dicom(make_dicom, shown, frame)).pixels, expected)


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("JPEG2000.dcm", b"Kakadu-2.2"),
        ("J2K_pixelrep_mismatch.dcm", b"JasPer Version 1.701.0"),
        ("693_J2KI.dcm", b"GDCM/OpenJPEG version 2.3.0"),
        ("MR_small_jp2klossless.dcm", b"GDCM/OpenJPEG version 2.0"),
    ],
)
def test_other_encoders_end_where_they_should(name: str, encoder: bytes) -> None:
    """The files come with pydicom; they are not mammograms, so only their codestreams are decoded."""
    dataset = pydicom.dcmread(get_testdata_file(name))
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    assert encoder in frame
    with differences(1) as found:
        imagecodecs.jpeg2k_decode(with_checked_ends(frame, name), verbose=VERBOSE)
    assert not found


def damaged(frame: bytes, number: int) -> bytes:
    """Return the codestream with 16 to 128 other bytes, none of them FF, in its packets."""
    random = np.random.default_rng(number)
    length, start = int(random.choice([16, 64, 128])), len(frame) // 3
    place = start + int(random.integers(0, len(frame) - start - length - 8))
    return frame[:place] + bytes(random.integers(0, 255, length, np.uint8)) + frame[place + length :]


@pytest.mark.parametrize("lossy", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_nearly_all_overwritten_stretches_are_refused(
    make_dicom: MakeDicom, cells: NDArray[np.uint16], lossy: bool, threads: int
) -> None:
    frame = encoded(cells, irreversible=lossy)
    config, refused = ReadConfig(threads=threads), 0
    for number in range(20):
        try:
            read_mammogram(dicom(make_dicom, cells, damaged(frame, number)), config=config)
        except CorruptImageError:
            refused += 1
    assert refused >= 18


def test_the_error_names_the_difference_and_nothing_is_logged(
    make_dicom: MakeDicom, cells: NDArray[np.uint16], caplog: pytest.LogCaptureFixture
) -> None:
    data = dicom(make_dicom, cells, damaged(encoded(cells), 3))
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(CorruptImageError, match="takes [0-9]+ bytes more or fewer than"),
    ):
        read_mammogram(data)
    assert not caplog.records


def test_files_in_other_threads_are_not_blamed(make_dicom: MakeDicom, cells: NDArray[np.uint16]) -> None:
    frame = encoded(cells)
    files = [dicom(make_dicom, cells, damaged(frame, 3)), dicom(make_dicom, cells, frame)] * 4
    outcomes: dict[int, str] = {}

    def read(number: int) -> None:
        try:
            read_mammogram(files[number])
            outcomes[number] = "read"
        except CorruptImageError:
            outcomes[number] = "refused"

    workers = [threading.Thread(target=read, args=(number,)) for number in range(len(files))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [outcomes[number] for number in range(len(files))] == ["refused", "read"] * 4


def test_high_throughput_files_are_read(make_dicom: MakeDicom, cells: NDArray[np.uint16]) -> None:
    data = make_dicom(
        cells, syntax="1.2.840.10008.1.2.4.201", pixel_data=encapsulate([bytes(imagecodecs.htj2k_encode(cells))])
    )
    assert np.array_equal(read_mammogram(data).pixels, cells)
