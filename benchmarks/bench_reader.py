"""Overhead of the reader over its decoder, compared with a plain pydicom loop and the other installable decoders.

Run `python -m benchmarks.bench_reader [--rsna FOLDER] [--repeats 5]`: a JSON list on stdout. Everything runs on one
thread and is measured in processor time. Only ratios within one run are comparable: the members of a ratio alternate,
so that other load on the machine affects them equally.
Without `--rsna` (a folder with train_images), the 2776 x 2082 file is also generated.
"""

import argparse
import importlib.util
import io
import itertools
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.processing import apply_voi_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from benchmarks.rows import Row, row
from mammopipe.processing.container.memory import keep_heap
from mammopipe.processing.dicom.file import parse
from mammopipe.processing.dicom.grayscale import apply
from mammopipe.processing.dicom.grayscale_attributes import read_chain
from mammopipe.processing.dicom.pixel_data import decode, read_layout
from mammopipe.processing.images.mammogram import ReadConfig, read_mammogram, write_png

J2K = UID("1.2.840.10008.1.2.4.90")
HEIGHT = 2048
COMMAND = "python -m benchmarks.bench_reader"
CONFIG = ReadConfig()
Times = dict[str, float]


def synthetic_image(rows: int, columns: int, bits: int) -> NDArray[np.uint16]:
    """Return an image that compresses like a mammogram: half air, and tissue with structure and noise."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    # The skin line is about thirty pixels wide, since the edge of a compressed breast is round.
    inside = ((1 - np.hypot((y - rows / 2) / (rows * 0.45), x / (columns * 0.7))) * columns / 40).clip(0, 1)
    coarse = cv2.resize(random.normal(0, 1, (rows // 40, columns // 40)).astype(np.float32), (columns, rows))
    noise = random.normal(0, 2 ** (bits - 12 if bits < 14 else bits - 16), (rows, columns)).astype(np.float32)
    tissue = 0.5 * 2**bits + coarse * 0.07 * 2**bits + noise
    return np.asarray((inside * tissue).clip(0, 2**bits - 1), np.uint16)


def dicom(cells: NDArray[np.uint16], bits: int, **attributes: Any) -> bytes:
    """Return a JPEG 2000 lossless file with these pixels."""
    dataset = pydicom.Dataset()
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = cells.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, bits, bits - 1, 0
    for name, value in attributes.items():
        setattr(dataset, name, value)
    frame = imagecodecs.jpeg2k_encode(cells, codecformat="j2k", reversible=True, level=0, bitspersample=bits)
    dataset.PixelData = encapsulate([bytes(frame)])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = J2K
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.2", "1.2.3"
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def without_padding_value(data: bytes) -> bytes:
    """Return the file without Pixel Padding Value: files that have it are never decoded at half resolution."""
    dataset, stream = pydicom.dcmread(io.BytesIO(data)), io.BytesIO()
    if "PixelPaddingValue" in dataset:
        del dataset.PixelPaddingValue
    dataset.save_as(stream)
    return stream.getvalue()


def timed_plain_loop(data: bytes, path: Path) -> float:
    """Return the plain loop's seconds of processor time."""
    warnings.simplefilter("ignore")
    begun = time.process_time()
    plain_loop(data, path)
    return time.process_time() - begun


def medians(members: dict[str, Callable[[], Any]], repeats: int) -> Times:
    """Return each member's median processor seconds; they alternate, after one unmeasured round.

    A member that measures itself returns its seconds as a float.
    """
    seconds: dict[str, list[float]] = {name: [] for name in members}
    for turn in range(repeats + 1):
        for name, member in members.items():
            started = time.process_time()
            outcome = member()
            if turn:
                spent = outcome if isinstance(outcome, float) else time.process_time() - started
                seconds[name].append(spent)
    return {name: statistics.median(each) for name, each in seconds.items()}


