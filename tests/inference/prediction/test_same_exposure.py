"""One exposure is recognised in several encodings; two exposures, even of one breast, are distinguished."""

from collections.abc import Callable
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mammopipe.inference.prediction.same_exposure import CELLS, ROWS, Exposure, Exposures
from mammopipe.processing.breast.chest_side import Side
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.images.mammogram import Mammogram, read_mammogram
from mammopipe.processing.phantoms.film import make_film
from tests.processing.conftest import write_dicom

CONFIG = PreprocessConfig(height=96, width=64)
Pixels = NDArray[Any]


def drawn(seed: int, laterality: Laterality = Laterality.LEFT, **more: Any) -> Pixels:
    """Return the pixels of a phantom, uint16 on the full scale."""
    size = {"height": 512, "width": 410, "bits": 12}
    return make_film(seed, label=Label.NORMAL, laterality=laterality, **{**size, **more}).pixels


def png(pixels: Pixels) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1].tobytes())


def has(exposures: Exposures, data: bytes) -> bool:
    mammogram: Mammogram = read_mammogram(data)
    return exposures.has(mammogram, preprocess(mammogram, CONFIG))


def eight(pixels: Pixels) -> Pixels:
    return (pixels >> 8).astype(np.uint8)


def windowed(pixels: Pixels) -> Pixels:
    return (np.clip((pixels / 65535 - 0.04) / 0.86, 0, 1) * 255).round().astype(np.uint8)


def by_a_curve(pixels: Pixels) -> Pixels:
    return (255 * (pixels / 65535) ** 0.8).round().astype(np.uint8)


