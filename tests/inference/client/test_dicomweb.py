"""A study from a DICOMweb server and results back to it: against Orthanc where it is installed, and against a server of
the test's own, which answers as PS3.18 says."""

import email.parser
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pydicom
import pytest

from mammopipe.inference.client.dicomweb import DicomWeb, result_files
from mammopipe.inference.client.errors import DeadlineError, EndpointUnreachableError, RequestRefusedError
from mammopipe.inference.dicom.results import all_results
from mammopipe.pipelines import cli
from mammopipe.processing.errors import ConfigError
from tests.inference.dicom.dicom_examples import changed, exam, instances, opened, phantom_exams
from tests.support.standin import container

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


@pytest.fixture
def archive() -> Iterator[tuple[str, Archive]]:
    held = Archive()
    server = make_server("127.0.0.1", 0, held, handler_class=Quiet)  # type: ignore[arg-type]
    listener = threading.Thread(target=server.serve_forever)
    listener.start()
    yield f"http://127.0.0.1:{server.server_port}", held
    server.shutdown()
    listener.join()
    server.server_close()


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("Orthanc")
    if program is None or PLUGIN is None:
        pytest.skip("Orthanc with its DICOMweb plugin (Debian's orthanc, orthanc-dicomweb) is not installed")
    folder = tmp_path_factory.mktemp("orthanc")
    ports = [free_port(), free_port()]
    settings = {
        "HttpPort": ports[0],
        "DicomPort": ports[1],
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, folder / "orthanc.json"], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{ports[0]}/dicom-web"
    deadline = time.monotonic() + 60
    while not answers(f"{url}/studies"):
        assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
        time.sleep(0.05)
    yield url
    process.terminate()
    process.wait(30)


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


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    """The images of one study, each with its view and its number."""
    return [
        changed(
            data,
            SOPClassUID=opened(data).file_meta.MediaStorageSOPClassUID,
            ViewPosition="MLO",
            InstanceNumber=number,
            PatientName="DOE^JANE",
        )
        for number, data in enumerate(phantom_exams()[0], 1)
    ]


def study_of(files: list[bytes]) -> str:
    return str(opened(files[0]).StudyInstanceUID)


def test_results_are_stored_beside_the_images_and_not_judged_again(
    archive: tuple[str, Archive], files: list[bytes]
) -> None:
    url, held = archive
    held.files = list(reversed(files))
    round_trip(url, files)
    assert len(held.files) == len(files) + 4


def test_a_round_trip_through_orthanc(orthanc: str, files: list[bytes]) -> None:
    DicomWeb(orthanc).store(files, study_of(files))
    round_trip(orthanc, files)