def plain_loop(data: bytes, path: Path) -> NDArray[Any]:
    """Read like most public notebooks: pydicom's pixels and VOI in float64, min-max, inverted, resized, written."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    values = np.asarray(apply_voi_lut(dataset.pixel_array, dataset), np.float64)
    values = (values - values.min()) / (values.max() - values.min())
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = 1 - values
    pixels = np.asarray(values * 65535, np.uint16)
    cv2.imwrite(str(path), shrink(pixels))
    return pixels


def shrink(pixels: NDArray[np.uint16], height: int = HEIGHT) -> NDArray[np.uint16]:
    """Return the image reduced to `height` rows, or unchanged if it has no more."""
    rows, columns = pixels.shape
    if rows <= height:
        return pixels
    return np.asarray(cv2.resize(pixels, (round(columns * height / rows), height), interpolation=cv2.INTER_AREA))


def result(name: str, value: float, unit: str, bar: float, better: Literal["lower", "higher"], **peers: float) -> Row:
    """Return one row of this benchmark."""
    return row(name, value, unit, bar, better, COMMAND, **peers)


def reader(label: str, data: bytes, faster: float, repeats: int, folder: Path) -> list[Row]:
    """Return the reader's figures for one file."""
    file = parse(data, where=label, limits=CONFIG.limits)
    layout = read_layout(file.tags, CONFIG.limits)
    chain, _, _ = read_chain(file.tags, layout, CONFIG)
    cells = decode(file, layout)
    frame = get_frame(pydicom.dcmread(io.BytesIO(data)).PixelData, 0, number_of_frames=1)

    unpadded = without_padding_value(data)

    def ours() -> None:
        write_png(folder / "ours.png", shrink(read_mammogram(data).pixels))

    members: dict[str, Callable[[], Any]] = {
        "decode": lambda: imagecodecs.jpeg2k_decode(frame, numthreads=1),
        "values": lambda: apply(
            cells.array, cells.bits, cells.shift, bits_stored=layout.bits_stored, signed=layout.signed, chain=chain
        ),
        "read": lambda: read_mammogram(data),
        "prepare": ours,
        "half": lambda: read_mammogram(unpadded, config=ReadConfig(enough_rows=layout.rows // 2)),
    }
    # In a process of its own with the default allocator, because `keep_heap` speeds up this process but no plain loop.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=cv2.setNumThreads, initargs=(1,)) as own:
        members["plain"] = lambda: own.submit(timed_plain_loop, data, folder / "plain.png").result()
        seconds = medians(members, repeats)
    target = HEIGHT if layout.rows >= 2 * HEIGHT else HEIGHT // 2
    full, half = (
        shrink(read_mammogram(unpadded, config=config).pixels, target)
        for config in (CONFIG, ReadConfig(enough_rows=target))
    )
    noise = cv2.PSNR(full, half, R=65535)
    return [
        result(
            f"VOI and inversion, share of decode, {label}", seconds["values"] / seconds["decode"], "x", 0.03, "lower"
        ),
        result(f"read, times decode, {label}", seconds["read"] / seconds["decode"], "x", 1.15, "lower"),
        result(
            f"file to PNG at {HEIGHT} rows, times decode, {label}",
            seconds["prepare"] / seconds["decode"],
            "x",
            1.10,
            "lower",
        ),
        result(
            f"files a second, times the plain pydicom loop, {label}",
            seconds["plain"] / seconds["prepare"],
            "x",
            faster,
            "higher",
            plain_pydicom_seconds=seconds["plain"],
            reader_seconds=seconds["prepare"],
        ),
        result(
            f"half-resolution read, times full decode, {label}", seconds["half"] / seconds["decode"], "x", 0.40, "lower"
        ),
        result(f"half-resolution read, PSNR to the full one at {target} rows, {label}", noise, "dB", 40, "higher"),
    ]


def pixel_array_by(plugin: str, data: bytes) -> NDArray[Any]:
    """Return the stored pixels of a DICOM file, decoded by this plugin of pydicom."""
    return pixel_array(io.BytesIO(data), decoding_plugin=plugin, raw=True)


def decoders(label: str, data: bytes, repeats: int) -> Row:
    """Return our decoder against each other installed JPEG 2000 decoder; all must give identical pixels."""
    frame = get_frame(pydicom.dcmread(io.BytesIO(data)).PixelData, 0, number_of_frames=1)
    members: dict[str, Callable[[], Any]] = {"imagecodecs": lambda: imagecodecs.jpeg2k_decode(frame, numthreads=1)}
    members["cv2"] = lambda: cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_UNCHANGED)
    members["pillow"] = lambda: np.asarray(Image.open(io.BytesIO(frame)))
    for plugin, module in (("pylibjpeg", "openjpeg"), ("gdcm", "gdcm")):
        if importlib.util.find_spec(module):
            members[module] = partial(pixel_array_by, plugin, data)
    expected = members["imagecodecs"]()
    for name, member in members.items():
        pixels = member()
        shifted = pixels >> 4 if name == "pillow" and pixels.max() > expected.max() else pixels
        assert np.array_equal(shifted, expected), f"{name} decodes other pixels"
    seconds = medians(members, repeats)
    best = min(each for name, each in seconds.items() if name != "imagecodecs")
    return result(
        f"decode, times the fastest other decoder, {label}",
        seconds["imagecodecs"] / best,
        "x",
        1.05,
        "lower",
        **{f"{name}_seconds": each for name, each in seconds.items()},
    )


def peak(data: bytes, folder: Path) -> Row:
    """Return the peak resident memory of a fresh process that reads and writes the file three times."""
    (folder / "large.dcm").write_bytes(data)
    command = [sys.executable, "-m", "benchmarks.bench_reader", "--peak-of", str(folder / "large.dcm")]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return result("peak resident size, 5355 x 4915", float(run.stdout), "MiB", 350, "lower")


def as_worker() -> None:
    """Set up this process like a worker of a job."""
    cv2.setNumThreads(1)
    keep_heap()


def prepare(source: Path) -> None:
    """Do the Prepare job's work for one file."""
    write_png(source.with_suffix(".png"), shrink(read_mammogram(source).pixels))


def only_decode(source: Path) -> None:
    """Only decode a file: shows the machine's capacity for two processes."""
    frame = get_frame(pydicom.dcmread(source).PixelData, 0, number_of_frames=1)
    imagecodecs.jpeg2k_decode(frame, numthreads=1)


def processes(label: str, data: bytes, folder: Path, repeats: int) -> list[Row]:
    """Return the speed-up, in wall time, of two processes over one on the same files; both pools are warm.

    The second row has processes that only decode; it shows the speed-up that the machine's processors allow.
    """
    # Two files per worker, because an odd number would leave a worker idle. The first, unmeasured round only warms up.
    files = [folder / f"copy-{index}.dcm" for index in range(4)]
    for file in files:
        file.write_bytes(data)
    seconds: dict[tuple[Callable[[Path], None], int], list[float]] = {}
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(1, spawn, initializer=as_worker) as one,
        ProcessPoolExecutor(2, spawn, initializer=as_worker) as two,
    ):
        for turn, work, (workers, pool) in itertools.product(
            range(repeats + 1), (prepare, only_decode), ((1, one), (2, two))
        ):
            begun = time.perf_counter()
            list(pool.map(work, files if turn else files[:2]))
            if turn:
                seconds.setdefault((work, workers), []).append(time.perf_counter() - begun)
    gain, decode_gain = (
        statistics.median(seconds[work, 1]) / statistics.median(seconds[work, 2]) for work in (prepare, only_decode)
    )
    cores = len(os.sched_getaffinity(0))
    name = "files a second, two {} against one, " + label
    return [
        result(name.format("processes"), gain, "x", 1.9, "higher", decode_alone=decode_gain, cores=cores),
        row(name.format("bare decoders"), decode_gain, "x", None, "higher", COMMAND, cores=cores),
    ]


