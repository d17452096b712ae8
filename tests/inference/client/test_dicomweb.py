"""A study from a DICOMweb server and results back to it: Orthanc where it is installed, and the tests' own server."""

import json
import socket
import threading
import time
from typing import Any

import pytest

from mammopipe.inference.client.dicomweb import DicomWeb, result_files
from mammopipe.inference.client.errors import DeadlineError, EndpointUnreachableError, RequestRefusedError
from mammopipe.inference.dicom.results import all_results
from mammopipe.processing.errors import ConfigError
from tests.inference.client.dicomweb_archive import (
    DICOM_JSON,
    PARTS,
    Archive,
    free_port,
    report,
    study_of,
)
from tests.inference.dicom.dicom_examples import changed, exam, instances, opened


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


def as_part(data: bytes) -> bytes:
    return b"--part\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--part--"


@pytest.mark.parametrize(
    ("service", "reply", "message"),
    [
        ("qido", ("401 Unauthorized", "text/html", b"<html>"), "QIDO-RS: the server answered 401"),
        ("qido", ("200 OK", "text/html", b"<html>"), "QIDO-RS: "),
        ("qido", ("200 OK", DICOM_JSON, b"[null]"), "QIDO-RS: not a DICOMweb answer"),
        ("wado", ("404 Not Found", DICOM_JSON, b""), "WADO-RS: the server answered 404"),
        ("wado", ("200 OK", "text/html", b"<html>"), "WADO-RS: not a DICOMweb answer"),
        ("wado", ("200 OK", PARTS, b"--part--"), "WADO-RS: not a DICOMweb answer"),
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
