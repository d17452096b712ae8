"""The page of the local server, in a real browser against the real server."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from mammopipe.inference.contract import heat_colours
from mammopipe.inference.demo import page as demo
from mammopipe.inference.prediction import heatmap
from mammopipe.processing.datasets.manifest import Label
from mammopipe.processing.phantoms.mias_tree import write_rsna_tree
from tests.inference.conftest import REPOSITORY, Server, poll, start
from tests.support import standin

PERSON = "DOE^JANE"
DROP = """(files) => {
  const held = new DataTransfer();
  for (const [name, text] of files) {
    held.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], name));
  }
  return held;
}"""


@pytest.fixture(scope="module")
def local(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start(exported, tmp_path_factory.mktemp("demo"), MAMMOPIPE_DEMO="true", MAMMOPIPE_WORKERS="1")
    poll(lambda: server.ping() == 200)
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="module")
def exam(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The DICOMs of a phantom's exam, with a name in them: LCC, LMLO, RCC, RMLO."""
    folder = tmp_path_factory.mktemp("exam")
    write_rsna_tree(folder, patients=1, height=400)
    images = []
    for path in sorted(folder.rglob("*.dcm")):
        dataset, stream = pydicom.dcmread(path), BytesIO()
        dataset.PatientName = PERSON
        dataset.ViewPosition = ("CC", "MLO")[len(images) % 2]
        dataset.save_as(stream)
        images.append(stream.getvalue())
    return images


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on the PATH: the page is tried in a real browser only")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visit:
    """The page in a browser context of its own, and all that it said and asked for."""

    def __init__(self, browser: Any, url: str, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[Any] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request))
        self.page.goto(url)

    def drop(self, *files: bytes, name: str = "DOE^JANE.dcm") -> Any:
        """Drop files on the page and return the server's first answer, once all is shown."""
        packed = [[name, base64.b64encode(data).decode()] for data in files]
        held = self.page.evaluate_handle(DROP, packed)
        with self.page.expect_response("**/invocations*") as answer:
            self.page.dispatch_event("#stage", "drop", {"dataTransfer": held})
        self.settle()
        return answer.value.json()

    def settle(self) -> None:
        self.page.wait_for_selector("#progress:empty", state="attached")

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def picture(self) -> NDArray[np.uint8]:
        """Return what the viewer shows of the film, as colours."""
        shown = cv2.imdecode(
            np.frombuffer(self.page.locator(".selected .layers").screenshot(), np.uint8), cv2.IMREAD_COLOR
        )
        return np.asarray(shown, np.uint8)


@pytest.fixture
def visit(browser: Any, local: Server) -> Iterator[Callable[..., Visit]]:
    """Return a function that opens the page; afterwards, that it asked its own server only and stored nothing."""
    visits: list[Visit] = []

    def opened(**settings: Any) -> Visit:
        visits.append(Visit(browser, local.url, **settings))
        return visits[-1]

    yield opened
    for one in visits:
        assert not [request.url for request in one.asked if not request.url.startswith((local.url, "blob:", "data:"))]
        assert one.context.storage_state() == {"cookies": [], "origins": []}
        one.context.close()


def colourful(picture: NDArray[np.uint8]) -> float:
    """Return the share of pixels that are not grey."""
    spread = picture.max(axis=2).astype(int) - picture.min(axis=2)
    return float((spread > 24).mean())


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


