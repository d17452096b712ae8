"""The server's answers over HTTP: forms, options, refusals, many clients at once, and the log."""

import base64
import hashlib
import json
import socket
import struct
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import cv2
import numpy as np
import pytest

PGM, PNG, DICOM = "image/x-portable-graymap", "image/png", "application/dicom"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def test_json_answer(server: Any, phantom: Any) -> None:
    reply = server.invoke(phantom.pgm, **{ATTRIBUTES: "laterality=R,view=MLO"})
    answer = reply.json
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert answer["schema_version"] == 2 and "research use only" in answer["notice"]
    assert set(answer["probabilities"]) == {"normal", "benign", "malignant"}
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert answer["malignancy_score"] == pytest.approx(100 * answer["probabilities"]["malignant"])
    assert {name: value for name, value in answer["decision"].items() if "interval" not in name} == {
        "operating_point": "sensitivity",
        "threshold": 1e-9,
        "finding": "suspicious",
        "level": "image",
        "n": 200,
        "positives": 20,
        "sensitivity": 0.92,
        "specificity": 0.4,
        "recall_rate": 0.5,
        "prevalence": 0.1,
    }
    assert answer["decision"]["sensitivity_interval"] == pytest.approx([0.82, 1.0])
    assert answer["prevalence"] == {"value": None, "of": "validation", "level": "image"}
    assert (answer["image"]["rows"], answer["image"]["columns"]) == phantom.pixels.shape
    assert (answer["image"]["laterality"], answer["image"]["view"]) == ("R", "MLO")
    assert answer["heatmap"] is None
    assert answer["request_id"] == reply.headers["x-amzn-requestid"]


def test_the_format_of_the_same_image_does_not_matter(server: Any, phantom: Any) -> None:
    answers = [server.invoke(phantom.pgm).json, server.invoke(phantom.png, PNG).json]
    assert answers[0]["probabilities"] == answers[1]["probabilities"]
    assert answers[0]["image"]["quality"] == answers[1]["image"]["quality"]
    assert answers[0]["image"]["sha256"] != answers[1]["image"]["sha256"]


def test_operating_point_decides(server: Any, phantom: Any) -> None:
    decision = server.invoke(phantom.pgm, **{ATTRIBUTES: "operating_point=specificity"}).json["decision"]
    assert (decision["operating_point"], decision["finding"]) == ("specificity", "not_suspicious")


