"""The endpoint's OpenAPI 3.1 document, generated from the models that validate requests and answers.

`python -m mammopipe.inference.contract.openapi [-o FILE]` writes it. Source: OpenAPI Specification 3.1.0.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mammopipe.inference.contract.media_types import CUSTOM_ATTRIBUTES_HEADER, AnswerType, ImageType
from mammopipe.inference.contract.request import ExamRequest, RequestOptions
from mammopipe.inference.contract.schema import NOTICE, SCHEMA_VERSION, Answer, ErrorAnswer, ExamAnswer
from mammopipe.inference.contract.task import ExamType
from mammopipe.processing.files import write_bytes

VERSION = f"{SCHEMA_VERSION}.1.0"
"""Version of the document. A field that is added raises the second number; one that changes, `schema_version`."""
CODES: Mapping[int, Mapping[str, str]] = {
    400: {
        "bad_option": "an option is unknown, given twice, or breaks its rule",
        "contradiction": "laterality or view contradicts the image's own",
        "bad_json": "the JSON body breaks its schema",
        "bad_base64": "an image's data is not base64",
        "bad_multipart": "the form is damaged, or a part is not a file",
        "bad_zip": "the archive is damaged or breaks a rule",
        "no_images": "the exam has no image",
        "bad_http": "the request is not HTTP/1.1",
    },
    403: {
        "s3_not_allowed": "this deployment fetches no s3_uri",
        "s3_outside_prefix": "s3_uri is outside the allowed prefix",
        "s3_denied": "S3 does not let this deployment read the object",
    },
    404: {"not_found": "no such path", "s3_missing": "no such S3 object"},
    405: {"method_not_allowed": "the path does not support this method"},
    406: {"not_acceptable": "Accept allows no form of the answer"},
    408: {
        "header_timeout": "no complete header within the limit",
        "body_timeout": "the body arrives too slowly, or has stopped",
    },
    413: {
        "too_large": "more bytes than the limit",
        "too_many_views": "more images than the limit",
        "answer_too_large": "the answer has more bytes than the deployment passes on",
        "image_too_large": "an image announces more pixels than the limit",
    },
    415: {
        "unsupported_type": "Content-Type is not supported",
        "unsupported_encoding": "Content-Encoding is not identity",
        "content_type_mismatch": "the image is of another type than Content-Type states",
    },
    422: {
        "unsupported_image": "a file type or an encoding that is not supported",
        "corrupt_image": "truncated or undecodable",
        "not_a_mammogram": "readable, but not one 2-D mammogram",
        "no_breast": "no breast was found",
        "unusable_image": "any other reason of the image reader",
        "duplicate_image": "the exam contains an image twice",
        "mixed_patients": "the exam's images belong to several patients",
        "mixed_studies": "the exam's images belong to several studies",
        "excluded_view": "the model is not intended for this kind of image, and the deployment refuses it",
        "no_source_identity": "a DICOM result needs DICOM images",
        "no_view": "a Mammography CAD SR needs laterality and view of every image",
    },
    500: {"internal": "a fault of the server"},
    503: {
        "busy": "no free place; try again",
        "starting": "the model is being loaded",
        "stopping": "the server is stopping",
        "worker_lost": "the worker process ended during the request",
        "s3_unavailable": "S3 did not answer",
        "s3_changed": "the S3 object was replaced while it was read",
    },
    504: {"time_limit": "no answer within the limit"},
}
"""The meaning of every error code, by HTTP status."""
_TEXTS = {
    400: "Bad request",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    408: "Too slow",
    413: "Too large",
    415: "Unsupported type",
    422: "Unusable image",
    500: "Fault",
    503: "Try again",
    504: "Time limit",
}
_MODELS: tuple[type[BaseModel], ...] = (Answer, ExamAnswer, ErrorAnswer, ExamRequest, RequestOptions)
_RUNTIME_ERROR_EXAMPLE = {
    "Message": 'Received client error (422) from the model with message "..."',
    "OriginalStatusCode": 422,
    "OriginalMessage": '{"error": {...}}',
    "LogStreamArn": "",
}


def document() -> dict[str, Any]:
    """Return the OpenAPI document as JSON values."""
    _, definitions = models_json_schema(
        [(model, "serialization" if model in (Answer, ExamAnswer) else "validation") for model in _MODELS],
        ref_template="#/components/schemas/{model}",
    )
    schemas = {name: _without_titles(schema) for name, schema in definitions["$defs"].items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mammopipe endpoint",
            "version": VERSION,
            "description": f"Scores mammograms; {NOTICE}. The deployment limits bytes, pixels, images and time.",
        },
        "paths": {
            "/ping": {"get": _ping()},
            # 405 belongs to no documented operation: it answers methods that a path does not have.
            "/invocations": {
                "post": _invocations("invoke", {str(each): _error(each, CODES[each]) for each in CODES if each != 405})
            },
            "/endpoints/{name}/invocations": {
                "post": {
                    **_invocations("invokeEndpoint", {"424": _runtime_error()}),
                    "summary": "For a client of the SageMaker runtime: errors have the format of InvokeEndpoint's",
                },
                "parameters": [_parameter("name", "path", {"type": "string"}, "name of the endpoint", required=True)],
            },
        },
        "components": {"schemas": schemas},
    }


def _without_titles(schema: Any) -> Any:
    """Return a schema without the titles that pydantic derives from field names, which add no information."""
    if isinstance(schema, dict):
        return {
            key: _without_titles(value) for key, value in schema.items() if key != "title" or not isinstance(value, str)
        }
    return [_without_titles(value) for value in schema] if isinstance(schema, list) else schema


def _ping() -> dict[str, Any]:
    return {
        "operationId": "ping",
        "summary": "Reports whether the model can answer",
        "responses": {
            "200": {"description": "a worker has answered its warm-up image"},
            "503": {"description": "starting or stopping"},
        },
    }


def _invocations(operation: str, errors: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": "Scores one image, or the images of one exam",
        "parameters": [*_options(), *_headers()],
        "requestBody": {"required": True, "content": _bodies()},
        "responses": {"200": _success(), **errors},
    }


def _options() -> list[dict[str, Any]]:
    """Return the options as query parameters."""
    fields = RequestOptions.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
    return [
        _parameter(name, "query", _without_titles(_bare(schema)), schema["description"])
        for name, schema in fields.items()
    ]


def _bare(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return an option's schema for a query parameter, without null: an absent parameter means null."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind.get("type") != "null"]
    return kinds[0] if kinds else {key: value for key, value in schema.items() if key != "description"}


def _headers() -> list[dict[str, Any]]:
    return [
        _parameter(
            CUSTOM_ATTRIBUTES_HEADER,
            "header",
            {"type": "string"},
            "the same options as name=value,name=value; each option may be given only once",
            example="operating_point=specificity,heatmap=true",
        ),
        _parameter(
            "Accept",
            "header",
            {"type": "string"},
            "form of the answer: " + ", ".join(AnswerType),
            example=str(AnswerType.JSON),
        ),
    ]


def _parameter(name: str, where: str, schema: Mapping[str, Any], description: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": where, "description": description, "schema": dict(schema), **more}


def _bodies() -> dict[str, Any]:
    exam = {
        "images": [
            {"data": "UDUgMiAyIDI1NQo...", "laterality": "L", "view": "CC"},
            {"s3_uri": "s3://clinic/exams/17/left-mlo.dcm"},
        ],
        "options": {"heatmap": True},
    }
    files = {
        "type": "object",
        "additionalProperties": {"type": "string", "contentMediaType": str(ImageType.DICOM)},
        "description": "file parts with any names; the answer lists the images in the same order",
    }
    return {
        **{str(kind): {"schema": {"type": "string", "contentMediaType": str(kind)}} for kind in ImageType},
        str(ExamType.JSON): {"schema": _of(ExamRequest), "examples": {"exam": {"value": exam}}},
        str(ExamType.MULTIPART): {"schema": files},
        str(ExamType.ZIP): {
            "schema": {
                "type": "string",
                "contentMediaType": str(ExamType.ZIP),
                "description": "the images; the answer lists them sorted by file name",
            }
        },
    }


def _success() -> dict[str, Any]:
    returned = {"schema": {"type": "string"}, "description": "request id, score, operating point, finding, referral"}
    return {
        "description": "the answer for one image, or for an exam",
        "headers": {CUSTOM_ATTRIBUTES_HEADER: returned, "x-amzn-RequestId": {"schema": {"type": "string"}}},
        "content": {
            str(AnswerType.JSON): {"schema": {"oneOf": [_of(Answer), _of(ExamAnswer)]}},
            str(AnswerType.OVERLAY): {"schema": {"type": "string", "contentMediaType": str(AnswerType.OVERLAY)}},
            **{
                str(form): {"schema": {"type": "string", "contentMediaType": str(form)}}
                for form in (AnswerType.DICOM, AnswerType.ZIP)
            },
        },
    }


def _error(status: int, codes: Mapping[str, str]) -> dict[str, Any]:
    examples = {code: {"value": {"error": {"code": code, "message": text}}} for code, text in codes.items()}
    retry = {"headers": {"Retry-After": {"schema": {"type": "integer"}}}} if status == 503 else {}
    return {
        "description": _TEXTS[status],
        **retry,
        "content": {"application/json": {"schema": _of(ErrorAnswer), "examples": examples}},
    }


def _runtime_error() -> dict[str, Any]:
    fields = {
        "Message": {"type": "string"},
        "OriginalStatusCode": {"type": "integer"},
        "OriginalMessage": {"type": "string", "description": "the container's JSON body"},
        "LogStreamArn": {"type": "string"},
    }
    return {
        "description": "ModelError: the container's error in the format of InvokeEndpoint",
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": fields, "required": list(fields)},
                "examples": {"refused": {"value": _RUNTIME_ERROR_EXAMPLE}},
            }
        },
    }


def _of(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def main(arguments: Sequence[str]) -> None:
    """Write the document."""
    parser = argparse.ArgumentParser(
        prog="python -m mammopipe.inference.contract.openapi", description="Write the OpenAPI document."
    )
    parser.add_argument("-o", "--output", type=Path, help="default: standard output")
    path = parser.parse_args(arguments).output
    text = json.dumps(document(), indent=2) + "\n"
    if path is None:
        sys.stdout.write(text)
    else:
        write_bytes(path, text.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
