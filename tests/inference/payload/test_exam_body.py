"""The files of a request body: single images, JSON, forms and archives; what is refused or skipped."""

import base64
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pydicom
import pytest

from mammopipe.inference.contract.errors import (
    BadBodyError,
    RequestError,
    TooLargeError,
    UnsupportedTypeError,
    UnusableImageError,
)
from mammopipe.inference.contract.request import RequestOptions
from mammopipe.inference.payload.exam_body import Payload, unpack
from mammopipe.inference.payload.limits import HandlerLimits
from mammopipe.processing.datasets.manifest import Laterality, View

PGM, JSON, ZIP = "image/x-portable-graymap", "application/json", "application/zip"
FORM = 'multipart/form-data; boundary="cut here"'
LIMITS = HandlerLimits(max_views=3, max_bytes=2000, expansion=2)
FILES = [b"P5 first", b"\x89PNG\r\n\x1a\n second", bytes(128) + b"DICM third"]


def zipped(files: Sequence[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return target.getvalue()


def form(files: Sequence[bytes], *, head: str = 'Content-Disposition: form-data; name="f"; filename="x"') -> bytes:
    parts = b"".join(b"--cut here\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for data in files)
    return parts + b"--cut here--\r\n"


def listed(images: Any, **more: Any) -> bytes:
    return json.dumps({"images": images, **more}).encode()


def encoded(files: Sequence[bytes]) -> list[dict[str, str]]:
    return [{"data": base64.b64encode(data).decode()} for data in files]


def files_of(payload: Payload) -> list[bytes]:
    return [source.data for source in payload.sources]


def refused(content_type: str, body: bytes, limits: HandlerLimits = LIMITS) -> RequestError:
    with pytest.raises(RequestError) as caught:
        unpack(content_type, body, limits)
    return caught.value


def test_one_image_is_the_body() -> None:
    payload = unpack(PGM + "; q=1", FILES[0], LIMITS)
    assert files_of(payload) == FILES[:1] and not payload.is_exam


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, listed(encoded(FILES))),
        (FORM, form(FILES)),
        (ZIP, zipped(list(zip(["a/2.dcm", "a/1.dcm", "b.dcm"], [FILES[1], FILES[0], FILES[2]], strict=True)))),
        (ZIP, zipped(list(zip("abc", FILES, strict=True)), zipfile.ZIP_STORED)),
    ],
)
def test_images_of_an_exam_come_in_order(content_type: str, body: bytes) -> None:
    payload = unpack(content_type, body, LIMITS)
    assert payload.is_exam and files_of(payload) == FILES


def test_json_says_side_view_and_options() -> None:
    images = [{**image, "laterality": "L", "view": "MLO"} for image in encoded(FILES[:1])]
    payload = unpack(JSON, listed(images, options={"heatmap": True, "operating_point": "specificity"}), LIMITS)
    assert (payload.sources[0].laterality, payload.sources[0].view) == (Laterality.LEFT, View.MLO)
    assert payload.options == RequestOptions(heatmap=True, operating_point="specificity")
    assert payload.options.model_fields_set == {"heatmap", "operating_point"}


@pytest.mark.parametrize(
    ("body", "code", "named"),
    [
        (b"{", "bad_json", "JSON"),
        (b"[]", "bad_json", "object"),
        (b"\xff", "bad_json", ""),
        (b"", "bad_json", ""),
        (listed([]), "bad_json", "images"),
        (b"{}", "bad_json", "images"),
        (b"[" * 100_000, "bad_json", ""),
        (listed([{}]), "bad_json", "exactly one"),
        (listed([{"data": "", "s3_uri": "s3://a/b"}]), "bad_json", "exactly one"),
        (listed([{"data": "", "colour": "red"}]), "bad_json", "images.0.colour"),
        (listed([{"data": "", "view": "sideways"}]), "bad_json", "images.0.view"),
        (listed([{"data": "a"}]), "bad_base64", "base64"),
        (listed([{"data": "YQ==\n"}]), "bad_base64", "base64"),
        (listed([{"data": "é"}]), "bad_base64", "base64"),
        (listed(encoded(FILES), options={"speed": 9}), "bad_json", "options.speed"),
        (listed(encoded(FILES), patient="x"), "bad_json", "patient"),
    ],
)
def test_bad_json_is_refused_by_name(body: bytes, code: str, named: str) -> None:
    error = refused(JSON, body)
    assert isinstance(error, BadBodyError) and error.code == code and named in error.message


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    error = refused(JSON, listed([{"data": "", "view": "DOE^JANE"}]))
    assert "JANE" not in error.message


