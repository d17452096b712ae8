"""The table of images for which a model is not intended."""

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


ACTIONS = {
    "refuse": ["for-processing", "under-18"],
    "refer": [
        "for-processing-converted",
        "male",
        "implant",
        "implant-displaced",
        "partial-view",
        "synthetic-2d",
        "secondary-capture",
        "lossy-high-ratio",
        "low-energy",
        "laterality-conflict",
    ],
    "warn": [
        "lossy",
        "digitised",
        "exaggerated-view",
        "view-conflict",
        "burned-in",
        "spacing-unusable",
        "window-unusable",
        "rescale-unusable",
        "attribute-ignored",
        "values-beyond-bits",
        "turned",
    ],
}


@pytest.mark.parametrize(("flag", "action"), [(flag, action) for action, flags in ACTIONS.items() for flag in flags])
def test_the_default_table(flag: str, action: str) -> None:
    assert RULES[ImageFlag(flag)].action == action
    if action == "refuse":
        with pytest.raises(ExcludedImageError) as caught:
            DEFAULT_POLICY.apply([ImageFlag(flag)])
        assert caught.value.action is Action.REFUSE
    else:
        [found] = DEFAULT_POLICY.apply([ImageFlag(flag)])
        assert (found.flag, found.action, found.where, found.reason) == (
            flag,
            action,
            RULES[ImageFlag(flag)].where,
            RULES[ImageFlag(flag)].reason,
        )


def test_the_table_has_no_other_flag() -> None:
    assert [str(flag) for flag in RULES] == [flag for flags in ACTIONS.values() for flag in flags]


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


def test_the_message_names_what_is_wrong_with_a_policy() -> None:
    for text, message in (
        ("implant=warn", "implant=warn is milder than refer, the default, which can only be tightened"),
        ("male=refuse, male=refuse", "male is named twice"),
        ("implant", f"'implant' must be FLAG=ACTION, a flag of {', '.join(RULES)} and an action of "),
    ):
        with pytest.raises(ConfigError) as caught:
            ExclusionPolicy.parse(text)
        assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("an action of warn, refer, leave-out, refuse")


def test_a_policy_is_written_as_it_is_parsed() -> None:
    policy = ExclusionPolicy.parse(" lossy=refer ,, implant = refuse")
    assert str(policy) == "lossy=refer,implant=refuse" and ExclusionPolicy.parse(str(policy)) == policy
    assert ExclusionPolicy.parse("") == DEFAULT_POLICY and str(DEFAULT_POLICY) == ""
    assert ExclusionPolicy.parse("implant=refer").apply([ImageFlag.IMPLANT])[0].action is Action.REFER, "as the default"


def test_a_flag_without_a_default_rule_may_be_excluded_here() -> None:
    policy = ExclusionPolicy.parse("no-preamble=refer,shutter=leave-out")
    [found] = policy.apply([ImageFlag.NO_PREAMBLE])
    assert (found.where, found.reason, found.action) == ("the reader", "excluded here", Action.REFER)
    with pytest.raises(
        ExcludedImageError, match=r"^excluded \(shutter\): excluded here; stated by the reader$"
    ) as caught:
        policy.apply([ImageFlag.SHUTTER])
    assert caught.value.action is Action.LEAVE_OUT
    [found] = ExclusionPolicy.parse("lossy=refer").apply([ImageFlag.LOSSY])
    assert (found.where, found.reason) == (RULES[ImageFlag.LOSSY].where, RULES[ImageFlag.LOSSY].reason)
    assert policy.rule(ImageFlag.COLOUR_REMOVED) is None


def test_the_documentation_has_the_table() -> None:
    assert table() in DOCUMENT.read_text(encoding="utf-8")
