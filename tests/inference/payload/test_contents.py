"""Selection of an exam's images: a damaged image is never skipped, and messages name skipped files by position."""

import base64
import io
import json

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from mammopipe.inference.contract.errors import RequestError
from mammopipe.inference.payload.contents import skip_reason
from mammopipe.inference.payload.exam_body import unpack
from tests.inference.payload.examples import LIMITS, dicom, report, zipped

STORAGE = "1.2.840.10008.5.1.4.1.1."


def test_what_a_pacs_adds_to_a_study_is_skipped_and_named_by_its_place() -> None:
    files = {
        "A/DOE_JANE.1.dcm": dicom(1),
        "A/DOE_JANE.2.dcm": dicom(2),
        "B/CAD.dcm": report(f"{STORAGE}88.50"),
        "B/GSPS.dcm": report(f"{STORAGE}11.1"),
        "B/ORDER.dcm": report(f"{STORAGE}104.1"),
        "DICOMDIR": report("1.2.840.10008.1.3.10"),
        "README": b"Images of Jane Doe\n",
        "README.TXT": b"Images of Jane Doe\n",
        "VIEWER/RUN.EXE": b"MZ\x90\0\3",
        "VIEWER/index.JANE": b"<html>",
        "report.pdf": b"%PDF-1.7\n%\xe2\xe3",
    }
    payload = unpack("application/zip", zipped(files), LIMITS)
    assert [source.index for source in payload.sources] == [0, 1]
    assert [(each.index, each.place, each.reason) for each in payload.skipped] == [
        (2, "file 2 (.dcm)", "structured-report"),
        (3, "file 3 (.dcm)", "presentation-state"),
        (4, "file 4 (.dcm)", "document"),
        (5, "file 5", "dicomdir"),
        (6, "file 6", "text"),
        (7, "file 7 (.txt)", "text"),
        (8, "file 8 (.exe)", "program"),
        (9, "file 9", "text"),
        (10, "file 10 (.pdf)", "document"),
    ]


@pytest.mark.parametrize("name", ["a.dcm", "a.png", "a"])
def test_a_file_that_could_be_an_image_is_never_skipped(name: str) -> None:
    damaged = b"DICM is missing here" if name != "a" else bytes(200)
    payload = unpack("application/zip", zipped({name: damaged, "b.dcm": dicom(1)}), LIMITS)
    assert len(payload.sources) == 2 and payload.skipped == ()


def test_an_exam_without_an_image_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        unpack("application/zip", zipped({"README": b"text"}), LIMITS)
    assert caught.value.code == "no_images"


def test_objects_without_images_are_skipped_in_json_too_but_texts_are_not() -> None:
    files = [dicom(1), report(f"{STORAGE}88.33"), b"text"]
    images = [{"data": base64.b64encode(data).decode()} for data in files]
    payload = unpack("application/json", json.dumps({"images": images}).encode(), LIMITS)
    assert [source.index for source in payload.sources] == [0, 2]
    assert [(each.index, each.place) for each in payload.skipped] == [(1, "image 1")]


