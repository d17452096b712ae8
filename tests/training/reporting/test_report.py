"""The report shows the numbers of `evaluation.json` and loads nothing from elsewhere."""

import base64
import copy
import html
import re
from functools import partial
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from mammopipe.training.reporting import plots
from mammopipe.training.reporting.examples import MOST_MISSED_SHOWN, Circle, Picture
from mammopipe.training.reporting.figures import figure
from mammopipe.training.reporting.report import origin_of, render

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects the elements of a page with the text inside each, and checks that they are closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        element = (tag, {key: value or "" for key, value in attributes}, [])
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, {key: value or "" for key, value in attributes}, []))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2].append(data)

    def found(self, path_style: str) -> dict[str, tuple[str, dict[str, str]]]:
        """Return text and attributes of the spans of one class by their `data-path`."""
        return {
            attributes["data-path"]: (" ".join("".join(text).split()), attributes)
            for tag, attributes, text in self.elements
            if attributes.get("class") == path_style
        }

    def text(self) -> str:
        return " ".join("".join(piece for tag, _, text in self.elements if tag == "main" for piece in text).split())


def look_up(value, path: str):
    for key in path.split("/"):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


@pytest.fixture(scope="module", autouse=True)
def equal_plots_drawn_once():
    """The pages differ in a few words: a plot of the same values is drawn for the first of them."""
    drawn = {}

    def once(name, draw, *arguments, **named):
        key = name, repr((arguments, named))
        if key not in drawn:
            drawn[key] = draw(*arguments, **named)
        return drawn[key]

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in vars(plots) if name.endswith("_plot")]:
            patch.setattr(plots, name, partial(once, name, getattr(plots, name)))
        yield


@pytest.fixture(scope="module")
def page(evaluated) -> Page:
    return Page(evaluated.page)


def test_every_class_of_the_page_has_a_rule_and_lesions_are_circles_without_filling(page):
    (style,) = ["".join(text) for tag, _, text in page.elements if tag == "style"]
    rules = set(re.findall(r"\.([a-z][a-z-]*)", re.sub(r"{[^}]*}", " ", style)))
    used = {name for _, attributes, _ in page.elements for name in attributes.get("class", "").split()}
    assert {"image", "images", "pair", "missed"} <= used
    assert used - rules <= {"benign", "missed", "number", "right"}, "words that look like the text around them"
    assert re.search(r"\.image circle { fill: none;", style)


@pytest.mark.parametrize("name", ["evaluated", "screened"])
def test_every_figure_on_the_page_is_that_of_the_evaluation(name, request):
    tree = request.getfixturevalue(name)
    shown, evaluation = Page(tree.page).found("figure"), tree.evaluation
    assert len(shown) > 100
    for path, (text, attributes) in shown.items():
        value = look_up(evaluation, path)
        if value["value"] is None:
            assert attributes["title"] == value["reason"] and text == value["reason"].split(":")[0]
            assert text in ("undefined", "too few")
        elif value["low"] is None:
            assert text == f"{value['value']:.3f} no interval"
        else:
            assert text == f"{value['value']:.3f} {value['low']:.3f} to {value['high']:.3f}", path


def test_every_plain_number_on_the_page_is_that_of_the_evaluation(evaluated, page):
    shown = page.found("number")
    assert len(shown) > 60
    for path, (text, attributes) in shown.items():
        assert text == format(look_up(evaluated.evaluation, path), attributes["data-style"]), path


def test_the_page_shows_each_candidate_and_the_baseline_on_both_splits(evaluated, page):
    figures, numbers = page.found("figure"), page.found("number")
    labels, matrix = evaluated.evaluation["classes"], [(row, column) for row in range(3) for column in range(3)]
    metrics = (
        "macro_auc",
        "malignant_auc",
        "balanced_accuracy",
        "accuracy",
        "expected_calibration_error",
        "brier",
        "log_loss",
    )
    for split in ("validation", "test"):
        for holder in ("candidates/first", "candidates/second", "baseline"):
            assert {f"{holder}/{split}/{metric}" for metric in metrics} <= set(figures)
        for name in ("first", "second"):
            for key in ("auc", "precision", "recall", "f1"):
                assert {f"candidates/{name}/{split}/{key}/{label}" for label in labels} <= set(figures)
            cells = {f"candidates/{name}/{split}/confusion_matrix/{row}/{column}" for row, column in matrix}
            assert cells <= set(numbers)
    assert {
        f"counts/{split}/{key}"
        for split in ("train", "validation", "test")
        for key in ("images", "patients", "normal", "benign", "malignant", "copies")
    } <= set(numbers)
    for level in ("image", "patient"):
        for key in (
            "malignant_auc",
            "expected_over_observed",
            "pf1",
            "pf1_floor",
            "sensitivity_at_specificity",
            "specificity_at_sensitivity",
        ):
            assert f"selected/test/{level}/{key}" in figures and f"candidates/first/validation/{level}/{key}" in figures
        for key in ("sensitivity", "specificity", "recall_rate", "ppv", "f1"):
            assert f"selected/validation/{level}/operating_points/f1/{key}" in figures


