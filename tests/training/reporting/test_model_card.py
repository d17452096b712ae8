"""The model card: its figures are those of the evaluation, and its JSON is within the registry's limits."""

import copy
import json
import re
from pathlib import Path

import pytest

from mammopipe.processing.errors import ConfigError
from mammopipe.training.reporting.model_card import data_licences, limits, render_card, title, words
from mammopipe.training.reporting.package_card import package_card
from mammopipe.training.reporting.reporting_guidelines import COMPARED, GUIDELINES, ITEMS, ItemStatus, lines, page

ROOT = Path(__file__).parents[3]
KEYS = {
    "model_overview": {"model_creator", "model_artifact"},
    "intended_uses": {
        "purpose_of_model",
        "intended_uses",
        "factors_affecting_model_efficiency",
        "risk_rating",
        "explanations_for_risk_rating",
    },
    "training_details": {"objective_function", "training_observations", "training_job_details"},
    "additional_information": {"ethical_considerations", "caveats_and_recommendations", "custom_details"},
}
"""The keys that AWS's schema of a model package's card allows in each section."""


@pytest.fixture(scope="module")
def folder(evaluated):
    return evaluated.output / "evaluation"


@pytest.fixture(scope="module")
def card(folder) -> str:
    return (folder / "model_card.md").read_text()


def test_the_card_names_the_protocol_in_its_title(evaluated, card):
    assert card.startswith(f"# Model card: {evaluated.evaluation['selected']['cnn']} on MIAS, protocol patient\n")
    assert title({**evaluated.evaluation, "protocol": "published"}).endswith("protocol published")


def test_the_card_holds_the_figures_with_intervals(evaluated, card):
    selected = evaluated.evaluation["selected"]
    for key in ("macro_auc", "malignant_auc", "accuracy", "balanced_accuracy", "brier"):
        assert f"| {words(selected['validation'][key])} | {words(selected['test'][key])} |" in card
    for fit in evaluated.evaluation["fitted"]:
        assert fit["what"] in card and fit["digest"][:16] in card
    for method in ("none", "temperature", "isotonic"):
        assert words(evaluated.evaluation["calibration"]["test"][method]["brier"]) in card
    assert words(evaluated.evaluation["pointing"]["test"]["both"]["hits"]) in card
    assert "Suckling" in card and "may not be sold" in card
    assert "Research use only" in card and "Diagnosis, triage" in card


def test_a_figure_is_shown_with_its_interval_or_the_reason_for_having_none():
    assert words({"value": 0.5, "low": 0.41, "high": 0.6}) == "0.500 (0.410 to 0.600)"
    assert words({"value": 0.5, "low": None, "high": None}) == "0.500 (no interval)"
    assert words({"value": None, "reason": "too few: 3 patients"}) == "too few"


def test_every_table_has_the_same_number_of_cells_in_each_row(card):
    width = None
    for line in card.splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = line.replace("\\|", "").count("|")
        width = width or cells
        assert cells == width, line


