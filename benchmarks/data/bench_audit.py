"""Measures which altered copies of an image the leakage audit finds: `python -m benchmarks.data.bench_audit`.

For each alteration, every image is in the test split, and an altered copy of it, with another id and another patient,
in the training split. Images and copies are segmented as in a run. Prints rows for `make bench`, or with `--table` a
Markdown table. Without `--mias`, the images are phantoms, which have less detail than films.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Row, row
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.datasets.manifest import ImageRecord, Split
from mammopipe.processing.datasets.mias import DATASET
from mammopipe.processing.errors import MammopipeError
from mammopipe.processing.files import sha256
from mammopipe.processing.images.mammogram import Mammogram, read_mammogram, write_png
from mammopipe.processing.phantoms.trees import write_phantoms
from mammopipe.processing.splits.leakage_audit import audit_leakage

COMMAND = "python -m benchmarks.data.bench_audit"
Pixels = NDArray[np.uint16]
BAR = 0.95
_FULL = 65535.0


@dataclass(frozen=True)
class Image:
    """An image before segmentation, and its row of the label table."""

    pixels: Pixels
    record: ImageRecord


Alteration = Callable[[Image, Image], Pixels]
"""Makes the copy of an image; the second image is of another patient."""


def _pixelwise(change: Callable[[NDArray[np.float32]], NDArray[np.float32]], image: Image, _: Image) -> Pixels:
    """Apply a change to values in 0..1."""
    values = change(image.pixels.astype(np.float32) / np.float32(_FULL))
    return np.asarray(np.rint(np.clip(values, 0, 1) * _FULL), np.uint16)


def _jpeg(quality: int, image: Image, other: Image) -> Pixels:
    _, data = cv2.imencode(".jpg", (image.pixels >> 8).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint16) * np.uint16(257)


def _blur(deviation: float, image: Image, _: Image) -> Pixels:
    return np.asarray(cv2.GaussianBlur(image.pixels, (0, 0), deviation), np.uint16)


def _noise(deviation: float, image: Image, other: Image) -> Pixels:
    random = np.random.default_rng(list(image.record.image_id.encode()))
    drawn = random.normal(0, deviation, image.pixels.shape).astype(np.float32)
    return _pixelwise(lambda values: np.where(values > 0, values + drawn, 0), image, other)


def _warp(matrix: Callable[[int, int], NDArray[np.float64]], image: Image, _: Image) -> Pixels:
    """Apply an affine transform, a 2 x 3 matrix made for the image's height and width."""
    height, width = image.pixels.shape
    return np.asarray(cv2.warpAffine(image.pixels, matrix(height, width), (width, height)), np.uint16)


def _rotated(degrees: float, height: int, width: int) -> NDArray[np.float64]:
    return np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1), np.float64)


def _stretched(across: float, down: float, height: int, width: int) -> NDArray[np.float64]:
    return np.array([[across, 0, (1 - across) * width / 2], [0, down, (1 - down) * height / 2]], np.float64)


def _elastic(size: float, image: Image, _: Image) -> Pixels:
    """Move each pixel by up to about `size` percent of the height, smoothly."""
    random, (height, width) = np.random.default_rng(0), image.pixels.shape
    fields = []
    for _axis in range(2):
        coarse = random.uniform(-1, 1, (8, 8)).astype(np.float32) * np.float32(size / 100 * height)
        fields.append(np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32))
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.asarray(cv2.remap(image.pixels, x + fields[0], y + fields[1], cv2.INTER_LINEAR), np.uint16)


def _half(upper: bool, image: Image, _: Image) -> Pixels:
    middle, kept = image.pixels.shape[0] // 2, image.pixels.copy()
    kept[slice(middle, None) if upper else slice(0, middle)] = 0
    return kept


