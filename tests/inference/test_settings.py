"""The server's settings from environment variables."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mammopipe.inference.contract import errors
from mammopipe.inference.contract.exclusions import Action, ExclusionPolicy
from mammopipe.inference.settings import EngineKind, ServerSettings, from_environment, table, variable
from mammopipe.processing.container.paths import BASE_VARIABLE
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.image_flags import ImageFlag

LAPTOP = {BASE_VARIABLE: "/tmp/base"}


def test_defaults_in_a_container_and_on_a_laptop() -> None:
    container, laptop = from_environment({}), from_environment(LAPTOP)
    assert (container.host, container.metrics) == ("0.0.0.0", True)
    assert (laptop.host, laptop.metrics) == ("127.0.0.1", False)
    for settings in (container, laptop):
        assert settings.worker_count == len(os.sched_getaffinity(0))
        assert settings.places == 8 * settings.worker_count
        assert (settings.threads, settings.engine, settings.demo) == (1, EngineKind.AUTO, False)


def test_what_the_environment_says() -> None:
    settings = from_environment(
        LAPTOP
        | {
            "MAMMOPIPE_WORKERS": "3",
            "MAMMOPIPE_THREADS": "2",
            "MAMMOPIPE_ENGINE": "torch",
            "MAMMOPIPE_MAX_VIEWS": "4",
            "MAMMOPIPE_S3_PREFIX": "s3://bucket/exams/",
            "MAMMOPIPE_DEMO": "true",
            "MAMMOPIPE_METRICS": "True",
            "MAMMOPIPE_MAX_WAITING": "5",
            "MAMMOPIPE_MAX_BYTES": str(2**30),
            "MAMMOPIPE_EXCLUSIONS": "implant=refuse",
            "MAMMOPIPE_PREVALENCE": "0.006",
        }
    )
    assert (settings.worker_count, settings.threads, settings.engine) == (3, 2, EngineKind.TORCH)
    assert (settings.max_views, settings.s3_prefix, settings.demo) == (4, "s3://bucket/exams/", True)
    assert settings.exclusions == ExclusionPolicy({ImageFlag.IMPLANT: Action.REFUSE}) and settings.prevalence == 0.006
    assert (settings.places, settings.metrics, settings.max_bytes) == (5, True, 2**30)


def test_more_threads_make_fewer_workers() -> None:
    assert from_environment({"MAMMOPIPE_THREADS": "4096"}).worker_count == 1


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("MAMMOPIPE_WORKERS", "two", "a valid integer"),
        ("MAMMOPIPE_WORKERS", "-1", "greater than or equal to 0"),
        ("MAMMOPIPE_THREADS", "0", "greater than 0"),
        ("MAMMOPIPE_ENGINE", "onnx", "'auto', 'openvino' or 'torch'"),
        ("MAMMOPIPE_MAX_VIEWS", "0", "greater than 0"),
        ("MAMMOPIPE_MAX_WAITING", "-2", "greater than or equal to 0"),
        ("MAMMOPIPE_MAX_SECONDS", "nan", "a finite number"),
        ("MAMMOPIPE_MAX_BYTES", str(2**31), "less than or equal to"),
        ("MAMMOPIPE_HEADER_SECONDS", "0", "greater than 0"),
        ("MAMMOPIPE_MAX_CONNECTIONS", "0", "greater than 0"),
        ("MAMMOPIPE_PREVALENCE", "1", "less than 1"),
        ("MAMMOPIPE_PREVALENCE", "0", "greater than 0"),
        ("MAMMOPIPE_EXCLUSIONS", "implant=warn", "milder"),
        ("MAMMOPIPE_EXCLUSIONS", "hat=refuse", "FLAG=ACTION"),
        ("MAMMOPIPE_S3_PREFIX", "bucket/exams", "s3://BUCKET"),
        ("MAMMOPIPE_S3_PREFIX", "s3:///", "s3://BUCKET"),
        ("MAMMOPIPE_DEMO", "maybe", "a valid boolean"),
        ("MAMMOPIPE_CAPTURE_GB", "0", "greater than 0"),
        ("MAMMOPIPE_CAPTURE_DAYS", "1.5", "a valid integer"),
        ("MAMMOPIPE_METRICS", "2", "a valid boolean"),
        ("SAGEMAKER_BIND_TO_PORT", "70000", "less than or equal to 65535"),
    ],
)
def test_a_bad_value_is_named_with_its_variable(name: str, value: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as caught:
        from_environment(LAPTOP | {name: value})
    assert name in str(caught.value) and value in str(caught.value)


def test_the_demo_page_stays_on_the_loopback_interface() -> None:
    with pytest.raises(ConfigError, match="MAMMOPIPE_DEMO=true needs MAMMOPIPE_HOST"):
        from_environment({"MAMMOPIPE_DEMO": "true"})
    assert from_environment({"MAMMOPIPE_DEMO": "true", "MAMMOPIPE_HOST": "127.0.0.1"}).demo


def test_an_empty_variable_counts_as_not_set() -> None:
    assert from_environment(LAPTOP | {"MAMMOPIPE_WORKERS": "", "MAMMOPIPE_PREVALENCE": ""}) == from_environment(LAPTOP)


def test_every_bad_value_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        from_environment(LAPTOP | {"MAMMOPIPE_WORKERS": "two", "MAMMOPIPE_THREADS": "0"})
    assert "MAMMOPIPE_WORKERS" in str(caught.value) and "MAMMOPIPE_THREADS" in str(caught.value)


def test_help_names_every_setting_and_writes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mammopipe.inference.server", "--help"],
        cwd=tmp_path,
        env={**os.environ, BASE_VARIABLE: str(tmp_path), "MAMMOPIPE_WORKERS": "broken"},
        capture_output=True,
        text=True,
        check=True,
    )
    for name, field in ServerSettings.model_fields.items():
        assert variable(name) in done.stdout and str(field.description).split()[0] in done.stdout
    assert done.stderr == "" and list(tmp_path.iterdir()) == []


def test_the_documentation_has_every_setting() -> None:
    document = Path(__file__).parents[2] / "docs" / "reference" / "endpoint.md"
    assert table() in document.read_text(encoding="utf-8")


def test_settings_travel_to_the_workers() -> None:
    settings = from_environment(LAPTOP)
    assert isinstance(settings, ServerSettings) and pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize("kind", errors.RequestError.__subclasses__())
def test_refusals_travel_from_the_workers(kind: Any) -> None:
    refusal = kind() if kind is errors.InternalError else kind("code", "message", {"image": 3})
    copy = pickle.loads(pickle.dumps(refusal))
    assert type(copy) is kind
    assert (copy.code, copy.message, copy.detail) == (refusal.code, refusal.message, refusal.detail)
