"""The sentences of DICOM results: notice, referral, warnings, and the validation results of the threshold."""

from collections.abc import Iterable, Mapping
from typing import Any

from mammopipe.inference.contract.schema import NOTICE, ViewsRule
from mammopipe.training.model.architecture import Level

Facts = Mapping[str, Any]
"""A part of an answer as JSON values, without facts about the request."""
_RATES = {"sensitivity": "sensitivity", "specificity": "specificity", "recall_rate": "recall rate"}


def plain(text: str) -> str:
    """Return the text in ASCII, which every DICOM character set contains: a result has its source's character set."""
    return text.encode("ascii", "replace").decode()


def sentences(facts: Facts) -> Iterable[str]:
    """Yield the notice, the reasons for a referral, the warnings, and the threshold's results in validation."""
    yield NOTICE
    for reason in (facts.get("referral") or {}).get("reasons", []):
        yield f"Refer to reader: {reason['message']} ({reason['code']})"
    for warning in facts.get("warnings", []):
        yield f"Warning: {warning['message']} ({warning['code']})"
    for exclusion in facts.get("exclusions", []):
        yield f"The model is not for this image: {exclusion['message']} ({exclusion['flag']})"
    prevalence = facts.get("prevalence") or {}
    if prevalence.get("value") is not None:
        holds = f"a prevalence of {prevalence['value']:.3g} ({prevalence['of']})"
        if facts.get("probability") is not None:
            yield f"The probability is calibrated for {holds}; the decision follows from the score, which ranks cases"
        elif prevalence["level"] == Level.IMAGE or facts.get("rule") == ViewsRule.ATTENTION:
            yield f"The probability holds for {holds}"
        else:
            yield f"The score ranks cases, and assumes {holds}; it is not a calibrated probability"
    decision = facts.get("decision")
    if decision is None:
        yield "No decision: the model has no operating point for this"
        return
    if known := validation(decision):
        yield f"The threshold in validation: {known}"


def chances(facts: Facts, subject: str) -> str:
    """Return the probability of cancer in words, with the score where it is another number."""
    score = "" if facts.get("probability") is None else f" (score {facts['malignancy_score']:.4g} of 100)"
    return f"Probability of cancer, {subject}: {probability_in_percent(facts):.4g} %{score}"


def probability_in_percent(facts: Facts) -> float:
    """Return the probability of cancer, 0 to 100: of a breast or an exam without a calibrated one, its score."""
    probability = facts.get("probability")
    return float(facts["malignancy_score"] if probability is None else 100 * probability)


def validation(decision: Facts) -> str:
    """Return an operating point's results in validation with intervals; empty if nothing is known."""
    known = [_rate(decision, name, title) for name, title in _RATES.items() if decision.get(name) is not None]
    if decision.get("n") is not None:
        malignant = f", {decision['positives']} of them malignant" if decision.get("positives") is not None else ""
        known.append(f"on {decision['n']} cases{malignant}")
    if decision.get("prevalence") is not None:
        known.append(f"prevalence {decision['prevalence']:.3f}")
    return ", ".join(known)


def _rate(decision: Facts, name: str, title: str) -> str:
    interval = decision.get(f"{name}_interval")
    between = f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return f"{title} {decision[name]:.3f}{between}"
