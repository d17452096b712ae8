"""Which images of an exam are judged, left out or refused, with a predictor that only records what it is asked."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mammopipe.inference.contract.exclusions import Action, ExcludedImageError, Rule
from mammopipe.inference.contract.request import OperatingPoint
from mammopipe.inference.prediction.exam_prediction import predict_exam
from mammopipe.processing.breast.chest_side import Side
from mammopipe.processing.datasets.manifest import Laterality
from mammopipe.processing.errors import ConfigError, DuplicatePictureError
from mammopipe.processing.image_flags import ImageFlag

L, R = Laterality.LEFT, Laterality.RIGHT
POINT = OperatingPoint.SPECIFICITY


def image(number: int, side: Laterality | None = L, action: Action | None = None) -> Any:
    """Return a mammogram whose picture is noise of a number; with an action, the exclusions apply to it."""
    pixels = np.random.default_rng(number).integers(1, 65535, (64, 48)).astype(np.uint16)
    return SimpleNamespace(number=number, laterality=side, action=action, pixels=pixels)


class Recorder:
    """A predictor whose answers name the images that they are of."""

    def __init__(self, *, exact: bool = False, close: bool = False) -> None:
        self.exams_are_exact, self.close = exact, close
        self.judged: list[tuple[int, bool]] = []
        self.combined: list[tuple[Any, ...]] = []

    def prepare(self, mammogram: Any) -> Any:
        region = SimpleNamespace(mask=np.ones(mammogram.pixels.shape, np.bool_), chest_side=Side.LEFT)
        return SimpleNamespace(image=np.full((2, 2), mammogram.number, np.float32), region=region)

    def judge(self, mammogram: Any, prepared: Any, *, operating_point: OperatingPoint, exact: bool = False) -> Any:
        assert operating_point is POINT and prepared.image[0, 0] == mammogram.number
        if mammogram.action is not None:
            raise ExcludedImageError(ImageFlag.IMPLANT, Rule(mammogram.action, "a tag", f"reason {mammogram.number}"))
        self.judged.append((mammogram.number, exact))
        return SimpleNamespace(as_view=f"view {mammogram.number}", number=mammogram.number)

    def combine(
        self,
        views: Sequence[Any],
        operating_point: OperatingPoint,
        indices: Any = None,
        left_out: Sequence[Any] = (),
    ) -> Any:
        self.combined.append((list(views), operating_point, indices, list(left_out)))
        return f"combined {len(self.combined)}"

    def is_close(self, combined: Any) -> bool:
        assert combined == "combined 1"
        return self.close


def exam(predictor: Any, images: Sequence[Any]) -> Any:
    return predict_exam(predictor, images, POINT)


def test_all_images_are_judged_in_their_order() -> None:
    predictor = Recorder()
    found = exam(predictor, [image(5), image(3, R)])
    assert [each.number for each in found.images] == [5, 3] and found.indices == (0, 1) and found.refused == ()
    assert predictor.combined == [(["view 5", "view 3"], POINT, [0, 1], [])]
    assert predictor.judged == [(5, False), (3, False)] and found.combined == "combined 1"


def test_an_exam_of_compared_breasts_is_judged_exactly() -> None:
    predictor = Recorder(exact=True)
    exam(predictor, [image(5), image(3)])
    assert predictor.judged == [(5, True), (3, True)]


def test_an_exam_near_a_threshold_is_judged_again_exactly() -> None:
    predictor = Recorder(close=True)
    found = exam(predictor, [image(5), image(3)])
    assert predictor.judged == [(5, False), (3, False), (5, True), (3, True)] and found.combined == "combined 2"


def test_an_exam_without_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="^an exam needs at least one mammogram$"):
        exam(Recorder(), [])


def test_one_picture_twice_is_refused_before_anything_is_judged() -> None:
    predictor = Recorder()
    with pytest.raises(DuplicatePictureError, match="^image 2: the same picture as an earlier image$"):
        exam(predictor, [image(5), image(3), image(5, R)])
    assert predictor.judged == []


def test_an_image_that_is_left_out_is_named_and_refers_its_breast() -> None:
    predictor = Recorder()
    found = exam(predictor, [image(5), image(4, R, Action.LEAVE_OUT), image(3)])
    assert [each.number for each in found.images] == [5, 3] and found.indices == (0, 2)
    [refused] = found.refused
    assert (refused.index, refused.laterality) == (1, R) and isinstance(refused.error, ExcludedImageError)
    [(views, _, indices, left_out)] = predictor.combined
    assert (views, indices) == (["view 5", "view 3"], [0, 2])
    assert [(each.index, each.laterality) for each in left_out] == [(1, R)]
    [reason] = left_out[0].referral.reasons
    assert left_out[0].referral.refer and reason.code == "excluded"
    assert reason.message == "not judged: image 1: excluded (implant): reason 4; stated by a tag"


def test_a_refused_image_refuses_the_exam_and_is_named() -> None:
    with pytest.raises(ExcludedImageError) as caught:
        exam(Recorder(), [image(5), image(4, L, Action.REFUSE)])
    assert caught.value.__notes__ == ["image 1 of the exam"]


def test_an_exam_of_which_all_images_are_left_out_is_refused() -> None:
    predictor = Recorder()
    with pytest.raises(ExcludedImageError, match="reason 5"):
        exam(predictor, [image(5, L, Action.LEAVE_OUT), image(4, R, Action.LEAVE_OUT)])
    assert predictor.combined == []