def round_trip(url: str, files: list[bytes]) -> None:
    pacs, study = DicomWeb(url), study_of(files)
    read = pacs.mammograms(study)
    assert [opened(data).SOPInstanceUID for data in read] == instances(files)
    for data, original in zip(read, files, strict=True):
        assert opened(data).PixelData == opened(original).PixelData
        assert opened(data).file_meta.TransferSyntaxUID == opened(original).file_meta.TransferSyntaxUID
    overlay = changed(files[0], SOPInstanceUID="2.25.7", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    results = result_files(all_results(files, exam(files), [overlay]))
    pacs.store(results, study)
    assert [opened(data).SOPInstanceUID for data in pacs.mammograms(study)] == instances(files)


def test_the_command_asks_about_a_study_and_stores_the_results(
    archive: tuple[str, Archive],
    files: list[bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, held = archive
    held.files = list(files)
    monkeypatch.setenv("MAMMOPIPE_DICOMWEB_TOKEN", "secret")
    with container() as endpoint:
        endpoint.replies = [(200, all_results(files, exam(files), []))]
        words = ["invoke", "--dicomweb", url, "--study", study_of(files), "--store", "--endpoint", endpoint.url]
        assert cli.main(words) == 0
        sent = endpoint.requests[0]
    assert sent[1]["accept"] == "application/zip" and sent[1]["content-type"] == "application/zip"
    kinds = [opened(data).SOPClassUID.name for data in held.files[len(files) :]]
    assert kinds == [
        "Comprehensive SR Storage",
        "Mammography CAD SR Storage",
        "Grayscale Softcopy Presentation State Storage",
    ]
    said = capsys.readouterr().out
    assert "stored 3 results in the study" in said and "refer to reader" in said
    assert "DOE" not in said and {one.get("HTTP_AUTHORIZATION") for one in held.headers} == {"Bearer secret"}


def test_the_command_without_store_leaves_the_study_as_it_is(
    archive: tuple[str, Archive], files: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    url, held = archive
    held.files = list(files)
    with container() as endpoint:
        words = ["invoke", "--dicomweb", url, "--study", study_of(files), "--endpoint", endpoint.url, "--json"]
        assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["breasts"] and len(held.files) == len(files)


def test_a_study_without_mammograms_is_refused_by_its_classes(archive: tuple[str, Archive], files: list[bytes]) -> None:
    url, held = archive
    held.files = [changed(files[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.1.2.1")]
    with pytest.raises(RequestRefusedError, match=r"no_images: .*1\.2\.840\.10008\.5\.1\.4\.1\.1\.1\.2\.1"):
        DicomWeb(url).mammograms(study_of(files))
    with pytest.raises(RequestRefusedError, match="its classes are none"):
        DicomWeb(url).mammograms("1.2.3")


def test_what_the_server_does_not_store_is_an_error(archive: tuple[str, Archive], files: list[bytes]) -> None:
    url, held = archive
    held.fails = 1
    with pytest.raises(
        EndpointUnreachableError, match=r"1 of 2 results are not stored: result 1 .*: failure reason 272"
    ):
        DicomWeb(url).store(files[:2], study_of(files))


DICOM_JSON, PARTS = "application/dicom+json", 'multipart/related; type="application/dicom"; boundary=part'


def as_part(data: bytes) -> bytes:
    return b"--part\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--part--"


@pytest.mark.parametrize(
    ("service", "reply", "message"),
    [
        ("qido", ("401 Unauthorized", "text/html", b"<html>"), "QIDO-RS: the server answered 401"),
        ("qido", ("200 OK", "text/html", b"<html>"), "QIDO-RS: "),
        ("qido", ("200 OK", DICOM_JSON, b"[null]"), "QIDO-RS: no DICOMweb answer"),
        ("wado", ("404 Not Found", DICOM_JSON, b""), "WADO-RS: the server answered 404"),
        ("wado", ("200 OK", "text/html", b"<html>"), "WADO-RS: no DICOMweb answer"),
        ("wado", ("200 OK", PARTS, b"--part--"), "WADO-RS: no DICOMweb answer"),
    ],
)
def test_an_answer_that_is_none_is_named_by_its_service(
    archive: tuple[str, Archive], files: list[bytes], service: str, reply: tuple[str, str, bytes], message: str
) -> None:
    url, held = archive
    held.files, held.replies = files, {service: reply}
    with pytest.raises(EndpointUnreachableError, match=message) as caught:
        DicomWeb(url).mammograms(study_of(files))
    assert study_of(files) not in str(caught.value)


@pytest.mark.parametrize("sent", ["another", "truncated"])
def test_another_instance_than_the_one_asked_for_is_refused(
    archive: tuple[str, Archive], files: list[bytes], sent: str
) -> None:
    url, held = archive
    data = files[-1] if sent == "another" else files[0][:400]
    held.files, held.replies = files, {"wado": ("200 OK", PARTS, as_part(data))}
    with pytest.raises(EndpointUnreachableError, match="WADO-RS"):
        DicomWeb(url).mammograms(study_of(files))


@pytest.mark.parametrize("number", ["1.0", "x7", None])
def test_an_instance_number_that_is_no_integer_is_no_obstacle(
    archive: tuple[str, Archive], files: list[bytes], number: str | None
) -> None:
    url, held = archive
    held.files = files
    found = [held.qido(opened(data)) for data in files]
    found[0]["00200013"]["Value"] = [number]
    held.replies = {"qido": ("200 OK", DICOM_JSON, json.dumps(found).encode())}
    assert sorted(opened(data).SOPInstanceUID for data in DicomWeb(url).mammograms(study_of(files))) == sorted(
        instances(files)
    )


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"00081198": {"vr": "SQ", "Value": [{"00081150": {"vr": "UI", "Value": ["1.2"]}}]}}, "2 of 2 .*not confirmed"),
        ({"0008119A": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}, "2 of 2 results"),
        ({"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2"]}}]}}, "2 of 2 results"),
        ({}, "2 of 2 results"),
    ],
)
@pytest.mark.parametrize("kind", [DICOM_JSON, "application/dicom+json; charset=utf-8", "Application/DICOM+JSON"])
@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "409 Conflict"])
def test_a_result_whose_storage_is_not_confirmed_is_an_error(
    archive: tuple[str, Archive], files: list[bytes], stored: dict[str, Any], message: str, kind: str, status: str
) -> None:
    url, held = archive
    held.replies = {"stow": (status, kind, json.dumps(stored).encode())}
    with pytest.raises(EndpointUnreachableError, match=message):
        DicomWeb(url).store(files[:2], study_of(files))


@pytest.mark.parametrize("kind", [DICOM_JSON, "application/dicom+json;charset=UTF-8"])
@pytest.mark.parametrize("status", ["202 Accepted", "409 Conflict"])
def test_what_is_not_stored_is_named_by_its_place_and_class(
    archive: tuple[str, Archive], files: list[bytes], kind: str, status: str
) -> None:
    url, held = archive
    body = json.dumps(report(instances(files[:2]), fails=1)).encode()
    held.replies = {"stow": (status, kind, body)}
    with pytest.raises(EndpointUnreachableError) as caught:
        DicomWeb(url).store(files[:2], study_of(files))
    assert str(caught.value).startswith("dicomweb_store: 1 of 2 results are not stored: result 1 (Digital Mammography")
    assert str(caught.value).endswith("): failure reason 272")
    assert not any(uid in str(caught.value) for uid in (study_of(files), *instances(files)))


