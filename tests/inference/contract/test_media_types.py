"""Media types, options and errors in headers."""

import json
import pickle

import pytest

from mammopipe.inference.contract.errors import BadOptionError
from mammopipe.inference.contract.media_types import (
    AnswerType,
    ImageType,
    acceptable,
    content_type,
    error_body,
    pack_attributes,
    sniff,
    unpack_attributes,
)
from mammopipe.inference.contract.request import OperatingPoint, RequestOptions, join_options, read_options
from mammopipe.inference.settings import from_environment
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.errors import ConfigError


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"P5 1 1 255 x", ImageType.PGM),
        (b"\x89PNG\r\n\x1a\n", ImageType.PNG),
        (bytes(128) + b"DICM", ImageType.DICOM),
        (b"P2 1 1 255 1", None),
        (b"", None),
        (bytes(200), None),
        (b"GIF89a", None),
    ],
)
def test_sniff(data: bytes, kind: ImageType | None) -> None:
    assert sniff(data) is kind


def test_content_type_ignores_case_and_parameters() -> None:
    assert content_type("IMAGE/png; x=y") is ImageType.PNG
    assert content_type("application/octet-stream") is None


@pytest.mark.parametrize(
    ("header", "form"),
    [
        ("", AnswerType.JSON),
        ("*/*", AnswerType.JSON),
        ("application/*", AnswerType.JSON),
        ("image/png", AnswerType.OVERLAY),
        ("image/png, application/json;q=0.9", AnswerType.OVERLAY),
        ("*/*;q=0.5, image/png;q=0.1", AnswerType.JSON),
        ("application/json;q=0, */*", AnswerType.OVERLAY),
        ("text/html", None),
        ("image/png;q=0", None),
        ("image/png;q=x", None),
        ("application/dicom", AnswerType.DICOM),
        ("application/zip", AnswerType.ZIP),
        ("application/dicom;q=0.1, */*", AnswerType.JSON),
    ],
)
def test_acceptable(header: str, form: AnswerType | None) -> None:
    assert acceptable(header) is form


def test_attributes_round_trip() -> None:
    values = {"laterality": "L", "view": "MLO"}
    assert dict(unpack_attributes(pack_attributes(values))) == values
    assert unpack_attributes(" a = 1 ; b=2,") == [("a", "1"), ("b", "2")]


def test_options_are_typed_and_come_from_header_and_query() -> None:
    options = read_options("laterality=R,heatmap=true", [("view", "CC"), ("target", "benign")])
    assert options == RequestOptions(
        laterality=Laterality.RIGHT,
        view=View.CC,
        heatmap=True,
        target=Label.BENIGN,
        operating_point=OperatingPoint.SENSITIVITY,
    )
    assert read_options("", []) == RequestOptions()


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ("colour=red", "colour"),
        ("heatmap=perhaps", "heatmap"),
        ("view=CC;view=CC", "twice"),
        ("target=cancer", "target"),
        ("words", "name=value"),
        ("result=picture", "result"),
        ("c" * 200 + "=x", "c" * 60 + "' is unknown"),
    ],
)
def test_bad_options_are_named(attributes: str, named: str) -> None:
    with pytest.raises(BadOptionError, match=named):
        read_options(attributes, [])


def test_options_of_the_body_join_those_of_the_request() -> None:
    given = read_options("heatmap=true", [])
    joined = join_options(given, RequestOptions(target=Label.BENIGN))
    assert joined == RequestOptions(heatmap=True, target=Label.BENIGN)
    assert joined.model_fields_set == {"heatmap", "target"}
    with pytest.raises(BadOptionError, match="'heatmap' is given twice"):
        join_options(given, RequestOptions(heatmap=False))


def test_errors_say_where_and_cross_processes() -> None:
    error = BadOptionError("bad_option", "wrong").at(3)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.code, copy.message, copy.detail, copy.status) == (
        BadOptionError,
        "bad_option",
        "wrong",
        {"image": 3},
        400,
    )
    assert json.loads(error_body(copy.code, copy.message, copy.detail)) == {
        "error": {"code": "bad_option", "message": "wrong", "detail": {"image": 3}}
    }
    assert json.loads(error_body("a", "b")) == {"error": {"code": "a", "message": "b"}}


def test_host_is_the_loopback_outside_of_a_container() -> None:
    assert from_environment({}).host == "0.0.0.0"
    assert from_environment({"MAMMOPIPE_BASE": "/somewhere"}).host == "127.0.0.1"
    assert from_environment({"MAMMOPIPE_BASE": "/somewhere", "MAMMOPIPE_HOST": "0.0.0.0"}).host == "0.0.0.0"
    assert from_environment({"SAGEMAKER_BIND_TO_PORT": "8888"}).port == 8888


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SAGEMAKER_BIND_TO_PORT", "65536"),
        ("MAMMOPIPE_MAX_BYTES", "0"),
        ("MAMMOPIPE_MAX_WAITING", "some"),
        ("MAMMOPIPE_MAX_SECONDS", "nan"),
        ("MAMMOPIPE_STOP_SECONDS", "inf"),
    ],
)
def test_bad_settings_are_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=value):
        from_environment({name: value})
