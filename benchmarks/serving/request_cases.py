"""Invalid and unusual requests: mutated images, exams, forms, archives, options, headers, paths and raw bytes.

A case depends only on its seed and number, so these two reproduce a failure. Every image carries the invented identity
`IDENTITY` in all places where images, forms and archives hold one.
"""

import base64
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from benchmarks.serving.exam_images import IDENTITY, person, relatives
from mammopipe.processing.datasets.manifest import Label, Laterality
from mammopipe.processing.phantoms.mias_tree import make_film
from tests.processing.conftest import EXPLICIT, LOSSLESS, LOSSY, item, write_dicom
from tests.processing.images.test_fuzz import Random, mutate, seeds

PGM, PNG, DICOM = "image/x-portable-graymap", "image/png", "application/dicom"
JSON, FORM, ZIP = "application/json", "multipart/form-data", "application/zip"
TYPES = (PGM, PNG, DICOM, JSON, FORM, ZIP)
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
OPTIONS: dict[str, tuple[str, ...]] = {
    "laterality": ("L", "R", "left", ""),
    "view": ("CC", "MLO", "AT", "XX"),
    "operating_point": ("sensitivity", "specificity", "both"),
    "heatmap": ("true", "false", "1", "maybe"),
    "target": ("malignant", "benign", "normal", "0"),
    "result": ("report", "cad-sr", "gsps", "all", "overlay", "both"),
    "priors": ("refuse", "ignore", "all"),
    "overlay": ("heat", "none", "all"),
    "unknown": ("1",),
}
PHANTOMS = 12
"""Number of images that are phantoms: four in each of three formats."""
OF_EXAMS = 0.9
"""Fraction of valid images in exams: a single invalid image makes the server refuse the whole exam."""
COMMON = ("operating_point", "heatmap", "target")
"""Options that every request may have."""
ACCEPTS = (JSON, PNG, DICOM, "*/*", "image/*", "", "text/html", f"{JSON};q=0, {PNG};q=0.5", f"{PNG};q=", ",,;;q=a")
TEXTS = ("", "\x00", "\ud83d", "ß" * 40, "=" * 9, "a" * 5000, "%00", "../../etc/passwd", "null", "-1", "1e999", "{}")
JSON_TEXTS = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b"NaN",
    b"[" * 200_000,
    b'{"a":' * 50_000,
    b'{"images":[]}',
    b'"\\ud800"',
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}",
    b'{"images":[{"data":""}],"images":[]}',
    b"1" * 5000,
    b'{"images":{"0":{"data":"AAAA"}}}',
    b'{"images":[{}]}',
    b'{"images":[null]}',
)
METHODS = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "POST", "TRACE", "BREW")
PATHS = (
    "/",
    "/ping",
    "/ping/",
    "/invocations/",
    "//invocations",
    "/invocations/../ping",
    "/endpoints//invocations",
    "/endpoints/%00/invocations",
    "/endpoints/a%2Fb/invocations",
    "/metrics",
    "/openapi.json",
    "/" + "a" * 3000,
    "/invocations?%FF=%FE",
    "/invocations?heatmap=true&heatmap=true",
    "/invocations?" + "a=1&" * 2000,
    "/%ZZ",
    "*",
)
FILE_NAMES = ("DOE_JANE.dcm", "../../DOE_JANE", "/DOE_JANE", "a/b/", "__MACOSX/._x", "DOE_JANE.zip", "é")
PART_NAMES = ('; filename="DOE_JANE.dcm"', "; filename*=UTF-8''DOE_JANE%00", '; filename="../DOE_JANE"', "")
PART_HEADERS = ("Content-Transfer-Encoding: base64\r\n", "X: " + "y" * 9000 + "\r\n", "broken\r\n")
ODD_HEADERS = (
    ("Content-Encoding", "gzip"),
    ("Expect", "100-continue"),
    ("X-Forwarded-For", "a" * 4000),
    ("Range", "bytes=0-1"),
    ("Transfer-Encoding", "identity"),
    *(("Content-Length", text) for text in ("-1", "x", "9" * 20, "0")),
    *(("Accept", text) for text in ACCEPTS),
    *((ATTRIBUTES, text) for text in ("a", "=", ",,;;", "laterality=L,laterality=R", "é=1", "view=" + "x" * 900)),
    *(("Content-Type", text) for text in ("", ";", "image", "image/", "IMAGE/PNG", "image/png\t; a", "é", "a/b; q")),
)
ENDPOINTS = ("/invocations", "/invocations", "/invocations", "/endpoints/breast/invocations")