def compressed(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", eight(pixels), [cv2.IMWRITE_JPEG_QUALITY, 85])[1], 0))


ENCODINGS: dict[str, Callable[[Pixels], bytes]] = {
    "8 bits": lambda pixels: png(eight(pixels)),
    "10 bits": lambda pixels: b"P5 %d %d 1023\n" % pixels.shape[::-1] + (pixels >> 6).astype(">u2").tobytes(),
    "DICOM of 12 bits": lambda pixels: write_dicom(pixels >> 4, bits=12),
    "a window": lambda pixels: png(windowed(pixels)),
    "a curve": lambda pixels: png(by_a_curve(pixels)),
    "JPEG": lambda pixels: png(compressed(pixels)),
    "half the size": lambda pixels: png(cv2.resize(eight(pixels), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
    "three tenths larger": lambda pixels: png(cv2.resize(eight(pixels), None, fx=1.3, fy=1.3)),
    "mirrored": lambda pixels: png(np.ascontiguousarray(eight(pixels)[:, ::-1])),
    "cropped": lambda pixels: png(np.ascontiguousarray(eight(pixels)[5:])),
}


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("seed", [3, 4])
def test_one_exposure_in_two_encodings_is_one(name: str, seed: int) -> None:
    pixels, exposures = drawn(seed), Exposures()
    assert not has(exposures, png(pixels))
    assert has(exposures, ENCODINGS[name](pixels))


def test_different_images_are_different_exposures() -> None:
    exposures = Exposures()
    kinds = ((Laterality.LEFT, View.MLO), (Laterality.RIGHT, View.MLO), (Laterality.LEFT, View.CC))
    for number, (side, view) in enumerate(kinds * 6):
        pixels = drawn(number, side, view=view, patient_seed=number // 3, height=256, width=205)
        assert not has(exposures, png(eight(pixels))), (number, side, view)


def test_two_exposures_of_one_breast_are_two() -> None:
    """The same breast in the same place, but with the noise of each exposure, or moved by two pixels."""
    pixels, noise = drawn(3), np.random.default_rng(0)
    tissue = pixels > 0

    def exposed(moved: int) -> bytes:
        noisy = pixels + noise.normal(0, 0.02 * 65535, pixels.shape) * tissue
        return png(np.roll(np.clip(noisy, 0, 65535), moved, axis=0).astype(np.uint16))

    for first, second in combinations([exposed(0), exposed(0), exposed(2)], 2):
        exposures = Exposures()
        assert not has(exposures, first)
        assert not has(exposures, second)


# Each of the two tests alone


def kept(cells: float = 0.5, shape: tuple[int, int] = (100, 80), seed: int | None = None) -> Exposure:
    """Return an exposure with the same rank in every cell; its pixels are noise if a seed is given, else equal."""
    pixels = np.full(shape, 1000, np.uint16)
    if seed is not None:
        pixels = np.random.default_rng(seed).integers(1, 65535, shape).astype(np.uint16)
    return Exposure(np.full((CELLS, CELLS), cells, np.float32), pixels, np.full(shape, 255, np.uint8))


@pytest.mark.parametrize(
    ("shape", "limit"), [((100, 80), 0.1), ((50, 40), 0.1), ((101, 80), 0.1), ((102, 80), 0.03), ((100, 82), 0.03)]
)
def test_the_limit_of_the_coarse_test_depends_on_the_frames(shape: tuple[int, int], limit: float) -> None:
    for change in (limit, -limit):
        assert kept().is_of(kept(0.5 + 0.99 * change, shape)) and not kept().is_of(kept(0.5 + 1.01 * change, shape))
        assert kept(0.5 + 0.99 * change, shape).is_of(kept())


def test_the_fine_test_compares_the_detail_away_from_the_outline() -> None:
    one, other = kept(seed=1), kept(seed=2)
    assert one.is_of(kept(seed=1)) and not one.is_of(other)
    rim = np.ones((100, 80), np.bool_)
    rim[7:-7, 7:-7] = False
    mixed = Exposure(one.cells, np.where(rim, other.pixels, one.pixels), one.inside)
    half = other.inside // 2 + 1
    assert not one.is_of(other) and not one.is_of(Exposure(other.cells, other.pixels, half)), "128 is inside"
    inner = Exposure(one.cells, np.where(rim, one.pixels, other.pixels), one.inside)
    assert mixed.is_of(one) and not inner.is_of(one), "what differs in the rim alone is one exposure"


def test_files_whose_width_differs_by_one_pixel_have_the_same_frame() -> None:
    assert kept(0.5, (100, 64)).is_of(kept(0.55, (100, 65))), "65/64 - 1 is 1/64"
    assert not kept(0.5, (100, 64)).is_of(kept(0.55, (99, 65)))


def test_the_larger_image_is_averaged_to_the_size_of_the_smaller() -> None:
    small = np.random.default_rng(0).integers(2000, 4096, (100, 80))
    large = np.random.default_rng(1).integers(0, 1000, (400, 320))
    # One pixel of each block of 4 x 4 gives the block the mean of the small image.
    large[::4, ::4] = 0
    large[::4, ::4] = 16 * small - large.reshape(100, 4, 80, 4).sum(axis=(1, 3))
    one, other = (
        Exposure(kept().cells, pixels.astype(np.uint16), np.full(pixels.shape, 255, np.uint8))
        for pixels in (small, large)
    )
    assert one.is_of(other) and other.is_of(one)


def images_of(pixels: Pixels, side: Side = Side.LEFT, mask: Any = None) -> tuple[Any, Any]:
    """Return a mammogram and the network's input made from it, as far as they are used."""
    mask = np.ones(pixels.shape, np.bool_) if mask is None else mask
    return SimpleNamespace(pixels=pixels), SimpleNamespace(region=SimpleNamespace(mask=mask, chest_side=side))


def of(pixels: Pixels, side: Side = Side.LEFT, mask: Any = None) -> Exposure:
    return Exposure.of(*images_of(pixels, side, mask))


def test_every_earlier_image_of_the_exam_is_remembered() -> None:
    exposures = Exposures()
    one, other, third = np.random.default_rng(0).integers(1, 65535, (3, 64, 48)).astype(np.uint16)
    found = [exposures.has(*images_of(pixels)) for pixels in (one, other, one, third, other)]
    assert found == [False, False, True, False, True]
    assert Exposures().has(*images_of(one)) is False, "another exam has seen none"


def test_the_cells_of_the_tissue_are_ranked_by_brightness() -> None:
    rising = np.arange(1, CELLS * CELLS + 1, dtype=np.uint16).reshape(CELLS, CELLS)
    found = of(rising)
    assert found.cells == pytest.approx(rising / (CELLS * CELLS)) and np.array_equal(found.pixels, rising)
    assert found.inside.min() == 255
    turned = of(np.ascontiguousarray(rising[:, ::-1]), Side.RIGHT)
    assert np.array_equal(turned.cells, found.cells) and np.array_equal(turned.pixels, rising)
    # The grid covers the bounding box of the tissue; cells outside the tissue have rank 0.
    larger, mask = np.zeros((50, 60), np.uint16), np.zeros((50, 60), np.bool_)
    larger[5 : 5 + CELLS, 9 : 9 + CELLS], mask[5 : 5 + CELLS, 9 : 9 + CELLS] = rising, True
    assert np.array_equal(of(larger, mask=mask).cells, found.cells)
    mask[5, 9:19] = False
    cells = of(larger, mask=mask).cells
    turned = of(np.ascontiguousarray(larger[:, ::-1]), Side.RIGHT, np.ascontiguousarray(mask[:, ::-1]))
    assert np.array_equal(turned.cells, cells)
    assert (cells[0, :10] == 0).all() and cells[0, 10] == pytest.approx(1 / (CELLS * CELLS - 10)) and cells.max() == 1


def test_equally_bright_cells_are_ranked_in_reading_order() -> None:
    half = np.arange(CELLS * CELLS // 2)
    # Dark and bright cells take turns.
    found = of((7 + np.arange(CELLS * CELLS) % 2).astype(np.uint16).reshape(CELLS, CELLS)).cells
    assert found.dtype == np.float32
    assert found.ravel()[::2] == pytest.approx((half + 1) / (CELLS * CELLS))
    assert found.ravel()[1::2] == pytest.approx((half + 1 + len(half)) / (CELLS * CELLS))


def test_the_brightness_of_a_cell_is_the_mean_of_its_tissue() -> None:
    # The only bright pixel of each cell is in its corner; the last cell is the darkest.
    falling = np.arange(CELLS * CELLS, 0, -1).reshape(CELLS, CELLS)
    pixels, mask = np.zeros((4 * CELLS, 4 * CELLS), np.uint16), np.ones((4 * CELLS, 4 * CELLS), np.bool_)
    pixels[::4, ::4] = 60 * falling
    assert of(pixels).cells == pytest.approx(falling / (CELLS * CELLS))
    # Half of the first cell is air, so its tissue is twice as bright; one pixel more, and the cell is air.
    mask[:4, 2:4] = False
    assert of(pixels, mask=mask).cells == pytest.approx(falling / (CELLS * CELLS))
    mask[3, 1] = False
    assert of(pixels, mask=mask).cells[0, 0] == 0


def test_a_pixel_of_the_copy_is_tissue_if_half_of_it_is() -> None:
    mask = np.ones((2 * ROWS, 2 * CELLS), np.bool_)
    mask[:, -1] = False
    found = of(np.full(mask.shape, 9, np.uint16), mask=mask)
    assert (found.inside[:, -1] == 128).all() and (found.cells[:, -1] > 0).all()
    mask[::2, -2] = False
    found = of(np.full(mask.shape, 9, np.uint16), mask=mask)
    assert (found.inside[:, -1] == 64).all() and (found.cells[:, -1] == 0).all()


def test_the_copy_has_at_most_the_stated_rows() -> None:
    assert of(np.ones((2 * ROWS, 100), np.uint16)).pixels.shape == (ROWS, 50)
    assert of(np.ones((ROWS, 100), np.uint16)).inside.shape == (ROWS, 100)
    assert of(np.ones((3 * ROWS, 1), np.uint16)).pixels.shape == (ROWS, 1)
