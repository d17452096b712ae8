"""Bodies of requests, and functions that pass them to the handler as a worker process does."""

import base64
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pydicom
import pytest

from mammopipe.inference.contract.errors import RequestError
from mammopipe.inference.contract.media_types import AnswerType
from mammopipe.inference.contract.openapi import document
from mammopipe.inference.contract.request import read_options
from mammopipe.inference.contract.task import Reply, Task
from mammopipe.inference.prediction.handler import answer
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.processing.images.mammogram import ReadConfig

PGM, JSON, ZIP, DICOM = "image/x-portable-graymap", "application/json", "application/zip", "application/dicom"


def with_view(path: Path) -> bytes:
    dataset, stream = pydicom.dcmread(path), io.BytesIO()
    dataset.ViewPosition = "MLO"
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def run(
    predictor: Predictor, content_type: str, body: bytes, *, form: AnswerType = AnswerType.JSON, **options: str
) -> Reply:
    task = Task("r1", body, read_options("", options.items()), form, content_type=content_type)
    # A task comes out of another process, and its reply goes back there.
    copy: Reply = pickle.loads(pickle.dumps(answer(predictor, pickle.loads(pickle.dumps(task)), ReadConfig())))
    return copy


def exam(images: list[bytes], **more: Any) -> bytes:
    return json.dumps({"images": [{"data": base64.b64encode(data).decode()} for data in images], **more}).encode()


def refused(
    predictor: Predictor, content_type: str, body: bytes, *, form: AnswerType = AnswerType.JSON, **options: str
) -> RequestError:
    with pytest.raises(RequestError) as caught:
        run(predictor, content_type, body, form=form, **options)
    return pickle.loads(pickle.dumps(caught.value))


def validate(name: str, body: bytes) -> None:
    whole = document()
    jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": whole["components"]}
    ).validate(json.loads(body))


def changed(data: bytes, **attributes: Any) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


def bodies(images: list[bytes]) -> list[tuple[str, bytes]]:
    """Return the same images as JSON, as an archive and as a form."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for index, data in enumerate(images):
            target.writestr(f"{index}.dcm", data)
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n'
    form = b"".join(head + data + b"\r\n" for data in images) + b"--b--\r\n"
    return [(JSON, exam(images)), (ZIP, archive.getvalue()), ("multipart/form-data; boundary=b", form)]
