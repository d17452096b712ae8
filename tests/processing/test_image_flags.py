"""Every flag has its line in the documentation, and flags come in one order."""

from pathlib import Path

from mammopipe.processing.image_flags import ImageFlag, in_order


def test_every_flag_is_documented() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "images.md").read_text(encoding="utf-8")
    rows = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert rows == [str(flag) for flag in ImageFlag]


def test_flags_come_once_and_in_order() -> None:
    assert in_order({ImageFlag.LOSSY, ImageFlag.DIGITISED}) == (ImageFlag.DIGITISED, ImageFlag.LOSSY)
