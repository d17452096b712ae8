"""Explains from the evaluation why a run's gate stayed closed; the pipeline's own message may hold no file's figure."""

from collections.abc import Mapping
from typing import Any


def why_closed(evaluation: Mapping[str, Any], limit: object) -> str:
    """Return one sentence with the best candidate's figure, the limit and the verdicts of the other conditions.

    Args:
        evaluation: The content of `evaluation.json`.
        limit: The value of the pipeline's parameter MinMacroAuc.
    """
    best = evaluation["selected"]
    least, choice = evaluation.get("min_choice", 0.0), best.get("choice", {})
    chosen = f", a {choice['words']} of {choice['value']:.4f} where min_choice is {least:g}" if least else ""
    return (
        f"Nothing was registered: the best candidate, {best['cnn']}, has a validation macro AUC of {best['figure']} "
        f"where MinMacroAuc is {limit}{chosen}; "
        f"protocol: {evaluation['protocol_verdict']}; "
        f"leakage audit: {evaluation['leakage']['verdict']}"
    )
