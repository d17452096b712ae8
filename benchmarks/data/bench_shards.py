"""Reads images from shards in order and at random: our tar archives with an index, single files, and three libraries.

`python -m benchmarks.data.bench_shards [--images N]` prints rows. webdataset, litdata and mosaicml-streaming are
measured where they are installed; none is a dependency. Every library's bytes are compared with the files that were
packed.
"""

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.rows import Row, row
from mammopipe.processing.images.image_files import ImageFiles
from mammopipe.processing.images.mammogram import write_png
from mammopipe.processing.images.shards import pack

COMMAND = "python -m benchmarks.data.bench_shards"
MEGABYTES = 20.0
"""Size of a shard here, so that a small set has several."""
Reader = Callable[[int], bytes]


def main(arguments: Sequence[str]) -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        files = _images(Path(name) / "single", options.images)
        print(json.dumps(list(measure(files, Path(name))), indent=2))


def _images(folder: Path, count: int) -> list[Path]:
    """Write images of 384 x 256 with smooth noise, some 150 kB each."""
    files = []
    for index in range(count):
        noise = np.random.default_rng(index).integers(0, 2**10, (384, 256), np.uint16)
        files.append(folder / f"{index:06d}.png")
        write_png(files[-1], noise + np.linspace(0, 2**15, 256, dtype=np.uint16))
    return files


def measure(files: Sequence[Path], scratch: Path) -> Iterable[Row]:
    """Yield images a second in order and at random, beside those of single files and of the libraries."""
    expected = [path.read_bytes() for path in files]
    (scratch / "shards").mkdir()
    for path in files:
        os.link(path, scratch / "shards" / path.name)
    pack(scratch / "shards", [path.name for path in files], megabytes=MEGABYTES)
    ours = ImageFiles(scratch / "shards")
    readers: dict[str, Reader] = {
        "shards": lambda index: ours.read(files[index].name),
        "single_files": lambda index: files[index].read_bytes(),
    }
    if reader := _litdata(expected, scratch / "litdata"):
        readers["litdata"] = reader
    shuffled = np.random.default_rng(0).permutation(len(files)).tolist()
    orders = {"in order": range(len(files)), "at random": shuffled}
    for what, order in orders.items():
        rates = {name: _rate(read, order, expected) for name, read in readers.items()}
        if what == "in order" and (seconds := _webdataset(scratch / "shards", expected)):
            rates["webdataset"] = len(files) / seconds
        best = rates.pop("shards")
        yield row(f"shards, images read a second {what}", best, "1/s", None, "higher", COMMAND, **rates)


def _rate(read: Reader, order: Sequence[int], expected: Sequence[bytes]) -> float:
    """Return images a second, the best of three turns; raises `AssertionError` if a byte differs."""
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        found = [read(index) for index in order]
        best = min(best, time.perf_counter() - started)
        assert all(data == expected[index] for index, data in zip(order, found, strict=True))
    return len(order) / best


def _webdataset(shards: Path, expected: Sequence[bytes]) -> float | None:
    """Return the seconds of one pass over the same archives; webdataset reads them in order only."""
    try:
        webdataset = importlib.import_module("webdataset")
    except ImportError as error:
        print(f"webdataset: {error}", file=sys.stderr)
        return None
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        dataset = webdataset.WebDataset([str(path) for path in sorted(shards.glob("*.tar"))], shardshuffle=False)
        found = [sample["png"] for sample in dataset]
        best = min(best, time.perf_counter() - started)
        assert found == list(expected)
    return best


def _litdata(expected: Sequence[bytes], folder: Path) -> Reader | None:
    """Return a reader of litdata's chunks, which have a format of their own."""
    try:
        litdata = importlib.import_module("litdata")
        writer = importlib.import_module("litdata.streaming.writer")
    except ImportError as error:
        print(f"litdata: {error}", file=sys.stderr)
        return None
    shutil.rmtree(folder, ignore_errors=True)
    cache = writer.BinaryWriter(str(folder), chunk_bytes=int(MEGABYTES * 1e6))
    for index, data in enumerate(expected):
        cache[index] = data
    cache.done()
    cache.merge()
    dataset = litdata.StreamingDataset(str(folder))
    return lambda index: bytes(dataset[index])


if __name__ == "__main__":
    main(sys.argv[1:])
