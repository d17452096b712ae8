import base64
import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import cv2
import numpy as np
import pytest

from mammopipe.processing.files import write_bytes

PGM, PNG, DICOM = "image/x-portable-graymap", "image/png", "application/dicom"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def test_json_answer(server: Any, films: Any) -> None:
    reply = server.invoke(films.pgm, **{ATTRIBUTES: "laterality=R,view=MLO"})
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
    assert (answer["image"]["rows"], answer["image"]["columns"]) == films.pixels.shape
    assert (answer["image"]["laterality"], answer["image"]["view"]) == ("R", "MLO")
    assert answer["heatmap"] is None
    assert answer["request_id"] == reply.headers["x-amzn-requestid"]


def test_the_format_of_the_same_image_does_not_matter(server: Any, films: Any) -> None:
    answers = [server.invoke(films.pgm).json, server.invoke(films.png, PNG).json]
    assert answers[0]["probabilities"] == answers[1]["probabilities"]
    assert answers[0]["image"]["quality"] == answers[1]["image"]["quality"]
    assert answers[0]["image"]["sha256"] != answers[1]["image"]["sha256"]


def test_operating_point_decides(server: Any, films: Any) -> None:
    decision = server.invoke(films.pgm, **{ATTRIBUTES: "operating_point=specificity"}).json["decision"]
    assert (decision["operating_point"], decision["finding"]) == ("specificity", "not_suspicious")


def test_heatmap_and_overlay_have_the_image_s_size(server: Any, films: Any) -> None:
    heatmap = server.invoke(films.pgm, path="/invocations?heatmap=true&target=benign").json["heatmap"]
    heat = cv2.imdecode(np.frombuffer(base64.b64decode(heatmap["png"]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert heat.shape == films.pixels.shape == (heatmap["rows"], heatmap["columns"])
    assert heatmap["target"] == "benign"
    for region in heatmap["regions"]:
        peak = heat[region["peak_y"], region["peak_x"]]
        assert peak == heat[region["top"] : region["bottom"], region["left"] : region["right"]].max()
    reply = server.invoke(films.pgm, Accept="image/png")
    overlay = cv2.imdecode(np.frombuffer(reply.body, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (reply.headers["content-type"], overlay.shape) == (PNG, (*films.pixels.shape, 3))
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
def test_accept_chooses_the_form(server: Any, films: Any, accept: str, expected: str) -> None:
    assert server.invoke(films.pgm, Accept=accept).headers["content-type"] == expected


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


def test_the_sagemaker_runtime_client_of_boto3(server: Any, films: Any) -> None:
    client = boto3.client(
        "sagemaker-runtime",
        endpoint_url=server.url,
        region_name="eu-central-1",
        aws_access_key_id="x",
        aws_secret_access_key="y",
    )
    try:
        good = client.invoke_endpoint(
            EndpointName="breast", ContentType=PGM, Body=films.pgm, CustomAttributes="laterality=R,view=MLO"
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


def test_many_at_once_get_the_same_answer(server: Any, films: Any) -> None:
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: server.invoke(films.pgm), range(16)))
    assert Counter(reply.status for reply in replies) == {200: 16}
    assert len({json.dumps(reply.json["probabilities"]) for reply in replies}) == 1
    assert len({reply.json["request_id"] for reply in replies}) == 16


def test_each_client_gets_the_answer_to_its_own_image_while_others_go(server: Any, films: Any) -> None:
    bodies = [films.pgm[:-1] + bytes([number]) for number in range(24)]

    def ask(number: int) -> bool:
        if number % 3 == 0:
            with server.unfinished(bodies[number] + b" "):
                return True
        if number % 3 == 1:
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
                head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: {PGM}\r\n"
                connection.sendall(f"{head}Content-Length: {len(films.pgm)}\r\n\r\n".encode() + bodies[number])
                return True
        reply = server.invoke(bodies[number])
        return bool(reply.json["image"]["sha256"] == hashlib.sha256(bodies[number]).hexdigest())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(24)))


def test_log_has_a_line_for_each_request_and_nobody_in_it(server: Any, films: Any) -> None:
    text = chunk(b"tEXt", b"PatientName\0DOE^JANE")
    named = films.png[:33] + text + films.png[33:]
    reply = server.invoke(named, PNG, X_Amzn_SageMaker_Inference_Id="DOE^JANE", User_Agent="DOE^JANE")
    refused = [
        server.invoke(named[:-30], PNG),
        server.invoke(films.pgm, **{ATTRIBUTES: "patient=DOE^JANE"}),
        server.invoke(films.pgm, "text/DOE^JANE"),
        server.invoke(films.pgm, path="/endpoints/DOE^JANE/invocations?DOE^JANE=1"),
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


def test_full_server_answers_503_until_there_is_room(narrow_server: Any, films: Any) -> None:
    server = narrow_server
    with server.unfinished(films.pgm) as finish:
        reply = server.invoke(films.pgm)
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "busy", "1")
        assert server.ping() == 200
        assert finish().status == 200
    assert server.invoke(films.pgm).status == 200


def test_a_request_over_its_time_is_given_up(narrow_server: Any, films: Any) -> None:
    with narrow_server.unfinished(films.pgm) as finish:
        refusal = finish(early=True)
        assert (refusal.status, refusal.code) == (504, "time_limit")
    assert narrow_server.invoke(films.pgm).status == 200


def test_sigterm_finishes_what_runs_and_refuses_what_comes(
    own_server: Callable[..., Any], films: Any, wait_for: Callable[..., Any]
) -> None:
    server = own_server()
    with server.unfinished(films.pgm) as finish:
        wait_for(lambda: server.ping() == 200)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.ping() == 503)
        late = server.invoke(films.pgm)
        assert (late.status, late.code) == (503, "stopping")
        assert finish().status == 200
    assert server.process.wait(30) == 0
    assert server.lines()[-1]["event"] == "stopped"
    assert server.stderr.read_text() == ""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_under_load_loses_none(
    own_server: Callable[..., Any], films: Any, wait_for: Callable[..., Any], workers: str
) -> None:
    server = own_server(MAMMOPIPE_WORKERS=workers)

    def load(_: int) -> list[int]:
        statuses: list[int] = []
        while 503 not in statuses:
            try:
                statuses.append(server.invoke(films.pgm).status)
            except ConnectionRefusedError:  # never taken on
                break
        return statuses

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(load, index) for index in range(4)]
        wait_for(lambda: sum(line["event"] == "request" for line in server.lines()) >= 8)
        server.process.send_signal(signal.SIGTERM)
        statuses = Counter(status for client in clients for status in client.result())
    assert server.process.wait(30) == 0
    answered = Counter(line["status"] for line in server.lines() if line["event"] == "request")
    assert set(statuses) <= {200, 503} and statuses == answered and statuses[200] >= 8