def test_s3_is_refused_where_no_prefix_is_allowed() -> None:
    error = refused(JSON, listed([*encoded(FILES[:1]), {"s3_uri": "s3://bucket/key"}]))
    assert (error.status, error.code, error.detail) == (403, "s3_not_allowed", {"image": 1})


@pytest.mark.parametrize("content_type", [JSON, FORM, ZIP])
def test_an_image_that_is_there_twice_is_refused(content_type: str) -> None:
    twice = [FILES[0], FILES[1], FILES[0]]
    bodies = {JSON: listed(encoded(twice)), FORM: form(twice), ZIP: zipped(list(zip("abc", twice, strict=True)))}
    error = refused(content_type, bodies[content_type])
    assert isinstance(error, UnusableImageError) and (error.code, error.detail) == ("duplicate_image", {"image": 2})


@pytest.mark.parametrize("content_type", [JSON, FORM, ZIP])
def test_more_views_than_the_limit_are_refused(content_type: str) -> None:
    many = [b"P5 %d" % index for index in range(4)]
    bodies = {JSON: listed(encoded(many)), FORM: form(many), ZIP: zipped(list(zip("abcd", many, strict=True)))}
    error = refused(content_type, bodies[content_type])
    assert isinstance(error, TooLargeError) and error.code == "too_many_views"


@pytest.mark.parametrize(
    ("content_type", "make"),
    [
        (JSON, lambda data: listed(encoded([data]))),
        (FORM, lambda data: form([data])),
        (ZIP, lambda data: zipped([("a", data)])),
        ("image/png", lambda data: data),
    ],
)
def test_a_large_image_is_refused(content_type: str, make: Callable[[bytes], bytes]) -> None:
    assert files_of(unpack(content_type, make(bytes(2000)), LIMITS)) == [bytes(2000)]
    assert refused(content_type, make(bytes(2001))).code == "too_large"


def test_images_that_are_too_large_together_are_refused() -> None:
    many = [bytes([index]) * 1800 for index in range(3)]
    assert refused(ZIP, zipped(list(zip("abc", many, strict=True)))).code == "too_large"
    assert refused(JSON, listed(encoded(many))).code == "too_large"


# ZIP archives


def test_what_systems_add_to_an_archive_is_passed_over() -> None:
    files = [("exam/", b""), ("exam/1.dcm", FILES[0]), ("__MACOSX/exam/._1.dcm", b"x"), ("exam/.DS_Store", b"y")]
    assert files_of(unpack(ZIP, zipped(files), LIMITS)) == FILES[:1]


def dicom(sop_class: str, **attributes: Any) -> bytes:
    """Return a DICOM object without an image."""
    dataset, target = pydicom.Dataset(), io.BytesIO()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.PatientName = sop_class, "1.2.3", "DOE^JANE"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


STORAGE = "1.2.840.10008.5.1.4.1.1"
ICON = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 64, 48)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("more.zip", zipped([("a", FILES[0])]), "archive"),
        ("MORE", zipped([("a", FILES[0])]), "archive"),
        ("more.tar.gz", b"\x1f\x8b\x08", "archive"),
        ("more.7z", b"7z\xbc\xaf\x27\x1c", "archive"),
        ("viewer.jar", zipped([("a", b"b")]), "program"),
        ("list.xlsx", zipped([("a", b"b")]), "document"),
        ("preview.jpg", b"\xff\xd8\xff\xe0", "picture"),
        ("PREVIEW", b"\xff\xd8\xff\xe0", "picture"),
        ("logo.bmp", b"BM\0\0", "picture"),
        ("icon.png", ICON, "picture"),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0", "document"),
        ("help.chm", b"ITSF\3\0", "program"),
        ("font", b"wOF2\0\1", "program"),
        ("LOCKFILE", b"", "text"),
        ("a.dcm", dicom(f"{STORAGE}.200.2"), "other-object"),
        ("a.dcm", dicom(f"{STORAGE}.66.5"), "other-object"),
        ("a.dcm", dicom(f"{STORAGE}.104.3"), "document"),
        ("a.dcm", dicom("1.3.12.2.1107.5.9.1"), "other-object"),
    ],
)
def test_what_a_study_on_a_disc_has_beside_its_images_is_skipped(name: str, data: bytes, reason: str) -> None:
    payload = unpack(ZIP, zipped([("IM1", FILES[0]), (name, data)]), LIMITS)
    assert files_of(payload) == FILES[:1]
    assert [str(each.reason) for each in payload.skipped] == [reason]
    error = refused(ZIP, zipped([(name, data)]))
    assert (error.code, error.message) == (
        "no_images",
        f"an exam needs at least one image; skipped files: 1 {reason}",
    )


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.dcm", b""),
        ("a.dcm", dicom(f"{STORAGE}.1.2")),
        ("a.dcm", dicom("1.3.12.2.1107.5.9.2", Rows=4)),
        ("large.png", ICON.replace(struct.pack(">I", 64), struct.pack(">I", 640))),
    ],
)
def test_what_may_be_a_damaged_image_is_no_file_to_skip(name: str, data: bytes) -> None:
    assert data in files_of(unpack(ZIP, zipped([("IM1", FILES[0]), (name, data)]), LIMITS))


