"""Draws contact sheets of segmentations for inspection, and counts how often each flag is raised.

Run `python -m benchmarks.data.segmentation_sheets SOURCE --out FOLDER [--only NAME ...]`. SOURCE is mini-MIAS as
released (tarball or folder), a folder of DICOM files, or `phantoms`. The outline is drawn on the image, the muscle
hatched, and lesions circled. `flags.json` in FOLDER holds the share of images with each flag. Sheets of real images
must lie outside of the repository: they may not be published.
"""

import argparse
import json
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.segmentation import BreastRegion, segment_breast
from mammopipe.processing.datasets.manifest import Laterality, Lesion, View
from mammopipe.processing.datasets.mias import read_labels
from mammopipe.processing.errors import ConfigError, ImageError
from mammopipe.processing.files import write_bytes, write_json
from mammopipe.processing.images.mammogram import Mammogram, read_mammogram
from tests.support.clinical_phantoms import Kind, make_clinical_phantom

HEIGHT, CAPTION = 420, 22
"""Height of an image and of the line below it, in pixels."""
MARGIN = 30
"""Columns shown beside the breast."""
COLUMNS, ROWS = 7, 3
REPOSITORY = Path(__file__).resolve().parents[2]
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """One image to segment."""

    name: str
    mammogram: Mammogram
    lesions: Sequence[Lesion] = ()


@dataclass
class Flags:
    """How often each flag was raised."""

    images: int = 0
    raised: Counter[str] = field(default_factory=Counter)
    of: dict[str, list[str]] = field(default_factory=dict)
    """The flags of each image that has one."""

    def add(self, name: str, flags: Sequence[str]) -> None:
        """Count one image."""
        self.images += 1
        self.raised.update(flags)
        if flags:
            self.of[name] = list(flags)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        shares = {flag: round(count / self.images, 4) for flag, count in self.raised.most_common()}
        return {"images": self.images, "raised": dict(self.raised.most_common()), "share": shares, "flags": self.of}


def mias(folder: Path) -> Iterator[Shown]:
    """Yield the films of mini-MIAS."""
    for record in read_labels(folder / "Info.txt"):
        film = read_mammogram(folder / f"{record.image_id}.pgm", record=record)
        yield Shown(record.image_id.removeprefix("mdb"), film, record.lesions)


def files(folder: Path) -> Iterator[Shown]:
    """Yield the mammograms among the DICOM files of a folder."""
    for path in sorted(folder.rglob("*.dcm")):
        try:
            yield Shown(path.stem[:12], read_mammogram(path))
        except ImageError as error:
            print(error)


def phantoms(count: int) -> Iterator[Shown]:
    """Yield phantoms of every kind, side and view in turn."""
    for number in range(count):
        kind = list(Kind)[number % len(Kind)]
        turn = number // len(Kind)
        side, view = list(Laterality)[turn % 2], (View.MLO, View.CC)[turn // 2 % 2]
        phantom = make_clinical_phantom(number, kind, laterality=side, view=view)
        yield Shown(f"{number} {kind}", Mammogram(phantom.pixels, side, view))


def drawn(shown: Shown, region: BreastRegion) -> Picture:
    """Return the image with outline, hatched muscle and lesions, and a line with its name and flags below."""
    pixels = shown.mammogram.pixels
    scale = HEIGHT / max(pixels.shape)
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    grey = (np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint16) >> 8).astype(np.uint8)
    picture = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    mask, muscle = (
        cv2.resize(part.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        for part in (region.mask, region.pectoral)
    )
    rows, columns = np.indices(muscle.shape)
    picture[(muscle > 0) & ((rows + columns) % 8 == 0)] = (60, 160, 255)
    for part, colour in ((mask, (80, 255, 80)), (muscle, (60, 160, 255))):
        outlines, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, 1)
    for lesion in shown.lesions:
        centre = (round(lesion.x * scale), round(lesion.y * scale))
        cv2.circle(picture, centre, max(2, round(lesion.radius * scale)), (0, 255, 255), 1)
    seen = np.flatnonzero(mask.any(axis=0))
    picture = picture[:, max(0, seen[0] - MARGIN) : seen[-1] + MARGIN]
    cell = np.zeros((HEIGHT + CAPTION, max(picture.shape[1], 120), 3), np.uint8)
    cell[: size[1], : picture.shape[1]] = picture
    line = f"{shown.name} {region.quality['pectoral_share']:.2f} {' '.join(region.quality['flags'])}"
    cv2.putText(cell, line, (3, HEIGHT + 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
    return cell


def sheet(cells: Sequence[Picture]) -> bytes:
    """Return the cells in a grid as the bytes of a PNG file."""
    width = max(cell.shape[1] for cell in cells)
    full = [np.pad(cell, ((0, 0), (0, width - cell.shape[1]), (0, 0))) for cell in cells]
    full += [np.zeros_like(full[0])] * (-len(full) % COLUMNS)
    rows = [np.hstack(full[start : start + COLUMNS]) for start in range(0, len(full), COLUMNS)]
    return bytes(cv2.imencode(".png", np.vstack(rows))[1].tobytes())


def write_sheets(images: Iterator[Shown], target: Path, only: Sequence[str]) -> Flags:
    """Write the sheets and return the flags of all images."""
    flags, cells, number = Flags(), list[Picture](), 0
    for shown in images:
        if only and shown.name not in only:
            continue
        mammogram = shown.mammogram
        try:
            region = segment_breast(mammogram.pixels, laterality=mammogram.laterality, view=mammogram.view)
        except ImageError as error:
            flags.add(shown.name, [type(error).__name__])
            continue
        flags.add(shown.name, region.quality["flags"])
        cells.append(drawn(shown, region))
        if len(cells) == COLUMNS * ROWS:
            write_bytes(target / f"sheet-{number:02}.png", sheet(cells))
            cells, number = [], number + 1
    if cells:
        write_bytes(target / f"sheet-{number:02}.png", sheet(cells))
    return flags


def main() -> None:
    """Write the sheets and print the share of images with each flag."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--out", type=Path, required=True, help="folder outside of the repository")
    parser.add_argument("--only", nargs="*", default=[], help="names of images; default: all")
    parser.add_argument("--phantoms", type=int, default=84, help="number of phantoms")
    options = parser.parse_args()
    target = options.out.resolve()
    if target.is_relative_to(REPOSITORY):
        raise ConfigError(f"{target}: lies inside the repository, which must hold no real image")
    with ExitStack() as stack:
        source = Path(options.source)
        if options.source == "phantoms":
            images = phantoms(options.phantoms)
        elif source.is_file():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.enter_context(tarfile.open(source)).extractall(folder, filter="data")
            images = mias(next(folder.rglob("Info.txt")).parent)
        else:
            images = mias(source) if (source / "Info.txt").is_file() else files(source)
        flags = write_sheets(images, target, options.only)
    write_json(target / "flags.json", flags.as_dict())
    print(json.dumps({name: value for name, value in flags.as_dict().items() if name != "flags"}, indent=2))


if __name__ == "__main__":
    main()