def test_not_ready_before_the_model_is_loaded(own_server: Callable[..., Any], films: Any) -> None:
    server = own_server(ready=False)
    reply = server.invoke(films.pgm)
    assert (server.ping(), reply.status, reply.code) == (503, 503, "starting")
    assert server.stop() == 0


def serve(base: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "mammopipe.inference.server"],
        cwd=Path(__file__).parents[3],
        text=True,
        env={**os.environ, "SAGEMAKER_BIND_TO_PORT": "0", "MAMMOPIPE_BASE": str(base), **environment},
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_missing_model_is_one_line_and_exit_1(tmp_path: Path) -> None:
    ended = serve(tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1 and "model.json" in ended.stderr


@pytest.mark.parametrize(("engine", "name"), [("openvino", "network.bin"), ("torch", "weights.safetensors")])
def test_altered_weights_are_one_line_and_exit_1(exported: Path, tmp_path: Path, engine: str, name: str) -> None:
    shutil.copytree(exported / "model", tmp_path / "model")
    weights = bytearray((tmp_path / "model" / name).read_bytes())
    weights[-1] ^= 1
    write_bytes(tmp_path / "model" / name, bytes(weights))
    ended = serve(tmp_path, MAMMOPIPE_ENGINE=engine)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1 and "SHA-256" in ended.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SAGEMAKER_BIND_TO_PORT", "http"),
        ("SAGEMAKER_BIND_TO_PORT", "70000"),
        ("MAMMOPIPE_MAX_SECONDS", "-1"),
        ("MAMMOPIPE_HOST", "256.0.0.1"),
    ],
)
def test_bad_settings_are_one_line_and_exit_1(base: Path, name: str, value: str) -> None:
    ended = serve(base, **{name: value})
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1 and value in ended.stderr


def test_a_body_whose_framing_breaks_is_answered_once_and_leaves_no_trace_on_standard_error(
    own_server: Callable[..., Any], films: Any
) -> None:
    server = own_server()
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/x-portable-graymap\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as broken:
        broken.sendall(head + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n")
        assert broken.makefile("rb").readline() == b"HTTP/1.1 400 Bad Request\r\n"
    assert server.invoke(films.pgm).status == 200
    assert "Traceback" not in server.stderr.read_text()


def test_a_batch_transform_gets_an_answer_for_every_body(own_server: Any, films: Any) -> None:
    server = own_server(SAGEMAKER_BATCH="true", MAMMOPIPE_ENGINE="torch")
    any_type = "application/octet-stream"
    reply = server.invoke(films.pgm, any_type, Accept="application/json")
    assert reply.status == 200 and b"\n" not in reply.body, "one line of the job's output"
    for body, code in (
        (b"a,b\n1,2\n", "unsupported_type"),
        (b"P5 9 9 255 ", "corrupt_image"),
        (b"PK\x03\x04", "bad_zip"),
    ):
        refused = server.invoke(body, any_type)
        assert refused.status == 200 and refused.json["error"]["code"] == code
    assert server.invoke(films.pgm, "text/plain").json["error"]["code"] == "unsupported_type"
    assert {line["status"] for line in server.lines() if "status" in line} >= {415, 422}, "the log has the true status"


@pytest.mark.parametrize("first", ["", "?result=report"])
def test_an_option_that_states_its_default_is_not_taken_for_none(server: Any, films: Any, first: str) -> None:
    found = {}
    for query in (first, "?result=report", "", "?result=report", ""):
        reply = server.invoke(films.pgm, path=f"/invocations{query}")
        found.setdefault(query, set()).add(reply.status)
    assert found == {"": {200}, "?result=report": {400}}