def test_an_archive_without_images_is_refused() -> None:
    assert refused(ZIP, zipped([("exam/", b"")])).code == "no_images"
    assert refused(ZIP, zipped([])).code == "no_images"


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "a\\b"])
def test_names_that_lead_outside_are_refused(name: str) -> None:
    assert refused(ZIP, zipped([(name, FILES[0])])).code == "bad_zip"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused() -> None:
    assert "twice" in refused(ZIP, zipped([("a", FILES[0]), ("a", FILES[1])])).message


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_deflate_is_read(method: int) -> None:
    assert "deflate" in refused(ZIP, zipped([("a", FILES[0])], method)).message


def test_an_encrypted_file_is_refused() -> None:
    body = bytearray(zipped([("a", FILES[0])]))
    body[6] |= 1
    body[body.index(b"PK\1\2") + 8] |= 1
    assert "encrypted" in refused(ZIP, bytes(body)).message


def test_a_bomb_is_refused_by_what_it_announces(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zipped([("a", bytes(50_000_000))])

    def never(*_: Any) -> Any:
        raise AssertionError("nothing may be unpacked")

    monkeypatch.setattr(zlib, "decompressobj", never)
    assert len(bomb) < 60_000 and refused(ZIP, bomb).code == "too_large"


def test_a_bomb_that_announces_less_than_it_holds_is_cut_off() -> None:
    body = bytearray(zipped([("a", bytes(50_000_000))]))
    entry = body.index(b"PK\1\2")
    for place in (22, entry + 24):
        struct.pack_into("<I", body, place, 1000)
    error = refused(ZIP, bytes(body))
    assert (error.status, error.code) == (400, "bad_zip")


def test_a_table_of_contents_that_is_too_long_is_not_listed() -> None:
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 2**20 + 1, 0, 0)
    assert refused(ZIP, bytes(2**20 + 1) + end).code == "too_many_views"


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body + b"more",
        lambda body: body[:-4],
        lambda body: body[40:],
        lambda body: b"",
        lambda body: body[:-22] + b"PK\6\7" + bytes(16) + body[-22:],
    ],
)
def test_a_damaged_archive_is_refused(change: Callable[[bytes], bytes]) -> None:
    assert refused(ZIP, change(zipped([("a", FILES[0])]))).code == "bad_zip"


# Multipart forms


@pytest.mark.parametrize(
    ("header", "body", "named"),
    [
        ("multipart/form-data", form(FILES), "boundary"),
        (FORM, form(FILES)[:-6], "no end"),
        (FORM, b"", "no end"),
        (FORM, b"something else", "separated"),
        (FORM, form(FILES, head='Content-Disposition: form-data; name="laterality"'), "not a file"),
        (FORM, form(FILES, head="X: y"), "not a file"),
        (
            FORM,
            form(FILES, head='Content-Disposition: form-data; filename="x"\r\nContent-Transfer-Encoding: base64'),
            "Transfer-Encoding",
        ),
        ("multipart/form-data; boundary=" + "x" * 300, form(FILES), "separated"),
        ("multipart/form-data; boundary=é", form(FILES), ""),
    ],
)
def test_a_damaged_form_is_refused(header: str, body: bytes, named: str) -> None:
    error = refused(header, body)
    assert isinstance(error, BadBodyError) and error.code == "bad_multipart" and named in error.message


def test_a_form_without_parts_is_refused() -> None:
    assert refused(FORM, b"--cut here--\r\n").code in ("bad_multipart", "no_images")


def test_the_type_of_an_image_and_of_a_part_is_checked() -> None:
    assert isinstance(refused("image/png", FILES[0]), UnsupportedTypeError)
    head = 'Content-Disposition: form-data; filename="x"\r\nContent-Type: image/png'
    error = refused(FORM, form([FILES[1], FILES[0]], head=head))
    assert (error.code, error.detail) == ("content_type_mismatch", {"image": 1})
    assert refused("text/plain", b"").code == "unsupported_type"