SUBJECTS = {
    "claim": """1 title, 2 abstract, 3 background, 4 aims, 5 design, 6 design, 7 sources, 8 eligibility, 9 preparation,
        10 subsets, 11 identification, 12 missing, 13 acquisition, 14 reference, 15 reference, 16 reference,
        17 reference, 18 reference, 19 partitions, 20 partitions, 21 sample size, 22 model, 23 software,
        24 initialisation, 25 training, 26 choice, 27 ensembles, 28 measures, 29 uncertainty, 30 robustness,
        31 explanation, 32 internal, 33 external, 34 registration, 35 flow, 36 characteristics, 37 performance,
        38 performance, 39 failure, 40 limitations, 41 implications, 42 protocol, 43 availability, 44 funding""",
    "tripod": """1 title, 2 abstract, 3a background, 3b intended use, 3c inequalities, 4 aims, 5a sources, 5b dates,
        6a setting, 6b eligibility, 6c treatment, 7 preparation, 8a reference, 8b readers, 8c readers, 9a predictors,
        9b predictors, 9c predictors, 10 sample size, 11 missing, 12a partitions, 12b predictors, 12c model|training,
        12d heterogeneity, 12e measures, 12f updating, 12g predictions, 13 imbalance, 14 fairness, 15 output,
        16 compared with, 17 ethics, 18a funding, 18b conflicts, 18c protocol, 18d registration, 18e of data, 18f code,
        19 involvement, 20a flow, 20b characteristics, 20c compared with, 21 numbers, 22 model, 23a performance,
        23b heterogeneity, 24 updating, 25 interpretation, 26 limitations, 27a poor, 27b users, 27c next steps""",
    "stard": """1 title, 2 abstract, 3 background, 4 aims, 5 design, 6 eligibility, 7 recruitment, 8 setting,
        9 recruitment, 10a model, 10b reference, 11 reference, 12a thresholds, 12b reference, 13a clinical information,
        13b readers, 14 uncertainty, 15 refused, 16 missing, 17 heterogeneity, 18 sample size, 19 flow,
        20 characteristics, 21a characteristics, 21b characteristics, 22 time between, 23 numbers, 24 performance,
        25 adverse, 26 limitations, 27 implications, 28 registration, 29 protocol, 30 funding""",
    "decide": """1 title, 2 intended use, 3 recruitment, 4 model, 5 implementation, 6 safety, 7 human factors, 8 ethics,
        9 characteristics, 10 implementation, 11 modifications, 12 agreement, 13 safety, 14 human factors,
        15 interpretation, 16 safety, 17 availability, I abstract, II aims, III registration|ethics, IV outcomes,
        V measures, VI involvement, VII performance, VIII subgroups, IX limitations, X conflicts""",
}
"""The items of each guideline, each with a word of its subject that must occur in the topic."""
NUMBERS = {name: [item.split()[0] for item in text.split(",")] for name, text in SUBJECTS.items()}


@pytest.mark.parametrize("guideline", SUBJECTS)
def test_each_item_of_a_guideline_stands_under_its_subject(guideline):
    for number, subject in (item.split(maxsplit=1) for item in SUBJECTS[guideline].split(",")):
        for item in ITEMS:
            if number in getattr(item, guideline).split():
                assert re.search(subject, item.topic.lower()), f"{guideline} {number} is not about {item.topic}"


def test_what_an_item_names_stands_where_the_item_says():
    for item in ITEMS:
        pages = [ROOT / name.removeprefix("doc:") for name in item.references if name.startswith("doc:")]
        text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
        for named in re.findall(r"`(.+?)`|(\w+\.csv|\w+\.tar\.gz)", item.text):
            assert "".join(named) in text, f"{item.topic}: {named}"


@pytest.mark.parametrize("guideline", NUMBERS)
def test_every_item_of_a_guideline_is_answered(guideline):
    answered = [number for item in ITEMS for number in getattr(item, guideline).split()]
    assert set(answered) == set(NUMBERS[guideline])