@dataclass(frozen=True)
class Case:
    """One request; `wire` holds the raw bytes if an HTTP library would not send the request."""

    kind: str
    method: str = "POST"
    path: str = "/invocations"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    wire: bytes | None = None


@cache
def valid_images() -> tuple[bytes, ...]:
    """Return valid images: tiny ones of every kind that the reader knows, and phantoms that the model can score."""
    tiny = seeds(write_dicom, item, {"lossless": LOSSLESS, "lossy": LOSSY})
    return (*tiny, *(data for number in range(PHANTOMS // 3) for data in _phantom(number)))


def _phantom(number: int) -> list[bytes]:
    side = list(Laterality)[number % 2]
    phantom = make_film(number, label=list(Label)[number % 3], laterality=side, height=160, width=128)
    grey = (phantom.pixels >> 8).astype(np.uint8)
    return [
        b"P5\n# PatientName=%s %s\n128 160\n255\n" % (IDENTITY[0].encode(), IDENTITY[2].encode()) + grey.tobytes(),
        cv2.imencode(".png", grey)[1].tobytes(),
        write_dicom(phantom.pixels >> 4, bits=12, syntax=(EXPLICIT, LOSSLESS[-4])[number // 2], **person(number, side)),
    ]


def make(seed: int, number: int) -> Case:
    """Return the case for a seed and a number."""
    random = np.random.default_rng([seed, number])
    maker = MAKERS[int(random.integers(len(MAKERS)))]
    return maker(random)


def pick(random: Random, choices: Any) -> Any:
    """Return one of the choices, unchanged."""
    return choices[int(random.integers(len(choices)))]


def draw_image(random: Random, sound: float = 0.6) -> bytes:
    """Return an image, valid or mutated; `sound` is the fraction of phantoms, and the fraction of unmutated images."""
    count = len(valid_images())
    first = count - PHANTOMS if random.random() < sound else 0
    data = valid_images()[int(random.integers(first, count))]
    return data if random.random() < sound else mutate(data, random)


def kind_of(data: bytes) -> str:
    """Return the original type of a possibly mutated image, by its first bytes."""
    return PGM if data[:1] == b"P" else PNG if data[:1] == b"\x89" else DICOM


def image(random: Random) -> Case:
    """Return a case of one image with its own content type or another."""
    data = draw_image(random)
    kind = kind_of(data) if random.random() < 0.9 else pick(random, TYPES)
    return _post("image", random, kind, data)


def exam_json(random: Random) -> Case:
    """Return a case of an exam as JSON: valid, with wrong members, mutated as text, or not an exam."""
    if random.random() < 0.15:
        return _post("json", random, JSON, pick(random, JSON_TEXTS))
    exam: dict[str, Any] = {"images": [_member(random) for _ in range(_views(random))]}
    if random.random() < 0.3:
        exam["options"] = _options(random) if random.random() < 0.9 else pick(random, TEXTS)
    if random.random() < 0.05:
        exam[pick(random, TEXTS)] = [{}]
    body = json.dumps(exam).encode()
    return _post("json", random, JSON, mutate(body, random) if random.random() < 0.2 else body)


def _views(random: Random) -> int:
    """Return the number of images in an exam: mostly one to three, sometimes none or too many."""
    return int(random.integers(1, 4)) if random.random() < 0.95 else pick(random, (0, 17))


def _member(random: Random) -> Any:
    if random.random() < 0.02:
        return pick(random, (None, [], "AAAA", 1, {}))
    member: dict[str, Any] = {"data": base64.b64encode(draw_image(random, OF_EXAMS)).decode()}
    if random.random() < 0.04:
        member["data"] = pick(random, (*TEXTS, None, 7, ["AAAA"], "AAA", "A" * 100_000))
    if random.random() < 0.04:
        member["s3_uri"] = pick(
            random,
            (
                "s3://bucket/key",
                "s3://",
                "file:///etc/passwd",
                "http://169.254.169.254/",
                "s3://bucket/../other",
                1,
                *TEXTS,
            ),
        )
        if random.random() < 0.7:
            del member["data"]
    for name in ("laterality", "view"):
        if random.random() < 0.15:
            member[name] = pick(random, OPTIONS[name][:2] if random.random() < 0.9 else (*OPTIONS[name], None, 1))
    return member


def form(random: Random) -> Case:
    """Return a case of an exam as a form: valid, with unusual parts, or mutated as text."""
    boundary = "b0undary" if random.random() < 0.8 else pick(random, ("a" * 70, "a" * 400, "--", "x y", ""))
    parts = [_part(random, boundary) for _ in range(_views(random))]
    ending = b"" if random.random() < 0.1 else b"--%s--\r\n" % boundary.encode()
    body = b"".join(parts) + ending
    named = boundary if random.random() < 0.9 else pick(random, ("other", "", '"'))
    header = f"{FORM}; boundary={named}"
    if random.random() < 0.2:
        header = pick(random, (f'{FORM}; boundary="{named}"', f"{FORM}; charset=x; boundary={named}", FORM))
    return _post("form", random, header, mutate(body, random) if random.random() < 0.2 else body)


def mixed(random: Random) -> Case:
    """Return a case of an exam in any form of body whose images differ in patient, study, instance, view or kind."""
    count = int(random.integers(2, 6))
    images = [pick(random, relatives()) for _ in range(count)]
    if random.random() < 0.2:
        images.append(draw_image(random))
    kind = int(random.integers(3))
    if kind == 0:
        exam: dict[str, Any] = {"images": [{"data": base64.b64encode(data).decode()} for data in images]}
        if random.random() < 0.4:
            exam["options"] = {"priors": pick(random, OPTIONS["priors"])}
        return _post("mixed", random, JSON, json.dumps(exam).encode())
    if kind == 1:
        head = (
            'Content-Disposition: form-data; name="image"; filename="DOE_JANE.dcm"\r\nContent-Type: application/dicom'
        )
        parts = [b"--b0undary\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for data in images]
        return _post("mixed", random, f"{FORM}; boundary=b0undary", b"".join(parts) + b"--b0undary--\r\n")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for index, data in enumerate(images):
            packed.writestr(zipfile.ZipInfo(f"DOE_JANE/{index}.dcm"), data)
        packed.writestr(zipfile.ZipInfo("README.txt"), b"of Doe^Jane")
    return _post("mixed", random, ZIP, stream.getvalue())


def _part(random: Random, boundary: str) -> bytes:
    data = draw_image(random, OF_EXAMS)
    name = "image" if random.random() < 0.8 else pick(random, ("laterality", "", 'a"b', "x" * 3000))
    filename = PART_NAMES[0] if random.random() < 0.9 else pick(random, PART_NAMES)
    kind = kind_of(data) if random.random() < 0.9 else pick(random, (*TYPES, "text/plain", ""))
    extra = "" if random.random() < 0.9 else pick(random, PART_HEADERS)
    head = f'Content-Disposition: form-data; name="{name}"{filename}\r\nContent-Type: {kind}\r\n{extra}\r\n'
    return b"--%s\r\n" % boundary.encode() + head.encode() + data + b"\r\n"


def archive(random: Random) -> Case:
    """Return a case of an exam as an archive: valid, with unusual names or methods, bombs, or mutated bytes."""
    stream = io.BytesIO()
    common = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    methods = common if random.random() < 0.9 else (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", pick(random, methods)) as packed:
        warnings.simplefilter("ignore", UserWarning)  # zipfile warns about a duplicate name
        for index in range(_views(random)):
            name = f"DOE_JANE/{index}.dcm" if random.random() < 0.9 else pick(random, FILE_NAMES)
            packed.writestr(zipfile.ZipInfo(name), _content(random), pick(random, methods))
        if random.random() < 0.1:
            packed.comment = b"PID4711" * 30
    body = bytearray(stream.getvalue())
    if random.random() < 0.05 and len(body) > 10:
        body[6] |= 1  # marks the first file as encrypted
    return _post("zip", random, ZIP, mutate(bytes(body), random) if random.random() < 0.2 else bytes(body))


def _content(random: Random) -> bytes:
    if random.random() < 0.03:
        return b"P5 9999 9999 255\n" + bytes(int(random.integers(1, 16)) * 2**20)
    if random.random() < 0.03:
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("DOE_JANE.dcm", draw_image(random))
        return inner.getvalue()
    return draw_image(random, OF_EXAMS)


def odd_headers(random: Random) -> Case:
    """Return a case of an image with headers of proxies, faulty clients or attackers."""
    chosen = tuple(pick(random, ODD_HEADERS) for _ in range(int(random.integers(1, 4))))
    data = draw_image(random)
    named = {name.lower() for name, _ in chosen}
    headers = chosen if "content-type" in named else (("Content-Type", kind_of(data)), *chosen)
    return Case("headers", path=pick(random, ENDPOINTS), headers=headers, body=data)


def odd_path(random: Random) -> Case:
    """Return a case of any method on any path."""
    body = draw_image(random) if random.random() < 0.5 else b""
    return Case("path", pick(random, METHODS), pick(random, PATHS), (("Content-Type", PGM),), body)


def wire(random: Random) -> Case:
    """Return a case of bytes that were an HTTP request before mutation."""
    data = draw_image(random)
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: {kind_of(data)}\r\n"
    head += f"Content-Length: {len(data)}\r\n\r\n"
    if random.random() < 0.3:
        head = head.replace(f"Content-Length: {len(data)}", "Transfer-Encoding: chunked")
        data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
    return Case("wire", wire=mutate(head.encode(), random) + data)


MAKERS: tuple[Callable[[Random], Case], ...] = (
    *(image,) * 6,
    *(exam_json,) * 4,
    *(form,) * 3,
    *(archive,) * 3,
    *(mixed,) * 4,
    *(odd_headers,) * 2,
    odd_path,
    wire,
)


def _options(random: Random) -> dict[str, Any]:
    """Return some options, most of them valid."""
    known = list(OPTIONS) if random.random() < 0.1 else COMMON
    names = [pick(random, known) for _ in range(int(random.integers(0, 3)))]
    return {name: pick(random, OPTIONS[name][:2] if random.random() < 0.8 else OPTIONS[name]) for name in names}


def _post(kind: str, random: Random, content_type: str, body: bytes) -> Case:
    """Return a request with options, mostly valid, in its query or its attributes."""
    options = _options(random) if random.random() < 0.4 else {}
    accept = pick(random, (JSON, JSON, JSON, PNG, DICOM)) if random.random() < 0.9 else pick(random, ACCEPTS)
    headers = [("Content-Type", content_type), ("Accept", accept)]
    path = pick(random, ENDPOINTS)
    if random.random() < 0.5:
        headers.append((ATTRIBUTES, ",".join(f"{name}={value}" for name, value in options.items())))
    elif options:
        path += "?" + "&".join(f"{name}={quote(value)}" for name, value in options.items())
    return Case(kind, path=path, headers=tuple(headers), body=body)
