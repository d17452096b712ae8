"""The table of images that a model is not for."""

import pickle
from pathlib import Path

import pytest

from mammopipe.inference.contract.exclusions import (
    DEFAULT_POLICY,
    RULES,
    Action,
    ExcludedImageError,
    ExclusionPolicy,
    table,
)
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.image_flags import ImageFlag

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "endpoint.md"


@pytest.mark.parametrize(
    ("flag", "action"),
    [
        ("for-processing", "refuse"),
        ("under-18", "refuse"),
        ("male", "refer"),
        ("implant", "refer"),
        ("implant-displaced", "refer"),
        ("partial-view", "refer"),
        ("synthetic-2d", "refer"),
        ("secondary-capture", "refer"),
        ("lossy-high-ratio", "refer"),
        ("lossy", "warn"),
        ("burned-in", "warn"),
        ("digitised", "warn"),
    ],
)
def test_the_default_table(flag: str, action: str) -> None:
    assert RULES[ImageFlag(flag)].action == action


def test_refusals_name_the_flag_and_where_it_is_stated() -> None:
    with pytest.raises(ExcludedImageError, match="under-18.*Patient's Age") as caught:
        DEFAULT_POLICY.apply([ImageFlag.LOSSY, ImageFlag.UNDER_18])
    assert caught.value.flag is ImageFlag.UNDER_18


def test_each_reason_is_named_once_the_strictest_first_and_other_flags_change_nothing() -> None:
    found = DEFAULT_POLICY.apply([ImageFlag.LOSSY, ImageFlag.IMPLANT, ImageFlag.LOSSY, ImageFlag.NO_PREAMBLE])
    assert [(each.flag, each.action) for each in found] == [
        (ImageFlag.IMPLANT, Action.REFER),
        (ImageFlag.LOSSY, Action.WARN),
    ]


def test_a_deployment_can_tighten_the_table() -> None:
    policy = ExclusionPolicy.parse("implant=refuse, lossy = refer,no-preamble=warn")
    with pytest.raises(ExcludedImageError):
        policy.apply([ImageFlag.IMPLANT])
    found = policy.apply([ImageFlag.NO_PREAMBLE, ImageFlag.LOSSY])
    assert [each.action for each in found] == [Action.REFER, Action.WARN]
    assert pickle.loads(pickle.dumps(policy)) == policy
    with pytest.raises(ExcludedImageError) as caught:
        ExclusionPolicy.parse("male=leave-out").apply([ImageFlag.MALE, ImageFlag.UNDER_18])
    assert (caught.value.flag, caught.value.action) == (ImageFlag.UNDER_18, Action.REFUSE)


@pytest.mark.parametrize(
    "text",
    [
        "implant=warn",
        "for-processing=refer",
        "under-18=leave-out",
        "implants=refuse",
        "implant",
        "implant=stop",
        "male=refuse,male=refuse",
    ],
)
def test_what_is_milder_unknown_or_said_twice_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        ExclusionPolicy.parse(text)


def test_the_documentation_has_the_table() -> None:
    assert table() in DOCUMENT.read_text(encoding="utf-8")
