"""The OpenAPI document: valid, complete, and equal to what the server accepts and answers."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from openapi_spec_validator import OpenAPIV31SpecValidator

from mammopipe.inference.contract.media_types import AnswerType, ImageType
from mammopipe.inference.contract.openapi import CODES, document
from mammopipe.inference.contract.request import RequestOptions
from mammopipe.inference.contract.task import ExamType

ROOT = Path(__file__).parents[3]


def test_the_document_is_openapi_3_1() -> None:
    OpenAPIV31SpecValidator(document()).validate()


def test_schemathesis_finds_every_path_and_makes_requests_of_it() -> None:
    schema = schemathesis.openapi.from_dict(document())
    found = {(operation.ok().method.upper(), operation.ok().path) for operation in schema.get_all_operations()}
    assert found == {("GET", "/ping"), ("POST", "/invocations"), ("POST", "/endpoints/{name}/invocations")}


def test_every_type_and_option_is_in_it() -> None:
    invoke = document()["paths"]["/invocations"]["post"]
    assert set(invoke["requestBody"]["content"]) == {*ImageType, *ExamType}
    assert set(invoke["responses"]["200"]["content"]) == set(AnswerType)
    names = {parameter["name"] for parameter in invoke["parameters"] if parameter["in"] == "query"}
    assert names == set(RequestOptions.model_fields)


def raised_codes() -> set[str]:
    """Return the error codes that the package's source states as literals."""
    found = set()
    for path in (ROOT / "inference").rglob("*.py"):
        if path.parent.name == "client":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = node.func.id if isinstance(node.func, ast.Name) else ""
                if name.endswith("Error") and isinstance(node.args[0].value, str) and len(node.args) > 1:
                    found.add(node.args[0].value)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_refuse":
                found |= {each.value for each in node.args[1:2] if isinstance(each, ast.Constant)}
    return found


def test_every_code_that_is_raised_is_listed() -> None:
    listed = {code for codes in CODES.values() for code in codes}
    raised = raised_codes()
    assert {"bad_zip", "header_timeout"} <= raised <= listed, raised - listed


def test_examples_obey_their_schemas() -> None:
    whole = document()
    for media in _media(whole):
        for example in media.get("examples", {}).values():
            jsonschema.Draft202012Validator({**media["schema"], "components": whole["components"]}).validate(
                example["value"]
            )


def _media(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [media for item in value for media in _media(item)]
    if not isinstance(value, dict):
        return []
    own = [value] if "schema" in value and "examples" in value else []
    return own + [media for item in value.values() for media in _media(item)]


@pytest.mark.parametrize("arguments", [[], ["-o", "api.json"]])
def test_command_writes_it(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mammopipe.inference.contract.openapi", *arguments],
        cwd=tmp_path,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    text = (tmp_path / "api.json").read_text() if arguments else done.stdout
    assert json.loads(text) == document()