def test_heatmap_and_overlay_have_the_image_s_size(server: Any, phantom: Any) -> None:
    heatmap = server.invoke(phantom.pgm, path="/invocations?heatmap=true&target=benign").json["heatmap"]
    heat = cv2.imdecode(np.frombuffer(base64.b64decode(heatmap["png"]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert heat.shape == phantom.pixels.shape == (heatmap["rows"], heatmap["columns"])
    assert heatmap["target"] == "benign"
    for region in heatmap["regions"]:
        peak = heat[region["peak_y"], region["peak_x"]]
        assert peak == heat[region["top"] : region["bottom"], region["left"] : region["right"]].max()
    reply = server.invoke(phantom.pgm, Accept="image/png")
    overlay = cv2.imdecode(np.frombuffer(reply.body, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (reply.headers["content-type"], overlay.shape) == (PNG, (*phantom.pixels.shape, 3))
    assert "malignancy_score=" in reply.headers[ATTRIBUTES.lower()]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json;q=0.1, image/png", PNG),
        ("image/*", PNG),
    ],
)
def test_accept_chooses_the_form(server: Any, phantom: Any, accept: str, expected: str) -> None:
    assert server.invoke(phantom.pgm, Accept=accept).headers["content-type"] == expected


def empty_png(rows: int, columns: int) -> bytes:
    head = struct.pack(">IIBBBBB", columns, rows, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "kind", "headers", "status", "code"),
    [
        (b"P5 9 9 255 ", "text/plain", {}, 415, "unsupported_type"),
        (b"P5 9 9 255 ", "", {}, 415, "unsupported_type"),
        (b"P5 9 9 255 ", PNG, {}, 415, "content_type_mismatch"),
        (b"P5 9 9 255 ", PGM, {"Accept": "text/html"}, 406, "not_acceptable"),
        (b"P5 9 9 255 ", PGM, {"Accept": "image/png;q=0"}, 406, "not_acceptable"),
        (b"P5 9 9 255 ", PGM, {ATTRIBUTES: "lateralty=L"}, 400, "bad_option"),
        (b"P5 9 9 255 ", PGM, {ATTRIBUTES: "laterality=left"}, 400, "bad_option"),
        (b"P5 9 9 255 ", PGM, {ATTRIBUTES: "laterality"}, 400, "bad_option"),
        (b"P5 9 9 255 ", PGM, {ATTRIBUTES: "view=CC,view=MLO"}, 400, "bad_option"),
        (b"P5 9 9 255 ", PGM, {}, 422, "corrupt_image"),
        (b"", PGM, {}, 422, "unsupported_image"),
        (b"this is no film", PGM, {}, 422, "unsupported_image"),
        (empty_png(64, 64), PNG, {}, 422, "corrupt_image"),
        (b"P5 64 64 255\n" + bytes(64 * 64), PGM, {}, 422, "no_breast"),
        (bytes(2_000_001), PGM, {}, 413, "too_large"),
        (b"P5 9000 9000 255\n", PGM, {}, 413, "image_too_large"),
        (empty_png(9000, 9000), PNG, {}, 413, "image_too_large"),
    ],
)
def test_refusals(server: Any, body: bytes, kind: str, headers: dict[str, str], status: int, code: str) -> None:
    reply = server.invoke(body, kind, **headers)
    assert (reply.status, reply.code) == (status, code)
    assert set(reply.json) == {"error"} and set(reply.json["error"]) == {"code", "message"}
    assert reply.headers["content-type"] == "application/json"


def test_a_body_without_announced_length_is_bounded_too(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(21):
            connection.sendall(b"186a0\r\n" + bytes(100_000) + b"\r\n")
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_a_large_body_can_be_sent_to_its_end_and_the_refusal_read(server: Any) -> None:
    assert server.invoke(bytes(20_000_000)).code == "too_large"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("POST", "/endpoints/a/b/invocations", 404, "not_found"),
        ("GET", "/invocations", 405, "method_not_allowed"),
        ("POST", "/ping", 405, "method_not_allowed"),
    ],
)
def test_unknown_paths_and_methods(server: Any, method: str, path: str, status: int, code: str) -> None:
    reply = server.request(method, path)
    assert (reply.status, reply.code) == (status, code)


def test_errors_below_endpoints_look_as_aws_makes_them(server: Any) -> None:
    reply = server.invoke(b"P5", path="/endpoints/breast/invocations")
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (424, "ModelError")
    assert reply.json["OriginalStatusCode"] == 422
    assert json.loads(reply.json["OriginalMessage"])["error"]["code"] == "corrupt_image"


def test_the_sagemaker_runtime_client_of_boto3(server: Any, phantom: Any) -> None:
    client = boto3.client(
        "sagemaker-runtime",
        endpoint_url=server.url,
        region_name="eu-central-1",
        aws_access_key_id="x",
        aws_secret_access_key="y",
    )
    try:
        good = client.invoke_endpoint(
            EndpointName="breast", ContentType=PGM, Body=phantom.pgm, CustomAttributes="laterality=R,view=MLO"
        )
        assert json.loads(good["Body"].read())["image"]["view"] == "MLO"
        assert "malignancy_score=" in good["CustomAttributes"]
        with pytest.raises(client.exceptions.ModelError) as caught:
            client.invoke_endpoint(EndpointName="breast", ContentType=PGM, Body=b"P5")
        assert caught.value.response["OriginalStatusCode"] == 422
    finally:
        client.close()


@pytest.mark.parametrize("kind", ["application/json", "application/zip", "multipart/form-data; boundary=x"])
def test_exams_reach_the_workers(server: Any, kind: str) -> None:
    reply = server.invoke(b"this is no exam", kind)
    assert reply.status in (400, 422) and reply.code != "unsupported_type"


def test_many_at_once_get_the_same_answer(server: Any, phantom: Any) -> None:
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: server.invoke(phantom.pgm), range(16)))
    assert Counter(reply.status for reply in replies) == {200: 16}
    assert len({json.dumps(reply.json["probabilities"]) for reply in replies}) == 1
    assert len({reply.json["request_id"] for reply in replies}) == 16


def test_each_client_gets_the_answer_to_its_own_image_while_others_go(server: Any, phantom: Any) -> None:
    bodies = [phantom.pgm[:-1] + bytes([number]) for number in range(24)]

    def ask(number: int) -> bool:
        if number % 3 == 0:
            with server.unfinished(bodies[number] + b" "):
                return True
        if number % 3 == 1:
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
                head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: {PGM}\r\n"
                connection.sendall(f"{head}Content-Length: {len(phantom.pgm)}\r\n\r\n".encode() + bodies[number])
                return True
        reply = server.invoke(bodies[number])
        return bool(reply.json["image"]["sha256"] == hashlib.sha256(bodies[number]).hexdigest())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(24)))


def test_log_has_a_line_for_each_request_and_nobody_in_it(server: Any, phantom: Any) -> None:
    text = chunk(b"tEXt", b"PatientName\0DOE^JANE")
    named = phantom.png[:33] + text + phantom.png[33:]
    reply = server.invoke(named, PNG, X_Amzn_SageMaker_Inference_Id="DOE^JANE", User_Agent="DOE^JANE")
    refused = [
        server.invoke(named[:-30], PNG),
        server.invoke(phantom.pgm, **{ATTRIBUTES: "patient=DOE^JANE"}),
        server.invoke(phantom.pgm, "text/DOE^JANE"),
        server.invoke(phantom.pgm, path="/endpoints/DOE^JANE/invocations?DOE^JANE=1"),
        server.request("GET", "/DOE^JANE"),
    ]
    assert reply.status == 200 and all(400 <= one.status < 500 for one in refused)
    lines = {line["request_id"]: line for line in server.lines() if line["event"] == "request"}
    line = lines[reply.json["request_id"]]
    assert (line["code"], line["status"], line["bytes"]) == ("ok", 200, len(named))
    assert line["sha256"] == reply.json["image"]["sha256"]
    assert line["probabilities"]["malignant"] == pytest.approx(reply.json["probabilities"]["malignant"], abs=1e-6)
    assert {"read", "preprocess", "infer"} <= set(line["ms"])
    assert {"bad_option", "corrupt_image", "unsupported_type", "not_found"} <= {line["code"] for line in lines.values()}
    for log in (server.stdout, server.stderr):
        assert "DOE" not in log.read_text() and "JANE" not in log.read_text()
