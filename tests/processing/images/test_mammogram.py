"""The public reader: how a file and its record are combined, and an unknown laterality."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

import mammopipe.processing.images.mammogram as imaging
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View
from mammopipe.processing.errors import ConfigError, ImageError, MammopipeError
from mammopipe.processing.images.mammogram import CorruptImageError, ReadConfig, read_mammogram

FLAT = np.full((16, 16), 700, np.uint16)


def record(**values: object) -> ImageRecord:
    fields: dict[str, object] = {"laterality": None, "view": None, **values}
    return ImageRecord("1", "1", "rsna", label=Label.NORMAL, **fields)  # type: ignore[arg-type]


def half_breast(left: bool) -> bytes:
    """Return a PGM of a half disc of tissue at one edge."""
    rows, columns = np.mgrid[0:160, 0:128]
    edge = 0 if left else 127
    disc = np.hypot(rows - 80, columns - edge) < 70
    return b"P5 128 160 255\n" + (disc * 120 + 5).astype(np.uint8).tobytes()


def test_the_public_names() -> None:
    assert set(imaging.__all__) == {
        "CorruptImageError",
        "ImageError",
        "ImageTooLargeError",
        "Limits",
        "Mammogram",
        "NotAMammogramError",
        "ReadConfig",
        "UnsupportedImageError",
        "identity_fields",
        "read_mammogram",
        "write_png",
    }


def test_every_error_is_one_for_the_user() -> None:
    for name in imaging.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(imaging, name), ImageError) and issubclass(ImageError, MammopipeError)


def test_the_record_supplies_what_the_file_does_not_state(make_dicom: Callable[..., bytes]) -> None:
    given = record(laterality=Laterality.LEFT, view=View.CC, pixel_spacing_mm=0.2)
    image = read_mammogram(make_dicom(FLAT), record=given)
    assert (image.laterality, image.view, image.pixel_spacing_mm) == (Laterality.LEFT, View.CC, 0.2)
    assert {
        "laterality_source": "record",
        "view_source": "record",
        "spacing_source": "record",
        "laterality_inferred": False,
    }.items() <= image.facts.items()


def test_values_of_the_file_are_kept(make_dicom: Callable[..., bytes]) -> None:
    data = make_dicom(FLAT, ImageLaterality="R", ViewPosition="MLO", PixelSpacing=["0.1", "0.1"])
    image = read_mammogram(data, record=record(view=View.MLO, pixel_spacing_mm=0.2))
    assert (image.laterality, image.view, image.pixel_spacing_mm) == (Laterality.RIGHT, View.MLO, 0.1)
    assert image.facts["laterality_source"] == "ImageLaterality (0020,0062)"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"laterality": Laterality.LEFT}, "laterality is R in the file but L in its record"),
        ({"view": View.CC}, "view is MLO in the file but CC in its record"),
    ],
)
def test_a_file_that_contradicts_its_record_is_refused(
    make_dicom: Callable[..., bytes], values: dict[str, object], message: str
) -> None:
    data = make_dicom(FLAT, ImageLaterality="R", ViewPosition="MLO")
    with pytest.raises(CorruptImageError, match=message):
        read_mammogram(data, record=record(**values))


@pytest.mark.parametrize("left", [True, False])
def test_a_side_that_is_not_stated_is_inferred_and_marked(left: bool) -> None:
    image = read_mammogram(half_breast(left), record=record())
    assert image.laterality is (Laterality.LEFT if left else Laterality.RIGHT)
    assert image.facts["laterality_inferred"] is True and image.facts["laterality_source"] == "image"


def test_a_side_that_the_image_does_not_show_stays_unknown() -> None:
    left = np.frombuffer(half_breast(True)[15:], np.uint8).reshape(160, 128)
    symmetric = np.maximum(left, left[:, ::-1])
    for pixels in (symmetric, np.zeros((160, 128), np.uint8), np.full((160, 128), 9, np.uint8)):
        image = read_mammogram(b"P5 128 160 255\n" + pixels.tobytes())
        assert image.laterality is None and image.facts["laterality_inferred"] is False


def test_the_real_images_show_their_side(mias_folder: Path) -> None:
    """Even film numbers are left. mdb151 and mdb152 lie the other way round than all others."""
    sides = {}
    for path in sorted(mias_folder.glob("mdb*.pgm")):
        image = read_mammogram(path)
        if image.laterality:
            sides[int(path.stem[3:])] = image.laterality is Laterality.LEFT
    wrong = [number for number, left in sides.items() if left != (number % 2 == 0)]
    assert len(sides) >= 315 and wrong == [151, 152]


def test_configurations_are_checked() -> None:
    for values in ({"window_index": -1}, {"lut_index": -1}, {"threads": 0}):
        with pytest.raises(ConfigError, match=next(iter(values))):
            ReadConfig(**values)
    with pytest.raises(ValidationError):
        ReadConfig().threads = 2


def test_a_reader_imports_no_part_of_numpy_late(tmp_path: Path) -> None:
    """A late import splits the memory that the decoder has freed: 50 MiB more at 5355 x 4915."""
    (tmp_path / "a.pgm").write_bytes(half_breast(left=True))
    code = (
        "import pathlib, sys; from mammopipe.processing.images.mammogram import read_mammogram; "
        "known = set(sys.modules); read_mammogram(pathlib.Path(sys.argv[1])); "
        "print([name for name in set(sys.modules) - known if name.startswith('numpy')])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.pgm")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"