def _quarter(image: Image, _: Image) -> Pixels:
    """Return the quarter of the image around the brightest tissue, at twice its size."""
    height, width = image.pixels.shape
    blurred = cv2.blur(image.pixels.astype(np.float32), (width // 4, height // 4))
    y, x = np.unravel_index(int(blurred.argmax()), blurred.shape)
    top = int(np.clip(y - height // 4, 0, height - height // 2))
    left = int(np.clip(x - width // 4, 0, width - width // 2))
    part = image.pixels[top : top + height // 2, left : left + width // 2]
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR), np.uint16)


def _mixed(share: float, image: Image, other: Image) -> Pixels:
    second = cv2.resize(other.pixels, image.pixels.shape[::-1], interpolation=cv2.INTER_AREA)
    return np.rint(share * image.pixels + (1 - share) * np.asarray(second, np.float64)).astype(np.uint16)


def _clahe(image: Image, _: Image) -> Pixels:
    even = cv2.createCLAHE(4.0, (8, 8)).apply((image.pixels >> 8).astype(np.uint8))
    return np.where(image.pixels > 0, np.asarray(even, np.uint16) * 257, 0).astype(np.uint16)


def _negative(image: Image, _: Image) -> Pixels:
    return (65535 - image.pixels).astype(np.uint16)


def _flipped(axis: int, image: Image, _: Image) -> Pixels:
    return np.ascontiguousarray(np.flip(image.pixels, axis))


def _patch(image: Image, other: Image) -> Pixels:
    """Return the other patient's image with a square of this one's lesion, or of its brightest tissue, pasted in."""
    size = image.pixels.shape[0] // 8
    spots = []
    for each in (image, other):
        blurred = cv2.blur(each.pixels.astype(np.float32), (size, size))
        y, x = map(int, np.unravel_index(int(blurred.argmax()), blurred.shape))
        if each is image and image.record.lesions:
            y, x = int(image.record.lesions[0].y), int(image.record.lesions[0].x)
        spots.append([int(np.clip(v - size // 2, 0, n - size)) for v, n in zip((y, x), each.pixels.shape, strict=True)])
    (top, left), (row_, column) = spots
    pasted = other.pixels.copy()
    pasted[row_ : row_ + size, column : column + size] = image.pixels[top : top + size, left : left + size]
    return pasted


SAME = "saved again"
ALTERATIONS: Mapping[str, Alteration] = {
    SAME: lambda image, other: image.pixels,
    "gamma 0.5": partial(_pixelwise, lambda values: values**0.5),
    "gamma 2": partial(_pixelwise, lambda values: values**2),
    "contrast halved": partial(_pixelwise, lambda values: values * 0.5),
    "JPEG, quality 30": partial(_jpeg, 30),
    "JPEG, quality 10": partial(_jpeg, 10),
    "blur, 2 pixels": partial(_blur, 2.0),
    "blur, 4 pixels": partial(_blur, 4.0),
    "noise, 5 % of the range": partial(_noise, 0.05),
    "noise, 10 % of the range": partial(_noise, 0.10),
    "elastic, 2 % of the height": partial(_elastic, 2.0),
    "elastic, 4 % of the height": partial(_elastic, 4.0),
    "stretched by 1.1": partial(_warp, partial(_stretched, 1.1, 1.0)),
    "stretched by 1.3": partial(_warp, partial(_stretched, 1.3, 1.0)),
    "rotated by 10 degrees": partial(_warp, partial(_rotated, 10.0)),
    "rotated by 30 degrees": partial(_warp, partial(_rotated, 30.0)),
    "upper half": partial(_half, True),
    "lower half": partial(_half, False),
    "a quarter, enlarged": _quarter,
    "mixed, 70 % of it": partial(_mixed, 0.7),
    "mixed, half of it": partial(_mixed, 0.5),
    "CLAHE": _clahe,
    "negative": _negative,
    "mirrored left to right": partial(_flipped, 1),
    "mirrored top to bottom": partial(_flipped, 0),
    "its lesion in another woman's image": _patch,
}


def mias_images(folder: Path, count: int) -> list[Image]:
    """Return images of `count` patients, evenly spread over the table; one image of each, so that no two are alike."""
    records = [record for record in DATASET.read(folder).records if record.image_id[-1] in "13579"]
    chosen = records[:: max(1, len(records) // count)][:count]
    return [Image(read_mammogram(folder / record.path, record=record).pixels, record) for record in chosen]


@dataclass(frozen=True)
class Found:
    """How many copies of one alteration the audit found."""

    copies: int
    found: int
    false: int
    """Pairs of different images that were reported."""
    refused: int
    """Copies that segmentation refuses, so that they cannot be in a run."""


def stored(folder: Path, image: Image, record: ImageRecord, config: PreprocessConfig, pixels: Pixels) -> ImageRecord:
    """Segment an image into the folder, and return its row."""
    own = record.split is Split.TEST
    mammogram = Mammogram(pixels, image.record.laterality if own else None, image.record.view if own else None)
    path = Path("images", str(record.split), f"{record.image_id}.png")
    write_png(folder / path, preprocess(mammogram, config).pixels)
    return replace(record, path=path.as_posix(), sha256=sha256(folder / path), lesions=())


def measure(images: Sequence[Image], alteration: Alteration, config: PreprocessConfig, scratch: Path) -> Found:
    """Return what the audit finds of one alteration."""
    records, pairs, refused = [], set(), 0
    for place, image in enumerate(images):
        name = image.record.image_id
        test = replace(image.record, split=Split.TEST, fold=None)
        copy = replace(test, image_id=f"{name}-copy", patient_id=f"copy-{name}", split=Split.TRAIN)
        records.append(stored(scratch, image, test, config, image.pixels))
        try:
            records.append(stored(scratch, image, copy, config, alteration(image, images[place - 1])))
            pairs.add(frozenset((name, copy.image_id)))
        except MammopipeError:
            refused += 1
    report = audit_leakage(records, scratch)
    kinds = ("same-film", "equal-files")
    reported = {frozenset(finding.images) for finding in report.findings if finding.kind in kinds}
    # A mixture, or a copy with a patch, also shows the other woman's image, which is in the test split, too: that is no
    # false alarm.
    others = {
        frozenset((images[place - 1].record.image_id, f"{image.record.image_id}-copy"))
        for place, image in enumerate(images)
    }
    shows_other = alteration is _patch or (isinstance(alteration, partial) and alteration.func is _mixed)
    false = reported - pairs - (others if shows_other else set())
    return Found(len(pairs), len(reported & pairs), len(false), refused)


def table(found: Mapping[str, Found], what: str) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"{what}; one copy of each image for each alteration."
    yield ""
    yield "| copy | found | false alarms |"
    yield "|---|---|---|"
    for name, each in found.items():
        refused = f" ({each.refused} more are refused by segmentation)" if each.refused else ""
        yield f"| {name} | {each.found} of {each.copies}{refused} | {each.false} |"
    uncaught = [name for name, each in found.items() if each.copies and each.found < BAR * each.copies]
    yield ""
    yield f"Not found reliably (below {BAR:.0%}): {', '.join(uncaught) or 'none'}."


def rows(found: Mapping[str, Found], what: str) -> list[Row]:
    """Return one row per alteration, without a bar, and one for all false alarms."""
    shares = {name: each.found / each.copies for name, each in found.items() if each.copies}
    same = row(f"audit: copies found, {SAME}, {what}", shares[SAME], "share", 1, "higher", COMMAND)
    false = sum(each.false for each in found.values())
    return [
        same,
        row(f"audit: false alarms over all alterations, {what}", false, "pairs", 0, "lower", COMMAND),
        *(
            row(f"audit: copies found, {name}, {what}", share, "share", None, "higher", COMMAND)
            for name, share in shares.items()
            if name != SAME
        ),
    ]


def main(arguments: Sequence[str]) -> None:
    """Print the rows or the table."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--mias", type=Path, help="folder with mdb001.pgm ... and Info.txt; default: phantoms")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--height", type=int, default=384)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--table", action="store_true", help="print a Markdown table instead of rows")
    options = parser.parse_args(arguments)
    config = PreprocessConfig(height=options.height, width=options.width)
    with TemporaryDirectory() as name:
        folder = options.mias
        if folder is None:
            folder = Path(name) / "phantoms"
            write_phantoms("mias", folder, 2 * options.images)
        images = mias_images(folder, options.images)
        found: dict[str, Found] = {}
        for kind, alteration in ALTERATIONS.items():
            started = time.monotonic()
            scratch = Path(name) / str(len(found))
            found[kind] = measure(images, alteration, config, scratch)
            print(f"{kind}: {found[kind]}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    source = "films of mini-MIAS" if options.mias else "phantoms"
    what = f"{len(images)} {source} at {config.height} x {config.width}"
    print("\n".join(table(found, what)) if options.table else json.dumps(rows(found, what)))


if __name__ == "__main__":
    main(sys.argv[1:])