@pytest.mark.parametrize("reply", [("409 Conflict", "text/html", b"<html>"), ("409 Conflict", DICOM_JSON, b"[")])
def test_a_refusal_without_a_report_is_named_by_its_status(
    archive: tuple[str, Archive], files: list[bytes], reply: tuple[str, str, bytes]
) -> None:
    archive[1].replies = {"stow": reply}
    with pytest.raises(EndpointUnreachableError, match="STOW-RS: the server answered 409"):
        DicomWeb(archive[0]).store(files[:1], study_of(files))


@pytest.mark.parametrize("parameters", ["", "; charset=utf-8"])
def test_a_confirmed_storage_is_none(archive: tuple[str, Archive], files: list[bytes], parameters: str) -> None:
    url, held = archive
    held.report_type = DICOM_JSON + parameters
    DicomWeb(url).store(files[:2], study_of(files))
    assert len(held.files) == 2


def test_the_deadline_bounds_the_reading_of_a_study(files: list[bytes]) -> None:
    """A server that accepts connections and sends a byte now and then."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gone = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                while not gone.wait(0.02):
                    connection.sendall(b" ")

        dripping = threading.Thread(target=drip)
        dripping.start()
        pacs = DicomWeb(f"http://127.0.0.1:{listener.getsockname()[1]}", deadline_seconds=0.2)
        begun = time.monotonic()
        with pytest.raises(DeadlineError, match="no answer within 0.2 seconds"):
            pacs.mammograms("1.2.3")
        assert time.monotonic() - begun < 5
        gone.set()
        dripping.join()


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("http://pacs.example/\n", {}, "dicomweb="),
        ("http://pacs example", {}, "dicomweb="),
        ("http://", {}, "dicomweb="),
        ("http://pacs.example:99999", {}, "dicomweb="),
        ("http://pacs.example", {"headers": {"Authorization": "Bearer x\n"}}, "header 'Authorization'"),
        ("http://pacs.example", {"headers": {"A b": "x"}}, "header 'A b'"),
        ("http://pacs.example", {"deadline_seconds": float("inf")}, "deadline_seconds=inf"),
        ("http://pacs.example", {"timeout_seconds": 0}, "timeout_seconds=0"),
    ],
)
def test_what_no_request_can_carry_is_a_usage_error(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        DicomWeb(url, **options)
    assert "Bearer" not in str(caught.value)


def test_a_server_that_is_not_there_is_named_without_the_study() -> None:
    with pytest.raises(EndpointUnreachableError, match="QIDO-RS: ") as caught:
        DicomWeb(f"http://127.0.0.1:{free_port()}", timeout_seconds=1).mammograms("1.2.3.4")
    assert "1.2.3.4" not in str(caught.value)


@pytest.mark.parametrize("study", ["", "1.2.x", "1.2/../3", "*", "..", "1..2", "1.2.", ".1", "1.2\n", "1." * 32 + "1"])
def test_what_is_no_uid_is_a_usage_error(archive: tuple[str, Archive], study: str) -> None:
    with pytest.raises(ConfigError, match="study="):
        DicomWeb(archive[0]).mammograms(study)
    assert archive[1].headers == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--study", "1.2"], "--study and --store need --dicomweb URL"),
        ([], "invoke needs FILEs"),
        (["--dicomweb", "http://127.0.0.1:9"], "--dicomweb needs --study UID"),
        (["a.dcm", "--dicomweb", "http://127.0.0.1:9", "--study", "1.2"], "FILEs cannot be given with --dicomweb"),
        (["--dicomweb", "pacs.example", "--study", "1.2"], "must be the http:// or https:// URL"),
    ],
)
def test_arguments_that_cannot_be_meant(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["invoke", *words, "--endpoint", "http://127.0.0.1:9"]) == 2
    assert message in capsys.readouterr().err


BASE = "boto3 botocore numpy tqdm pydantic pydantic_core pydantic_settings annotated_types typing_extensions"
BASE += " typing_inspection jmespath s3transfer urllib3 dateutil six certifi dotenv mammopipe"
BASE_INSTALL = f"""
import importlib.abc, sys

class OnlyTheBaseInstall(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names and top not in {BASE.split()!r} and not top.startswith("_"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, OnlyTheBaseInstall())
from mammopipe.pipelines.cli import console
console()
"""


@pytest.mark.parametrize("words", [[], ["--dicomweb", "http://127.0.0.1:9", "--study", "1.2"]])
def test_the_command_works_with_the_base_install_or_names_the_extra(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "left.pgm").write_bytes(b"P5\n2 1\n255\n\x01\x02")
    with container() as endpoint:
        files = [] if words else ["left.pgm"]
        command = [sys.executable, "-c", BASE_INSTALL, "invoke", *files, *words, "--endpoint", endpoint.url]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    if words:
        assert done.returncode == 2 and "pip install 'mammopipe[dicomweb]'" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert "tables need rich (pip install 'mammopipe[pipelines]')" in done.stderr
    assert json.loads(done.stdout[: done.stdout.rindex("}") + 1])["malignancy_score"] == 70.0
    assert (tmp_path / "left-overlay.png").is_file()
