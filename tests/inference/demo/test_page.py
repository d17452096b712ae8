"""The page of the local server, in a real browser against the real server."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mammopipe.inference.demo import page as demo
from mammopipe.processing.datasets.manifest import Label
from tests.inference.conftest import REPOSITORY, Server
from tests.inference.demo.browser_page import PERSON, Visit, colourful
from tests.support import standin


def test_one_document_holds_everything_and_its_policy_fits() -> None:
    page = demo.page()
    assert not re.search(r"(?:src|href)=\"(?!data:,)|@import|url\((?!#)|https?://(?!www\.w3\.org/2000/svg)", page)
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        content = re.search(f"<{tag}>(.*)</{tag}>", page, re.DOTALL)
        assert content is not None and len(content[1]) > 1000
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in demo.policy()


def test_the_page_is_there_for_the_demo_only(local: Server, server: Server) -> None:
    reply = local.request("GET", "/")
    assert (reply.status, reply.headers["content-security-policy"]) == (200, demo.policy())
    assert b"research use only: not for diagnosis" in reply.body
    assert server.request("GET", "/").status == 404


def test_the_page_is_refused_beyond_the_loopback_interface(base: Path) -> None:
    environment = {**os.environ, "MAMMOPIPE_BASE": str(base), "MAMMOPIPE_HOST": "0.0.0.0"}
    ended = subprocess.run(
        [sys.executable, "-m", "mammopipe.inference.server", "--demo"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: MAMMOPIPE_DEMO=true needs") and ended.stderr.count("\n") == 1


def test_the_image_alone_is_a_picture_and_nothing_else(local: Server, phantom: Any) -> None:
    reply = local.invoke(phantom.pgm, path="/invocations?overlay=none", Accept="image/png")
    image = cv2.imdecode(np.frombuffer(reply.body, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(image, (phantom.pixels >> 8).astype(np.uint8))
    refused = local.invoke(phantom.pgm, path="/invocations?overlay=none")
    assert (refused.status, refused.code) == (400, "bad_option")


def test_a_dropped_image_shows_its_scores_and_its_heat(visit: Callable[..., Visit], phantom: Any) -> None:
    page = visit()
    answer = page.drop(phantom.pgm, name="film.pgm")
    assert float(page.text("#image-score")) == pytest.approx(answer["malignancy_score"], abs=0.051)
    refer = answer["referral"]["refer"]
    assert page.text("#image-verdict") == ("Refer to reader" if refer else "Suspicious")
    for warning in (*answer["warnings"], *answer["referral"]["reasons"]):
        assert warning["message"] in page.text("#answer")
    assert answer["model"]["id"] in page.text("#answer")
    assert page.page.is_visible("text=research use only: not for diagnosis")
    assert page.page.locator(".boxes rect").count() == len(answer["heatmap"]["regions"]) > 0
    warm = colourful(page.picture())
    page.page.uncheck("#overlay")
    page.page.uncheck("#regions")
    assert warm > 0.002 and colourful(page.picture()) == 0
    assert page.messages == []


def test_a_dicom_is_shown_without_its_patient(visit: Callable[..., Visit], exam: list[bytes]) -> None:
    page = visit()
    answer = page.drop(exam[0])
    assert float(page.text("#image-score")) == pytest.approx(answer["malignancy_score"], abs=0.051)
    assert page.page.evaluate("document.querySelector('.selected .picture').naturalWidth") == answer["image"]["columns"]
    assert PERSON not in page.page.content()
    names = [request.url + repr(request.headers) for request in page.requests]
    assert not [name for name in names if "DOE" in name]
    assert page.messages == []


def test_an_exam_shows_breasts_images_and_the_chosen_point(visit: Callable[..., Visit], exam: list[bytes]) -> None:
    page = visit()
    answer = page.drop(*exam)
    assert float(page.text("#exam-score")) == pytest.approx(answer["exam"]["malignancy_score"], abs=0.051)
    assert page.page.locator("#levels tbody tr").count() == len(exam) + len(answer["breasts"])
    assert page.page.locator(".pane").count() == len(exam)
    page.page.locator(".pane[data-index='1']").focus()
    assert float(page.text("#image-score")) == pytest.approx(answer["images"][1]["malignancy_score"], abs=0.051)
    with page.page.expect_response("**/invocations*") as again:
        page.page.check("input[value=specificity]")
    page.settle()
    assert again.value.json()["images"][0]["decision"]["operating_point"] == "specificity"
    sent = [request.post_data_buffer or b"" for request in page.requests]
    assert not [body for body in sent if b"DOE^JANE.dcm" in body]
    assert page.messages == []


def test_a_referral_comes_first_and_a_threshold_shows_what_it_is_worth(
    visit: Callable[..., Visit], phantom: Any
) -> None:
    page = visit()
    fake = json.loads(standin.image_json(referral=standin.REFERRED))
    fake["prevalence"] = {"value": 0.154, "of": "validation", "level": "image"}
    fake["heatmap"]["png"] = base64.b64encode(phantom.png).decode()

    def answer(route: Any) -> None:
        wants_json = route.request.headers["accept"] == "application/json"
        route.fulfill(json=fake) if wants_json else route.continue_()

    page.page.route("**/invocations*", answer)
    page.drop(phantom.pgm)
    card = page.text("#answer section.card")
    assert card.index("Refer to reader") < card.index("entropy 1.05, limit 0.90") < card.index("Sensitivity")
    lines = [line for line in card.split("\n") if line]
    assert lines[lines.index("Sensitivity") + 1] == "92 % (71 % to 98 %)"
    assert lines[lines.index("Recall rate") + 1] == "25 %"
    assert lines[lines.index("Cases") + 1] == "52, 8 of them malignant"
    assert "holds where 15 % are malignant" in card


def test_reasons_name_the_images_as_their_labels_do(visit: Callable[..., Visit], exam: list[bytes]) -> None:
    """Numbers count the chosen files, also those that were not judged."""
    page = visit()

    def answer(route: Any) -> None:
        if route.request.headers["accept"] != "application/json":
            return route.continue_()
        fake = route.fetch().json()
        removed = fake["images"].pop(0)["index"]
        for breast in fake["breasts"]:
            breast["images"] = [index for index in breast["images"] if index != removed]
        fake["breasts"] = [breast for breast in fake["breasts"] if breast["images"]]
        texts = ("image 0: not judged: image 0: excluded (implant)", "image 1: the model is undecided")
        reasons = [{"code": "uncertain", "message": text} for text in texts]
        fake["exam"]["referral"] = {"refer": True, "reasons": reasons}
        fake["exam"]["prevalence"] = {"value": 0.154, "of": "validation", "level": "patient"}
        fake["breasts"][0]["probability"] = 0.0123
        fake["warnings"].append({"code": "refused-view", "message": "image 0 is in no score: implant"})
        fake["warnings"].append({"code": "identity-incomplete", "message": "not stated: PatientName (image 0, 1)"})
        route.fulfill(json=fake)

    page.page.route("**/invocations*", answer)
    page.drop(*exam)
    label = page.text(".pane[data-index='0'] .label")
    assert label.startswith("Image 2 · ")
    report = page.text("#answer")
    assert "Image 1: not judged: Image 1: excluded (implant)" in report and "Image 1 is in no score" in report
    assert f"PatientName (Image 1, {label})" in report
    assert f"{label}: the model is undecided" in report and "image 0" not in report
    assert "is not a calibrated probability. It assumes that 15 % are malignant" in report
    assert "breast 1.2 %." in page.text("#breast-probabilities")
    assert page.messages == []


def test_a_model_of_two_classes_shows_its_own(visit: Callable[..., Visit], phantom: Any) -> None:
    page = visit()
    fake = json.loads(standin.image_json(probabilities={Label.NEGATIVE: 0.3, Label.MALIGNANT: 0.7}))
    fake["heatmap"]["png"] = base64.b64encode(phantom.png).decode()

    def answer(route: Any) -> None:
        wants_json = route.request.headers["accept"] == "application/json"
        route.fulfill(json=fake) if wants_json else route.continue_()

    page.page.route("**/invocations*", answer)
    page.drop(phantom.pgm)
    lines = [line for line in page.text("#answer").split("\n") if line]
    assert [lines[lines.index(f"Probability {name}") + 1] for name in ("negative", "malignant")] == ["0.300", "0.700"]
    assert "benign" not in page.text("#answer") and page.messages == []


def test_a_refusal_is_shown_with_code_and_message(visit: Callable[..., Visit], phantom: Any, exam: list[bytes]) -> None:
    page = visit()
    error = page.drop(b"this is no film", name="notes.txt")["error"]
    assert page.page.get_attribute("#error", "role") == "alert"
    assert error["message"] in page.text("#error") and page.text("#error-code") == f"415 {error['code']}"
    error = page.drop(exam[0], b"P5 9 9 255 ")["error"]
    assert error["message"] in page.text("#error") and "Image 2 of 2" in page.text("#error")
    page.drop(phantom.pgm)
    assert page.text("#error") == "" and page.page.is_visible("#image-score")
    page.page.route("**/invocations*", lambda route: route.abort("connectionrefused"))
    page.page.check("input[value=specificity]")
    page.page.wait_for_selector("#error-code")
    assert "The server cannot be reached." in page.text("#error") and not page.page.is_visible("#image-score")
    assert [line for line in page.messages if "Failed to load resource" not in line] == []


def test_all_can_be_reached_by_keyboard(visit: Callable[..., Visit], phantom: Any) -> None:
    page = visit()
    page.drop(phantom.pgm)
    reached = set()
    for _ in range(40):
        page.page.keyboard.press("Tab")
        reached.add(page.page.evaluate("document.activeElement.id || document.activeElement.name"))
    assert {"overlay", "opacity", "regions", "pixels", "center", "width", "closer", "fit", "clear", "point"} <= reached
    assert {"region-0", "stated-laterality"} <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_needs_no_sideways_scrolling(
    visit: Callable[..., Visit], exam: list[bytes], scheme: str
) -> None:
    page = visit(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.drop(*exam[:2])
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 360
    page.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    notice = page.page.locator("#notice").bounding_box()
    assert notice is not None and 0 <= notice["y"] < 100  # it stays in sight
