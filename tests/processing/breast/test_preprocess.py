"""The network's input: its orientation and size, its lesions, and the settings that determine it."""

import cv2
import numpy as np
import pytest

from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess, reduce_height, to_unit
from mammopipe.processing.breast.segmentation import Side
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.images.mammogram import Mammogram
from mammopipe.processing.phantoms.mias_tree import make_film

CONFIG = PreprocessConfig(height=256, width=160)


@pytest.mark.parametrize("side", Laterality)
def test_the_chest_wall_is_on_the_left_and_everything_else_is_black(side: Laterality) -> None:
    image = make_film(3, label=Label.NORMAL, laterality=side)
    result = preprocess(Mammogram(image.pixels, side, View.MLO), CONFIG)
    assert result.pixels.shape == (256, 160)
    assert result.pixels.dtype == np.uint16
    columns = (result.pixels > 0).sum(axis=0)
    assert columns[:10].mean() > 3 * columns[-10:].mean()
    rows = np.flatnonzero((result.pixels > 0).any(axis=1))
    assert rows[-1] - rows[0] > 245 or (result.pixels[:, -2:] > 0).any()


@pytest.mark.parametrize("side", Laterality)
@pytest.mark.parametrize("max_height", [2048, 700])
def test_lesions_move_with_the_pixels_and_back(side: Laterality, max_height: int) -> None:
    image = make_film(5, label=Label.MALIGNANT, laterality=side)
    config = CONFIG.replace(max_height=max_height)
    result = preprocess(Mammogram(image.pixels, side, View.MLO), config, image.lesions)
    for before, after in zip(image.lesions, result.lesions, strict=True):
        assert result.to_original(after.x, after.y) == pytest.approx((before.x, before.y), abs=0.01)
        inside = np.zeros(result.pixels.shape, np.uint8)
        cv2.circle(inside, (round(after.x), round(after.y)), round(after.radius * 0.6), 1, -1)
        assert result.pixels[inside > 0].mean() > 1.2 * result.pixels[result.pixels > 0].mean()


def test_a_marked_pixel_lands_where_its_lesion_lands() -> None:
    mammogram = make_film(5, label=Label.MALIGNANT, laterality=Laterality.RIGHT)
    lesion = mammogram.lesions[0]
    pixels = mammogram.pixels.copy()
    cv2.circle(pixels, (round(lesion.x), round(lesion.y)), 6, 65535, -1)
    plain, marked = (
        preprocess(Mammogram(image, Laterality.RIGHT, View.MLO), CONFIG, [lesion])
        for image in (mammogram.pixels, pixels)
    )
    change = np.abs(marked.image - plain.image)
    change[change < 0.5 * change.max()] = 0
    y, x = (float((grid * change).sum() / change.sum()) for grid in np.indices(change.shape))
    assert (x, y) == pytest.approx((plain.lesions[0].x, plain.lesions[0].y), abs=1.0)


def test_the_pectoral_muscle_stays_only_when_asked_for() -> None:
    image = make_film(3, label=Label.NORMAL, laterality=Laterality.LEFT)
    mammogram = Mammogram(image.pixels, Laterality.LEFT, View.MLO)
    without, whole = (preprocess(mammogram, CONFIG.replace(remove_pectoral=remove)) for remove in (True, False))
    assert without.region.pectoral.any()
    assert (whole.pixels > 0).sum() > (without.pixels > 0).sum()


def test_the_image_is_the_stored_pixels_as_a_share_of_full_scale() -> None:
    mammogram = make_film(4, label=Label.NORMAL, laterality=Laterality.LEFT)
    result = preprocess(Mammogram(mammogram.pixels), CONFIG)
    assert result.image.dtype == np.float32
    assert np.array_equal(result.image, to_unit(result.pixels))
    assert result.image.min() == 0
    assert result.image.max() == 1


def test_a_mirrored_image_gives_the_same_input() -> None:
    mammogram = make_film(6, label=Label.NORMAL, laterality=Laterality.LEFT)
    left = preprocess(Mammogram(mammogram.pixels, Laterality.LEFT, View.MLO), CONFIG)
    mirrored = Mammogram(np.ascontiguousarray(mammogram.pixels[:, ::-1]), Laterality.RIGHT, View.MLO)
    right = preprocess(mirrored, CONFIG)
    assert (left.region.chest_side, right.region.chest_side) == (Side.LEFT, Side.RIGHT)
    assert np.abs(left.image - right.image).mean() < 0.01


def test_what_the_caller_knows_of_side_and_view_does_not_change_the_pixels() -> None:
    image = make_film(7, label=Label.BENIGN, laterality=Laterality.LEFT)
    known = preprocess(Mammogram(image.pixels, Laterality.LEFT, View.MLO), CONFIG)
    unknown = preprocess(Mammogram(image.pixels), CONFIG)
    assert np.array_equal(known.pixels, unknown.pixels)


def test_reducing_averages_and_leaves_small_images_alone() -> None:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 100
    assert reduce_height(pixels, 8) is pixels
    assert np.array_equal(reduce_height(pixels, 4), pixels.reshape(4, 2, 4, 2).mean(axis=(1, 3)))


def test_the_config_travels_as_json_and_its_digest_tells_configs_apart() -> None:
    assert PreprocessConfig.from_json(CONFIG.to_json()) == CONFIG
    assert CONFIG.digest != CONFIG.replace(remove_pectoral=False).digest


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"height": 16}, "height = 16: between 32 and 8192"),
        ({"max_height": 100}, "max_height=100"),
        ({"low_percentile": 99.9}, "low_percentile=99.9"),
    ],
)
def test_a_contradiction_is_refused_by_name(values: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        CONFIG.replace(**values)


def test_json_of_another_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match="preprocess: unknown key 'hight'; did you mean height"):
        PreprocessConfig.from_json(CONFIG.to_json() | {"hight": 256})
    with pytest.raises(ConfigError, match="preprocess: .*width is missing"):
        PreprocessConfig.from_json({"height": 256})
    with pytest.raises(ConfigError, match="preprocess: height = '256': must be a whole number"):
        PreprocessConfig.from_json(CONFIG.to_json() | {"height": "256"})
