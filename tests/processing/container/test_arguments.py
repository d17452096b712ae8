"""A job's arguments are the fields of its settings: names, types, choices, defaults, meanings and ranges."""

import argparse
from enum import StrEnum

import pytest
from pydantic import Field

from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.container.arguments import add_arguments, settings_in
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.jobs import segment
from mammopipe.processing.settings import Settings


class Form(StrEnum):
    ROUND = "round"
    FLAT = "flat"


class Example(Settings):
    share_of_all: float = Field(default=0.5, ge=0, le=1, description="50 % is half")
    number: int = Field(default=3, ge=1, description="how many")
    dry: bool = Field(default=True, description="whether it is dry")
    form: Form = Field(default=Form.FLAT, description="its form")


def parser(*names: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(made, Example, names)
    return made


def test_no_argument_gives_the_defaults() -> None:
    assert settings_in(parser().parse_args([]), Example) == Example()


def test_each_argument_gives_its_field() -> None:
    words = ["--share-of-all", "0.25", "--number", "7", "--dry", "false", "--form", "round"]
    found = settings_in(parser().parse_args(words), Example)
    assert found == Example(share_of_all=0.25, number=7, dry=False, form=Form.ROUND)
    assert found.form is Form.ROUND and found.dry is False


def test_only_named_fields_are_arguments_and_further_values_are_taken() -> None:
    options = parser("number").parse_args(["--number", "2"])
    assert vars(options) == {"number": 2}
    assert settings_in(options, Example, dry=False) == Example(number=2, dry=False)


def test_the_help_states_meaning_range_choices_and_default() -> None:
    text = " ".join(parser().format_help().split())
    assert "--share-of-all ALL 50 % is half (between 0 and 1; default: 0.5)" in text
    assert "how many (at least 1; default: 3)" in text and "{round,flat}" in text and "(default: flat)" in text


@pytest.mark.parametrize("words", [["--form", "square"], ["--number", "two"], ["--dry", "yes"], ["--num", "2"]])
def test_a_wrong_word_ends_the_job_with_its_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(words)
    assert ended.value.code == 2 and words[0] in capsys.readouterr().err


def test_a_value_out_of_range_names_field_value_and_rule() -> None:
    with pytest.raises(ConfigError, match="number = 0: at least 1"):
        settings_in(parser().parse_args(["--number", "0"]), Example)


def test_the_help_of_segment_names_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        segment.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in segment.SETTINGS:
        assert f"--{name.replace('_', '-')}" in text
        assert " ".join((PreprocessConfig.model_fields[name].description or "").split()[:3]) in text