def print_peak(path: Path) -> None:
    for _ in range(3):
        write_png(path.with_suffix(".png"), shrink(read_mammogram(path).pixels))
    # Not getrusage: its figure survives exec, so it would be that of the parent process.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(int(peak) / 1024)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rsna", type=Path, help="folder with train_images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    as_worker()
    warnings.simplefilter("ignore")
    if arguments.peak_of:
        print_peak(arguments.peak_of)
        return
    window = {"WindowCenter": ["2048"], "WindowWidth": ["4096"]}
    real = sorted(arguments.rsna.rglob("*.dcm"))[:1] if arguments.rsna else []
    small = real[0].read_bytes() if real else dicom(synthetic_image(2776, 2082, 12), 12, **window)
    large = dicom(
        65535 - synthetic_image(5355, 4915, 16),
        16,
        PhotometricInterpretation="MONOCHROME1",
        VOILUTFunction="SIGMOID",
        WindowCenter=["32768", "30000"],
        WindowWidth=["40000", "20000"],
        PixelPaddingValue=65535,
    )
    with tempfile.TemporaryDirectory() as name:
        folder, figures = Path(name), []
        for label, data, faster in (("2776 x 2082", small, 1.1), ("5355 x 4915", large, 1.7)):
            figures += reader(label, data, faster, arguments.repeats, folder)
            figures.append(decoders(label, data, arguments.repeats))
            figures += processes(label, data, folder, arguments.repeats)
        figures.append(peak(large, folder))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
