"""A container over HTTP whose answers a test sets: for cases that a model would make slow or could not produce."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mammopipe.inference.contract import schema
from mammopipe.processing.datasets.manifest import Label, Laterality, View

MODEL = schema.ModelInfo(id="model-1", architecture="resnet50", weights_sha256="ab", preprocess_digest="cd")
REFERRED = schema.Referral(
    refer=True, reasons=[schema.Reason(code=schema.ReferralCode.UNCERTAIN, message="entropy 1.05, limit 0.90")]
)
CLEAR = schema.Referral(refer=False, reasons=[])
DECISION = schema.Decision(
    operating_point=schema.OperatingPoint.SENSITIVITY,
    threshold=0.31,
    finding=schema.Finding.SUSPICIOUS,
    sensitivity=0.92,
    specificity=0.4,
    sensitivity_interval=(0.71, 0.98),
    recall_rate=0.25,
    n=52,
    positives=8,
    prevalence=0.154,
)
REGION = schema.Region(left=10, top=20, right=60, bottom=90, peak_x=30, peak_y=40, strength=0.75)


def scores(laterality: Laterality | None = Laterality.RIGHT, referral: schema.Referral = CLEAR) -> dict[str, Any]:
    """Return the fields of the schema for one image."""
    return {
        "image": schema.ImageInfo(
            sha256="ef", rows=400, columns=320, laterality=laterality, view=View.MLO, quality={"coverage": 0.4}
        ),
        "probabilities": {Label.NORMAL: 0.1, Label.BENIGN: 0.2, Label.MALIGNANT: 0.7},
        "malignancy_score": 70.0,
        "decile": 9,
        "entropy": 0.8018,
        "decision": DECISION,
        "referral": referral,
        "warnings": [schema.QualityWarning(code="laterality-inferred", message="the side was found in the image")],
        "heatmap": schema.Heatmap(
            target=Label.MALIGNANT, rows=400, columns=320, png="iVBORw0KGgo=", regions=[REGION], outside_share=0.02
        ),
    }


def image_json(**changes: Any) -> bytes:
    """Return the answer to one image, checked by the server's own schema."""
    values = scores() | {"request_id": "r-1", "model": MODEL, "timings_ms": {"infer": 1.5}} | changes
    return schema.Answer(**values).model_dump_json().encode()


def exam_json() -> bytes:
    """Return the answer to an exam of a left and a right image, of which the right one is referred."""
    images = [
        schema.ImageAnswer(index=0, **scores(Laterality.LEFT)),
        schema.ImageAnswer(index=1, **scores(Laterality.RIGHT, REFERRED)),
    ]
    breasts = [
        schema.BreastAnswer(
            laterality=image.image.laterality,
            images=[image.index],
            rule=schema.ViewsRule.MEAN,
            malignancy_score=70.0 + image.index,
            decision=DECISION if image.index else None,
            referral=image.referral,
        )
        for image in images
    ]
    return (
        schema.ExamAnswer(
            request_id="r-2",
            model=MODEL,
            timings_ms={},
            images=images,
            breasts=breasts,
            exam=schema.ExamResult(malignancy_score=71.0, decision=DECISION, referral=REFERRED),
            warnings=[schema.QualityWarning(code="one-view", message="the left breast has one view")],
        )
        .model_dump_json()
        .encode()
    )


@dataclass
class Answering:
    """The container's behaviour, and the requests that it got."""

    url: str = ""
    replies: list[tuple[int, bytes]] = field(default_factory=list)
    """The answers to the next requests; afterwards, 200 and an answer in the requested form."""
    sized: bool = True
    """Whether answers state their length."""
    gate: threading.Event = field(default_factory=threading.Event)
    """Answers wait for it."""
    proxy: list[tuple[int, bytes]] = field(default_factory=list)
    """The answers of a proxy in front of the container to the next requests, which do not reach the container."""
    drips: bool = False
    """Whether an answer's body arrives byte by byte, until the end of the test."""
    closed: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def refuse(self, status: int, code: str, message: str, **detail: int) -> None:
        error = {"code": code, "message": message, **({"detail": detail} if detail else {})}
        self.replies.append((status, json.dumps({"error": error}).encode()))

    def answer(self, headers: Mapping[str, str]) -> tuple[int, bytes]:
        if self.replies:
            return self.replies.pop(0)
        if headers.get("accept") == "image/png":
            return 200, b"\x89PNG overlay"
        forms = {"application/dicom": b"DICOM ", "application/zip": b"ZIP "}
        if (said := forms.get(headers.get("accept", ""))) is not None:
            return 200, said + headers.get("x-amzn-sagemaker-custom-attributes", "").encode()
        exam = headers.get("content-type", "").split(";")[0] in ("application/json", "application/zip")
        return 200, exam_json() if exam else image_json()


@contextmanager
def container() -> Iterator[Answering]:
    """Run the container on a free port: `/invocations` as SageMaker calls it, `/endpoints/NAME/invocations` as AWS."""
    answering = Answering()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, b"")

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            answering.requests.append((self.path, headers, body))
            answering.gate.wait(30)
            if answering.proxy:
                self._send(*answering.proxy.pop(0))
                return
            status, said = answering.answer(headers)
            if status == 200 or not self.path.startswith("/endpoints/"):
                self._send(status, said)
                return
            wrapped = {"Message": "m", "OriginalStatusCode": status, "OriginalMessage": said.decode()}
            self._send(424, json.dumps(wrapped).encode(), "ModelError")

        def _send(self, status: int, body: bytes, kind: str = "") -> None:
            self.send_response(status)
            if kind:
                self.send_header("x-amzn-ErrorType", kind)
            if answering.sized and not answering.drips:
                self.send_header("Content-Length", str(len(body)))
            else:
                self.close_connection = True
            self.end_headers()
            try:
                while answering.drips and not answering.closed.wait(0.02):
                    self.wfile.write(b" ")
                self.wfile.write(body)
            except OSError:
                self.close_connection = True  # the client has gone

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener = threading.Thread(target=server.serve_forever)
    listener.start()
    answering.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield answering
    finally:
        answering.gate.set()
        answering.closed.set()
        server.shutdown()
        listener.join()
        server.server_close()