def binary(size: int = 3000, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@pytest.mark.parametrize(
    ("name", "data", "place", "reason"),
    [
        ("VIEWER/cache.bin", binary(), "file 1 (.bin)", "unknown"),
        ("VIEWER/cache.ANNA", binary(), "file 1", "unknown"),
        ("VIEWER/cache", binary(300_000), "file 1", "unknown"),
        ("VIEWER/short", b"\1\2\3", "file 1", "unknown"),
        ("VIEWER/table.xml", binary(), "file 1 (.xml)", "document"),
        ("VIEWER/a.dat", b"SQLite format 3\0" + binary() + b"1.2.840.10008.1.2", "file 1 (.dat)", "program"),
        ("VIEWER/Code.class", b"\xca\xfe\xba\xbe" + b"1.2.840.10008.1.2", "file 1 (.class)", "program"),
        ("VIEWER/x.tif", b"II*\0" + binary(), "file 1 (.tif)", "picture"),
        ("VIEWER/x", b"\xff\x4f\xff\x51" + binary(), "file 1", "picture"),
        ("VIEWER/x.bz2", b"BZh9" + binary(), "file 1 (.bz2)", "archive"),
        ("VIEWER/README", "Bilder der Patientin".encode("utf-16"), "file 1", "text"),
        ("VIEWER/classes.xml", b'<class uid="1.2.840.10008.5.1.4.1.1.1.2"/>', "file 1 (.xml)", "document"),
        ("VIEWER/empty", b"", "file 1", "text"),
    ],
)
def test_what_is_no_image_is_skipped_and_named(name: str, data: bytes, place: str, reason: str) -> None:
    payload = unpack("application/zip", zipped({"A": dicom(1), name: data}), LIMITS)
    assert [source.index for source in payload.sources] == [0]
    assert [(each.index, each.place, each.reason) for each in payload.skipped] == [(1, place, reason)]


def lost(data: bytes, *stretches: slice, by: int | None = None) -> bytes:
    """Return the data with stretches overwritten: by a value, or by random bytes."""
    changed = bytearray(data)
    for stretch in stretches:
        size = len(range(*stretch.indices(len(data))))
        changed[stretch] = binary(size, seed=size) if by is None else bytes([by]) * size
    return bytes(changed)


def whole(syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """Return a DICOM mammogram with a header of usual length and 20,000 bytes of pixels."""
    dataset = pydicom.dcmread(io.BytesIO(dicom(1, StudyDescription="SCREENING", InstitutionName="X" * 60)))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.Rows, dataset.Columns, dataset.PixelData = 100, 200, binary(20_000)
    dataset["PixelData"].VR = "OW"
    stream = io.BytesIO()
    # A data set keeps the byte order in which it was read; a new one takes that of its transfer syntax.
    plain = Dataset()
    plain.update(dataset)
    plain.file_meta = dataset.file_meta
    plain.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


FILE = whole()
PNG = cv2.imencode(".png", np.full((300, 300), 7, np.uint8))[1].tobytes()
DAMAGED = {
    "zeros": bytes(30_000),
    "only the preamble": FILE[:128],
    "cut in the preamble": FILE[:50],
    "cut in the file meta information": FILE[:200],
    "magic number lost": lost(FILE, slice(128, 132)),
    "start lost": lost(FILE, slice(0, 300)),
    "start overwritten by one value": lost(FILE, slice(0, 300), by=0xFF),
    "start cut off": FILE[133:],
    "start cut off later": FILE[250:],
    "bytes before it": binary(64) + FILE,
    "all but the pixels lost": lost(FILE, slice(0, FILE.index(b"\xe0\x7f\x10\0"))),
    "implicit, magic number lost": lost(whole(ImplicitVRLittleEndian), slice(128, 132)),
    "implicit, start cut off": whole(ImplicitVRLittleEndian)[140:],
    "big-endian, start cut off": whole(ExplicitVRBigEndian)[250:],
    "text transfer of PNG": PNG.replace(b"\r\n", b"\n"),
    "start of PNG lost": lost(PNG, slice(0, 60)),
    "end of PNG lost": PNG[:200],
    "colour PPM": b"P6 2 2 255\n" + bytes(12),
}


@pytest.mark.parametrize("name", ["IM0001", "IM0001.dcm", "1.2.3.4", "ANNA.MUELLER", "a.bin", "a.xml", "a.txt"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_image_is_never_skipped(damage: str, name: str) -> None:
    payload = unpack("application/zip", zipped({"A": dicom(2), name: DAMAGED[damage]}), LIMITS)
    assert [source.index for source in payload.sources] == [0, 1] and payload.skipped == ()


@pytest.mark.parametrize("name", ["IM0001", "a.pgm", "a.bin"])
def test_a_text_pgm_is_no_text(name: str) -> None:
    payload = unpack("application/zip", zipped({"A": dicom(2), name: b"P2 2 2 255\n1 2 3 4\n"}), LIMITS)
    assert [source.index for source in payload.sources] == [0, 1]


def test_random_bytes_are_seldom_taken_for_an_image() -> None:
    taken = [seed for seed in range(300) if skip_reason(binary(20_000, seed), archived=True) is None]
    assert taken == []