def test_the_page_is_one_file(evaluated, page):
    for tag, attributes, _ in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "srcset", "poster", "action"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes)
        assert "url(" not in attributes.get("style", "")
    style = "".join(text for tag, _, pieces in page.elements if tag == "style" for text in pieces)
    assert "@import" not in style and "url(" not in style
    assert "prefers-color-scheme: dark" in style
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", evaluated.page)


def test_the_page_says_what_a_reader_must_know(evaluated, page):
    text = page.text()
    assert "MIAS, split by patient" in text
    assert "only training images were augmented. Research use only" in text
    assert "first trained from scratch" in text and "second pretrained" in text
    assert "Leakage audit Passed No patient, source image or picture of the 64 images is in two splits." in text
    assert "Quick profile" not in text


def test_the_page_shows_calibration_pointing_and_what_was_fitted_on_what(evaluated, page):
    figures, numbers = page.found("figure"), page.found("number")
    for split in ("validation", "test"):
        for method in ("none", "temperature", "log_prior", "intercepts", "isotonic"):
            for key in ("expected_calibration_error", "brier", "log_loss"):
                assert f"calibration/{split}/{method}/{key}" in figures
        of_malignant = f"calibration/of_malignant/{split}/"
        for key in ("log_loss", "log_loss_of_frequencies", "expected_over_observed", "calibration_slope"):
            assert of_malignant + key in figures
        for group in ("both", "malignant", "benign"):
            assert {f"pointing/{split}/{group}/{key}" for key in ("hits", "chance", "above_chance")} <= set(figures)
            assert f"pointing/{split}/{group}/images" in numbers
    fitted = evaluated.evaluation["fitted"]
    assert {f"fitted/{index}/images" for index in range(len(fitted))} <= set(numbers)
    assert all(item["what"] in page.text() for item in fitted) and "Same seed, data and code" in page.text()


def changed(evaluated, **changes) -> str:
    """Return the text of the page of an evaluation with some values replaced."""
    evaluation = copy.deepcopy(evaluated.evaluation)
    evaluation.update(changes)
    return Page(render(evaluation, {})).text()


def test_the_page_states_that_figures_of_the_quick_profile_mean_nothing(evaluated):
    text = changed(evaluated, profile="quick", min_macro_auc=0.0)
    assert "No metric limit applies, and the figures mean nothing" in text
    assert "No limit applies (0.00)" in text


def test_the_limit_is_compared_with_the_figure(evaluated):
    value = evaluated.evaluation["selected"]["validation"]["macro_auc"]["value"]
    assert "Below the limit of 0.99: not registered" in changed(evaluated, min_macro_auc=0.99)
    assert f"Reaches the limit of {value - 0.01:.2f}" in changed(evaluated, min_macro_auc=value - 0.01)


def test_a_leak_is_reported_at_the_top(evaluated):
    leak = {
        "passed": False,
        "verdict": "failed with 1 finding",
        "checked": {"images": 3},
        "findings": [{"kind": "patient", "images": ["a", "b"], "message": "a and b are one patient"}],
    }
    text = changed(evaluated, leakage=leak)
    assert text.index("The leakage audit failed") < text.index("Selected")
    assert "a and b are one patient" in text


def test_an_undefined_figure_says_why(evaluated):
    evaluation = copy.deepcopy(evaluated.evaluation)
    evaluation["candidates"]["first"]["test"]["precision"]["benign"] = {
        "value": None,
        "low": None,
        "high": None,
        "undefined_resamples": 100,
        "reason": "undefined: never predicted",
    }
    text, attributes = Page(render(evaluation, {})).found("figure")["candidates/first/test/precision/benign"]
    assert text == "undefined" and attributes["title"] == "undefined: never predicted"