def test_each_reference_of_the_guidelines_exists(evaluated, card):
    headings = {line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")}
    for item in ITEMS:
        assert item.references or item.status is ItemStatus.SITE, f"{item.topic}: where is it met?"
        for reference in item.references:
            kind, name = reference.split(":", 1)
            if kind == "report":
                assert f'<section id="{name}">' in evaluated.page, reference
            elif kind == "card":
                assert name in headings, reference
            else:
                assert kind == "doc" and (ROOT / name).is_file(), reference
    assert {item.status for item in ITEMS} == set(ItemStatus)
    assert all(line in card for line in lines())


def test_the_table_shows_the_numbers_of_each_guideline_and_says_what_they_were_compared_with(card):
    table = [line for line in lines() if not line.startswith(("| topic", "|---"))]
    columns = dict(zip(GUIDELINES, zip(*(line.split("|")[2:6] for line in table), strict=True), strict=True))
    for guideline, cells in columns.items():
        shown = {number.strip() for cell in cells for number in cell.split(",") if number.strip()}
        assert shown == set(NUMBERS[guideline])
    assert COMPARED in card and COMPARED in " ".join(page().split())


def test_the_page_of_the_guidelines_is_generated():
    written = (ROOT / "docs" / "reference" / "reporting-guidelines.md").read_text(encoding="utf-8")
    assert written == page()


@pytest.mark.parametrize("name", ["evaluated", "screened"])
def test_the_packages_card_is_within_the_registrys_limits(name, request):
    made = request.getfixturevalue(name).output / "evaluation"
    card = json.loads((made / "model_card.json").read_text())
    text = json.loads((made / "registration.json").read_text())["model_card"]
    assert json.loads(text) == card and len(text) <= 100_000 and "\n" not in text
    assert set(card) == {*KEYS, "evaluation_details"}
    for part, keys in KEYS.items():
        assert set(card[part]) <= keys
    assert all(len(text) <= 2048 for text in card["intended_uses"].values())
    assert all(len(text) <= 1024 for text in card["additional_information"]["custom_details"].values())
    assert card["intended_uses"]["risk_rating"] in ("High", "Medium", "Low", "Unknown")
    for details in card["evaluation_details"]:
        assert 1 <= len(details["name"]) <= 63 and len(details["evaluation_observation"]) <= 2096
        for group in details["metric_groups"]:
            assert set(group) == {"name", "metric_data"} and 1 <= len(group["name"]) <= 63
            for metric in group["metric_data"]:
                check_metric(metric)


def check_metric(metric: dict) -> None:
    """Check a metric by the rules of its type."""
    assert set(metric) <= {"name", "type", "value", "notes", "x_axis_name", "y_axis_name"}
    assert 1 <= len(metric["name"]) <= 255 and len(metric.get("notes", "")) <= 1024
    if metric["type"] == "number":
        assert isinstance(metric["value"], float | int)
    elif metric["type"] == "string":
        assert len(metric["value"]) <= 63
    else:
        assert metric["type"] == "matrix" and all(len(row) == 3 for row in metric["value"])


def test_the_packages_figures_are_those_of_the_evaluation(evaluated, folder):
    test = json.loads((folder / "model_card.json").read_text())["evaluation_details"][0]
    groups = {group["name"]: {item["name"]: item for item in group["metric_data"]} for group in test["metric_groups"]}
    found = evaluated.evaluation["selected"]["test"]["macro_auc"]
    assert groups["overall"]["macro_auc"]["value"] == found["value"]
    assert f"{found['low']:.4f} to {found['high']:.4f}" in groups["overall"]["macro_auc"]["notes"]


def test_a_card_that_is_too_long_is_refused(evaluated):
    evaluation = copy.deepcopy(evaluated.evaluation)
    group = evaluation["selected"]["test"]["subgroups"]["by"].setdefault("site", [])
    auc = evaluation["selected"]["test"]["macro_auc"]
    group.extend({"value": f"{index:0200d}", "images": 1, "malignant_auc": auc} for index in range(400))
    with pytest.raises(ConfigError, match="the registry accepts at most 100000"):
        package_card(evaluation, data="d", intended="i", not_intended="n", limits=["l"])


def test_limits_follow_from_the_run(evaluated):
    evaluation = copy.deepcopy(evaluated.evaluation)
    plain = " ".join(limits(evaluation))
    assert "synthetic" not in plain and "24 test images of 12 patients" in plain
    evaluation.update(
        synthetic=True,
        profile="quick",
        protocol="published",
        leakage={"passed": False, "verdict": "failed with 1 findings"},
    )
    stated = " ".join(limits(evaluation))
    for text in (
        "synthetic",
        "figures mean nothing",
        "Protocol published: images of one patient may be in training and in test",
        "No figure can be trusted",
    ):
        assert text in stated
    assert data_licences(evaluation) == [
        "MIAS: Synthetic images in the layout of the named dataset; they show no patient and are free to use."
    ]
    assert "Synthetic MIAS" in render_card(evaluation)
