"""A DICOMweb server for tests that answers as PS3.18 says."""

import email.parser
import json
import socket
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

import pydicom

from tests.inference.dicom.dicom_examples import opened

PLUGINS = [path for path in map(Path, ("/usr/share/orthanc/plugins", "/usr/lib/orthanc")) if path.is_dir()]


PLUGIN = next((path for folder in PLUGINS for path in folder.glob("libOrthancDicomWeb.so*")), None)


Start = Callable[..., Iterable[bytes]]


@dataclass
class Archive:
    """A DICOMweb server over files in memory."""

    files: list[bytes] = field(default_factory=list)
    fails: int = 0
    """Instances of a STOW-RS request that are not stored."""
    report_type: str = "application/dicom+json"
    """Media type of the answer to a STOW-RS request."""
    replies: dict[str, tuple[str, str, bytes]] = field(default_factory=dict)
    """Status, media type and body that replace the answer to `qido`, `wado` or `stow`."""
    headers: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.headers.append({key: str(value) for key, value in environ.items() if key.startswith("HTTP_")})
        path = environ["PATH_INFO"].strip("/").split("/")
        service = "stow" if environ["REQUEST_METHOD"] == "POST" else "qido" if path[2:] == ["instances"] else "wado"
        if service in self.replies:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status, kind, body = self.replies[service]
            start(status, [("Content-Type", kind)])
            return [body]
        if environ["REQUEST_METHOD"] == "POST":
            return self.stow(environ, start)
        study, held = path[1], [opened(data) for data in self.files]
        if path[2:] == ["instances"]:
            found = [one for one in held if one.StudyInstanceUID == study]
            body = json.dumps([self.qido(one) for one in found]).encode()
            start("200 OK" if found else "204 No Content", [("Content-Type", "application/dicom+json")])
            return [body if found else b""]
        [data] = [data for data, one in zip(self.files, held, strict=True) if one.SOPInstanceUID == path[5]]
        start("200 OK", [("Content-Type", 'multipart/related; type="application/dicom"; boundary=part')])
        return [b"--part\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--part--"]

    def qido(self, one: pydicom.Dataset) -> dict[str, Any]:
        tags = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "InstanceNumber")
        found = {keyword: one.get(keyword, one.file_meta.get(f"MediaStorage{keyword}")) for keyword in tags}
        return {
            f"{pydicom.tag.Tag(keyword):08X}": {"vr": "UI", "Value": [str(value)]}
            for keyword, value in found.items()
            if value is not None
        }

    def stow(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        head = f"Content-Type: {environ['CONTENT_TYPE']}\r\n\r\n".encode()
        message = email.parser.BytesParser().parsebytes(head + body)
        parts = [bytes(part.get_payload(decode=True)) for part in message.get_payload()]  # type: ignore[arg-type, union-attr]
        self.files += parts[self.fails :]
        start("202 Accepted" if self.fails else "200 OK", [("Content-Type", self.report_type)])
        return [json.dumps(report([opened(part).SOPInstanceUID for part in parts], self.fails)).encode()]


def report(instances: list[str], fails: int) -> dict[str, Any]:
    """Return the report of a storage, of which the first instances failed (PS3.18, table I.2-1)."""

    def items(uids: list[str], **more: Any) -> dict[str, Any]:
        return {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}} | more for uid in uids]}

    reason = {"00081197": {"vr": "US", "Value": [272]}}
    return {"00081198": items(instances[:fails], **reason), "00081199": items(instances[fails:])}


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status) in (200, 204)
    except OSError:
        return False


def study_of(files: list[bytes]) -> str:
    return str(opened(files[0]).StudyInstanceUID)


DICOM_JSON, PARTS = "application/dicom+json", 'multipart/related; type="application/dicom"; boundary=part'