@pytest.mark.parametrize(
    ("initialisation", "learns", "said"),
    [
        ("scratch", "all", "from scratch"),
        ("pretrained", "all", "fine-tuned"),
        ("pretrained", "head", "pretrained body, unchanged"),
    ],
)
def test_the_page_states_which_layers_were_trained(evaluated, initialisation, learns, said):
    evaluation = copy.deepcopy(evaluated.evaluation)
    evaluation["candidates"]["first"] |= {
        "initialisation": initialisation,
        "learns": learns,
        "final": "mean of the folds' weights",
    }
    page = html.unescape(render(evaluation, {}))
    assert said in origin_of(evaluation["candidates"]["first"])
    assert f"{origin_of(evaluation['candidates']['first'])}; final network: mean of the folds' weights" in page


def test_a_figure_without_interval_says_so():
    evaluation = {"a": {"value": 0.5, "low": None, "high": None}}
    assert "no interval" in figure(evaluation, "a") and "0.500" in figure(evaluation, "a")


def test_names_are_escaped(evaluated):
    page = render({**evaluated.evaluation, "dataset": "<script>alert(1)</script>"}, {})
    assert "<script" not in page.lower()


def test_example_images_are_shown_with_their_lesions(evaluated, page):
    examples = evaluated.evaluation["examples"]
    mammograms = [
        attributes for tag, attributes, _ in page.elements if attributes.get("class", "").startswith("image ")
    ]
    assert [("right" in image["class"]) for image in mammograms] == [example["correct"] for example in examples]
    lesions = {record.image_id: len(record.lesions) for record in evaluated.records()}
    circles = [given for tag, given, _ in page.elements if tag == "circle" and "dot" not in given["class"]]
    shown = [*examples, *evaluated.evaluation["missed_cancers"][:MOST_MISSED_SHOWN]]
    assert len(circles) == sum(2 * lesions[example["image_id"]] for example in shown)
    assert {(circle["cx"], circle["cy"], circle["r"]) for circle in circles} == {("30.5", "40.0", "9.0")}
    images = [attributes["href"] for tag, attributes, _ in page.elements if tag == "image"]
    assert len(images) == 2 * len(shown)
    first = next(record for record in evaluated.records() if record.image_id == examples[0]["image_id"])
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(images[0].split(",")[1]), np.uint8), cv2.IMREAD_GRAYSCALE)
    original = cv2.imread(str(evaluated.data / first.path), cv2.IMREAD_UNCHANGED) / 257
    assert np.abs(decoded - original).mean() < 3


def test_an_example_without_a_picture_is_not_drawn(evaluated):
    example = evaluated.evaluation["examples"][0]["image_id"]
    picture = Picture(10, 20, "AAAA", "BBBB", (Circle(1.0, 2.0, 3.0, "benign"),))
    page = Page(render(evaluated.evaluation, {example: picture}))
    assert {attributes["href"] for tag, attributes, _ in page.elements if tag == "image"} == {
        "data:image/jpeg;base64,AAAA",
        "data:image/jpeg;base64,BBBB",
    }


def test_missed_cancers_are_listed_with_their_details(evaluated, page):
    evaluation = evaluated.evaluation
    threshold = evaluation["selected"]["operating_points"]["sensitivity"]["threshold"]
    missed = evaluation["missed_cancers"]
    assert all(item["truth"] == "malignant" and item["probabilities"]["malignant"] < threshold for item in missed)
    listed = {item["image_id"] for item in missed}
    for point, split in (("test", "test"), ("validation", "validation")):
        figures = evaluation["selected"][split]["image"]["operating_points"]["sensitivity"]["sensitivity"]
        malignant = evaluation["selected"][split]["image"]["malignant"]
        assert sum(item["split"] == point for item in missed) == round((1 - figures["value"]) * malignant)
    assert listed <= {record.image_id for record in evaluated.records()} and "Missed cancers" in page.text()


def test_the_words_of_the_label_table_are_explained(evaluated):
    assert "D dense-glandular (not the D of BI-RADS)" in changed(evaluated, dataset="mias")
    assert "dense-glandular" not in changed(evaluated, dataset="own")


def test_notes_about_the_release_are_in_the_audit_section(evaluated):
    assert "mias111 and mias113 show one breast" in changed(evaluated, dataset="mias+rsna", synthetic=False)
    assert "mias111" not in changed(evaluated, dataset="mias", synthetic=True)
