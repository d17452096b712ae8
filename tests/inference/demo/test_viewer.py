"""The image viewer of the demo page: hanging, zoom, window, heat and regions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mammopipe.inference.contract import heat_colours
from mammopipe.inference.demo import page as demo
from mammopipe.inference.prediction import heatmap
from tests.inference.demo.browser_page import Visit, box


def test_the_image_without_heat_is_the_image(visit: Callable[..., Visit], phantom: Any) -> None:
    page = visit()
    page.drop(phantom.png, name="film.png")
    for control in ("#overlay", "#regions"):
        page.page.uncheck(control)
    page.page.check("#pixels")
    rows, columns = phantom.pixels.shape
    shown = page.picture()[:rows, :columns, 0]
    below = slice(40, None)  # the label covers the rows above
    assert np.array_equal(shown[below], (phantom.pixels >> 8).astype(np.uint8)[below])


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
    assert page.messages == []


def test_a_region_of_the_list_is_that_of_the_image(visit: Callable[..., Visit], phantom: Any) -> None:
    page = visit()
    answer = page.drop(phantom.pgm)
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


def test_page_overlay_and_secondary_capture_share_one_colour_scale(visit: Callable[..., Visit], phantom: Any) -> None:
    page = visit()
    page.drop(phantom.pgm)
    table = page.page.evaluate("COLOURS")
    assert table == [list(colour) for colour in heat_colours.table()]
    overlay = heatmap.overlay(np.zeros((1, 256), np.uint16), np.linspace(0, 1, 256, dtype=np.float32)[None])
    for level in (60, 100, 120):  # below the outline of the warm half
        share = heat_colours.OPACITY * level / 255
        assert overlay[0, level, ::-1] == pytest.approx([share * band for band in table[level]], abs=1.01)
    assert page.page.input_value("#opacity") == str(round(100 * heat_colours.OPACITY))
    steps = ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in heat_colours.STEPS)
    assert f"linear-gradient(90deg, {steps})" in demo.page()
