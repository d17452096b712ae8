"""Formats an endpoint's answer for people: tables of 100 columns, on a terminal or in a pipe."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from mammopipe.inference.client.client import (
    Answer,
    Decision,
    ExamAnswer,
    Finding,
    ImageAnswer,
    Reason,
    Referral,
    Region,
)
from mammopipe.inference.client.exam_answers import BreastAnswer, ExamScore

NOTICE = "Research use only: not for diagnosis."


def image_table(answer: Answer, name: str) -> Table:
    """Return the table of the answer for the image with this name."""
    table = _facts()
    table.add_row("image", f"{name}{_side(answer)}")
    for title, value in image_rows(answer):
        table.add_row(title, value)
    table.add_row("model", f"{answer.model}, request {answer.request_id}")
    table.add_row("", NOTICE)
    return table


def exam_tables(answer: ExamAnswer, names: Sequence[str]) -> RenderableType:
    """Return the tables of the answer for an exam with these image names: images, breasts, exam, and reasons.

    Images are counted from 0, as in the server's messages.
    """
    images = _scores("image", "side, view", "score", "decile", "decision", "referral")
    for image in answer.images:
        side = " ".join(filter(None, (image.laterality, image.view)))
        decile = str(image.decile or "-")
        images.add_row(
            f"{image.index} {names[image.index]}",
            side,
            _score(image.malignancy_score),
            decile,
            _finding(image.decision),
            _referral(image.referral),
        )
    probabilities = [answer.exam.probability, *(breast.probability for breast in answer.breasts)]
    cases = _scores("case", "images", "score", "prob." if any(probabilities) else "", "decision", "referral")
    for breast in answer.breasts:
        how = f"{breast.rule}, beside the other" if breast.compared else breast.rule
        title = f"breast {breast.laterality or 'of unknown side'} ({how})"
        numbers = ", ".join(map(str, breast.images))
        cases.add_row(title, numbers, *_case(breast))
    cases.add_row("exam", "all", *_case(answer.exam))
    return Group(images, "", cases, "", _exam_facts(answer))


def _case(case: BreastAnswer | ExamScore) -> tuple[str | Text, ...]:
    """Return score, calibrated probability, decision and referral of a breast or an exam."""
    probability = "" if case.probability is None else f"{case.probability:.3f}"
    return _score(case.malignancy_score), probability, _finding(case.decision), _referral(case.referral)


def _exam_facts(answer: ExamAnswer) -> Table:
    table = _facts()
    if answer.exam.decision is not None:
        table.add_row("decision", _worth(answer.exam.decision))
    for reason in answer.exam.referral.reasons:
        table.add_row("referral", _said(reason))
    for warning in answer.warnings:
        table.add_row("warning", _said(warning))
    for image in answer.images:
        for warning in image.warnings:
            table.add_row("warning", f"image {image.index}: {_said(warning)}")
        for region in image.regions:
            table.add_row("region", f"image {image.index}: {_region(region)}")
    table.add_row("model", f"{answer.model}, request {answer.request_id}")
    table.add_row("", NOTICE)
    return table


def image_rows(answer: ImageAnswer) -> list[tuple[str, str | Text]]:
    """Return the rows of an image's table: the name of each fact, and the fact."""
    decile = f", decile {answer.decile} of 10" if answer.decile is not None else ""
    chances = sorted(answer.probabilities.items(), key=lambda item: -item[1])
    rows: list[tuple[str, str | Text]] = [
        ("malignancy score", f"{_score(answer.malignancy_score)} of 100{decile}"),
        ("probabilities", ", ".join(f"{label} {value:.2f}" for label, value in chances)),
        ("entropy", f"{answer.entropy:.2f} nats"),
        ("decision", _worth(answer.decision) if answer.decision is not None else "the model has no operating point"),
        ("referral", _referral(answer.referral)),
    ]
    rows += [("", _said(reason)) for reason in answer.referral.reasons]
    rows += [("warning", _said(warning)) for warning in answer.warnings]
    return rows + [("region", _region(region)) for region in answer.regions]


def _facts() -> Table:
    return Table(
        Column(style="dim", no_wrap=True), Column(overflow="fold"), box=None, pad_edge=False, show_header=False
    )


def _scores(*names: str) -> Table:
    first, second, score, decile, decision, referral = names
    return Table(
        Column(first, overflow="fold", width=34),
        Column(second, width=11),
        Column(score, justify="right", width=5),
        Column(decile, justify="right", width=6),
        Column(decision, width=14),
        Column(referral),
        box=None,
        pad_edge=False,
    )


def _side(answer: ImageAnswer) -> str:
    words = " ".join(filter(None, (answer.laterality, answer.view)))
    return f" ({words})" if words else ""


def _score(value: float) -> str:
    return f"{value:.1f}"


def _finding(decision: Decision | None) -> Text:
    if decision is None:
        return Text("-")
    return Text(_words(decision.finding), "bold red" if decision.finding is Finding.SUSPICIOUS else "green")


def _worth(decision: Decision) -> str:
    """Return the decision at the operating point, and its validation results with intervals and numbers of cases."""
    rates = {
        "sensitivity": (decision.sensitivity, decision.sensitivity_interval),
        "specificity": (decision.specificity, decision.specificity_interval),
        "recall rate": (decision.recall_rate, decision.recall_rate_interval),
    }
    known = [
        f"{name} {value:.2f}{_between(interval)}" for name, (value, interval) in rates.items() if value is not None
    ]
    if decision.n is not None:
        malignant = f", {decision.positives} of them malignant" if decision.positives is not None else ""
        known.append(f"{decision.n} cases{malignant}")
    worth = f"; on validation {', '.join(known)}" if known else ""
    at = f"at {decision.operating_point} (threshold {decision.threshold:.3f}{worth})"
    return f"{_words(decision.finding)} {at}"


def _between(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"


def _words(finding: Finding) -> str:
    return str(finding).replace("_", " ")


def _referral(referral: Referral) -> Text:
    return Text("refer to reader", "bold yellow") if referral.refer else Text("none")


def _said(reason: Reason) -> str:
    return f"{reason.code}: {reason.message}"


def _region(region: Region) -> str:
    box = f"x {region.left} to {region.right}, y {region.top} to {region.bottom}"
    return f"{box}; peak at x {region.peak_x}, y {region.peak_y}, strength {region.strength:.2f}"