def test_the_image_alone_is_a_picture_and_nothing_else(local: Server, films: Any) -> None:
    reply = local.invoke(films.pgm, path="/invocations?overlay=none", Accept="image/png")
    image = cv2.imdecode(np.frombuffer(reply.body, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(image, (films.pixels >> 8).astype(np.uint8))
    refused = local.invoke(films.pgm, path="/invocations?overlay=none")
    assert (refused.status, refused.code) == (400, "bad_option")


def test_a_dropped_image_shows_its_scores_and_its_heat(visit: Callable[..., Visit], films: Any) -> None:
    page = visit()
    answer = page.drop(films.pgm, name="film.pgm")
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
    assert page.said == []


def test_the_image_without_heat_is_the_image(visit: Callable[..., Visit], films: Any) -> None:
    page = visit()
    page.drop(films.png, name="film.png")
    for control in ("#overlay", "#regions"):
        page.page.uncheck(control)
    page.page.check("#pixels")
    rows, columns = films.pixels.shape
    shown = page.picture()[:rows, :columns, 0]
    below = slice(40, None)  # the image's name lies above
    assert np.array_equal(shown[below], (films.pixels >> 8).astype(np.uint8)[below])


def test_a_dicom_is_shown_without_its_patient(visit: Callable[..., Visit], exam: list[bytes]) -> None:
    page = visit()
    answer = page.drop(exam[0])
    assert float(page.text("#image-score")) == pytest.approx(answer["malignancy_score"], abs=0.051)
    assert page.page.evaluate("document.querySelector('.selected .picture').naturalWidth") == answer["image"]["columns"]
    assert PERSON not in page.page.content()
    names = [request.url + repr(request.headers) for request in page.asked]
    assert not [name for name in names if "DOE" in name]
    assert page.said == []


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
    sent = [request.post_data_buffer or b"" for request in page.asked]
    assert not [body for body in sent if b"DOE^JANE.dcm" in body]
    assert page.said == []


def test_views_hang_right_beside_left_and_cc_above_mlo_with_their_backs_together(
    visit: Callable[..., Visit], exam: list[bytes]
) -> None:
    page = visit(viewport={"width": 1400, "height": 900})
    page.drop(*reversed(exam))
    labels = page.page.locator(".pane .label").all_inner_texts()
    assert [label.split(" · ")[1] for label in labels] == ["R CC", "L CC", "R MLO", "L MLO"]
    panes = [box(page.page.locator(".pane").nth(index)) for index in range(4)]
    images = [box(page.page.locator(".pane .layers").nth(index)) for index in range(4)]
    assert panes[0]["x"] < panes[1]["x"] and panes[0]["y"] == panes[1]["y"] < panes[2]["y"]
    for right, left in ((0, 1), (2, 3)):
        gap = images[left]["x"] - (images[right]["x"] + images[right]["width"])
        assert abs(gap) <= 2, "chest wall to chest wall"


@pytest.mark.parametrize(
    ("chosen", "places"),
    [
        pytest.param([0, 1, 2], {"L CC": (1, 0), "L MLO": (1, 1), "R CC": (0, 0)}, id="no right MLO"),
        pytest.param([1, 2, 3], {"R CC": (0, 0), "L MLO": (1, 1), "R MLO": (0, 1)}, id="no left CC"),
        pytest.param([0, 3], {"L CC": (1, 0), "R MLO": (0, 1)}, id="no pair"),
        pytest.param([0, 1], {"L CC": (0, 0), "L MLO": (1, 0)}, id="one breast"),
    ],
)
def test_the_place_of_a_missing_view_stays_free(
    visit: Callable[..., Visit], exam: list[bytes], chosen: list[int], places: dict[str, tuple[int, int]]
) -> None:
    page = visit(viewport={"width": 1400, "height": 900})
    page.drop(*(exam[index] for index in chosen))
    frame, found = box(page.page.locator("#frame")), {}
    for pane in page.page.locator(".pane").all():
        at = box(pane)
        column, row = (at["x"] - frame["x"]) / frame["width"], (at["y"] - frame["y"]) / frame["height"]
        found[pane.locator(".label").inner_text().split(" · ")[1]] = (round(2 * column), round(2 * row))
    assert found == places


def box(element: Any) -> dict[str, float]:
    found = element.bounding_box()
    assert found is not None
    return dict(found)


def test_zoom_pan_and_window_are_those_of_all_images(visit: Callable[..., Visit], exam: list[bytes]) -> None:
    page = visit(viewport={"width": 1400, "height": 900})
    page.drop(*exam)
    first, last = page.page.locator(".pane .layers").nth(0), page.page.locator(".pane .layers").nth(3)
    before, beside = box(first), box(last)
    pane = page.page.locator(".pane").nth(0)
    pane.hover()
    page.page.mouse.wheel(0, -100)
    assert box(first)["width"] == pytest.approx(1.2 * before["width"], abs=1)
    assert box(last)["width"] == pytest.approx(1.2 * beside["width"], abs=1)
    middle = {name: box(pane)[name] + box(pane)[size] / 2 for name, size in (("x", "width"), ("y", "height"))}
    for name, size in (("x", "width"), ("y", "height")):
        share = [(middle[name] - at[name]) / at[size] for at in (before, box(first))]
        assert share[0] == pytest.approx(share[1], abs=0.01), "what is below the pointer stays there"
    seam = box(pane)["x"] + box(pane)["width"]
    zoomed, zoomed_first = box(last), box(first)
    assert zoomed_first["x"] + zoomed_first["width"] - seam == pytest.approx(seam - zoomed["x"], abs=2)
    page.page.mouse.down()
    page.page.mouse.move(middle["x"] - 40, middle["y"] + 30)
    page.page.mouse.up()
    moved = [
        (box(image)["x"] - at["x"], box(image)["y"] - at["y"]) for image, at in ((first, zoomed_first), (last, zoomed))
    ]
    assert moved == [(-40, 30), (40, 30)], "left breasts move as mirror images"
    for control in ("#overlay", "#regions"):
        page.page.uncheck(control)
    usual = page.picture()
    page.page.locator("#center").fill("20")
    page.page.locator("#width").fill("40")
    brighter = page.picture()
    assert brighter.mean() > usual.mean() + 10
    page.page.click("#fit")
    assert box(first) == before and page.text("#zoom") == "100 %"
    assert page.said == []


def test_a_region_of_the_list_is_that_of_the_image(visit: Callable[..., Visit], films: Any) -> None:
    page = visit()
    answer = page.drop(films.pgm)
    listed = page.page.locator("#region-list button")
    assert listed.count() == len(answer["heatmap"]["regions"]) == page.page.locator(".region").count() > 0
    listed.first.hover()
    assert page.page.get_attribute(".region[data-region='0']", "class") == "region pointed"
    listed.first.click()
    assert page.text("#zoom") == "200 %"
    cross, pane = box(page.page.locator(".region[data-region='0'] path")), box(page.page.locator(".pane"))
    assert cross["x"] + cross["width"] / 2 == pytest.approx(pane["x"] + pane["width"] / 2, abs=3)
    page.page.click("#fit")
    page.page.locator(".region[data-region='0'] rect").click()
    assert page.page.evaluate("document.activeElement.id") == "region-0"


def test_page_overlay_and_secondary_capture_share_one_colour_scale(visit: Callable[..., Visit], films: Any) -> None:
    page = visit()
    page.drop(films.pgm)
    table = page.page.evaluate("COLOURS")
    assert table == [list(colour) for colour in heat_colours.table()]
    overlay = heatmap.overlay(np.zeros((1, 256), np.uint16), np.linspace(0, 1, 256, dtype=np.float32)[None])
    for level in (60, 100, 120):  # below the outline of the warm half
        share = heat_colours.OPACITY * level / 255
        assert overlay[0, level, ::-1] == pytest.approx([share * band for band in table[level]], abs=1.01)
    assert page.page.input_value("#opacity") == str(round(100 * heat_colours.OPACITY))
    steps = ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in heat_colours.STEPS)
    assert f"linear-gradient(90deg, {steps})" in demo.page()


def test_a_referral_comes_first_and_a_threshold_shows_what_it_is_worth(visit: Callable[..., Visit], films: Any) -> None:
    page = visit()
    said = json.loads(standin.image_json(referral=standin.REFERRED))
    said["prevalence"] = {"value": 0.154, "of": "validation", "level": "image"}
    said["heatmap"]["png"] = base64.b64encode(films.png).decode()

    def answer(route: Any) -> None:
        wants_json = route.request.headers["accept"] == "application/json"
        route.fulfill(json=said) if wants_json else route.continue_()

    page.page.route("**/invocations*", answer)
    page.drop(films.pgm)
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
        said = route.fetch().json()
        removed = said["images"].pop(0)["index"]
        for breast in said["breasts"]:
            breast["images"] = [index for index in breast["images"] if index != removed]
        said["breasts"] = [breast for breast in said["breasts"] if breast["images"]]
        texts = ("image 0: not judged: image 0: excluded (implant)", "image 1: the model is undecided")
        reasons = [{"code": "uncertain", "message": text} for text in texts]
        said["exam"]["referral"] = {"refer": True, "reasons": reasons}
        said["exam"]["prevalence"] = {"value": 0.154, "of": "validation", "level": "patient"}
        said["breasts"][0]["probability"] = 0.0123
        said["warnings"].append({"code": "refused-view", "message": "image 0 is in no score: implant"})
        said["warnings"].append({"code": "identity-incomplete", "message": "not stated: PatientName (image 0, 1)"})
        route.fulfill(json=said)

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
    assert page.said == []


def test_a_model_of_two_classes_shows_its_own(visit: Callable[..., Visit], films: Any) -> None:
    page = visit()
    said = json.loads(standin.image_json(probabilities={Label.NEGATIVE: 0.3, Label.MALIGNANT: 0.7}))
    said["heatmap"]["png"] = base64.b64encode(films.png).decode()

    def answer(route: Any) -> None:
        wants_json = route.request.headers["accept"] == "application/json"
        route.fulfill(json=said) if wants_json else route.continue_()

    page.page.route("**/invocations*", answer)
    page.drop(films.pgm)
    lines = [line for line in page.text("#answer").split("\n") if line]
    assert [lines[lines.index(f"Probability {name}") + 1] for name in ("negative", "malignant")] == ["0.300", "0.700"]
    assert "benign" not in page.text("#answer") and page.said == []


def test_a_refusal_is_shown_with_code_and_message(visit: Callable[..., Visit], films: Any, exam: list[bytes]) -> None:
    page = visit()
    error = page.drop(b"this is no film", name="notes.txt")["error"]
    assert page.page.get_attribute("#error", "role") == "alert"
    assert error["message"] in page.text("#error") and page.text("#error-code") == f"415 {error['code']}"
    error = page.drop(exam[0], b"P5 9 9 255 ")["error"]
    assert error["message"] in page.text("#error") and "Image 2 of 2" in page.text("#error")
    page.drop(films.pgm)
    assert page.text("#error") == "" and page.page.is_visible("#image-score")
    page.page.route("**/invocations*", lambda route: route.abort("connectionrefused"))
    page.page.check("input[value=specificity]")
    page.page.wait_for_selector("#error-code")
    assert "The server cannot be reached." in page.text("#error") and not page.page.is_visible("#image-score")
    assert [line for line in page.said if "Failed to load resource" not in line] == []


def test_all_can_be_reached_by_keyboard(visit: Callable[..., Visit], films: Any) -> None:
    page = visit()
    page.drop(films.pgm)
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
