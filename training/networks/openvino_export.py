"""Exports the selected network to OpenVINO, compares it with torch on validation, and ships it if both agree.

If a score is too close to a threshold (`mammopipe.training.model.near_threshold`), the server computes the image again
in float32. The comparison does the same, so that it tests the decisions that the server will make.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as save_arrays

from mammopipe.processing.files import sha256, write_bytes
from mammopipe.training.model.architecture import Precision
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.description import HEAD, HEAD_FILE, NETWORK_FILES, OPENVINO, OUTPUTS
from mammopipe.training.model.near_threshold import CAUTION, TOLERANCE, NearThreshold
from mammopipe.training.model.openvino_runtime import CompiledNetwork, fastest_precision, load_openvino, read_network
from mammopipe.training.model.predictions import Floats
from mammopipe.training.networks.grad_cam import WithMaps, head_weights
from mammopipe.training.networks.model_directory import LoadedModel

ImageArray = NDArray[np.float32]
ReadImages = Callable[[Sequence[int]], Iterable[ImageArray]]
"""Yields the validation images at these positions, (H, W) in [0, 1], one at a time to save memory."""


Combine = Callable[[Floats, Floats], Floats]
"""Logits, (images, classes), and features, (images, channels), to logits of breasts, (breasts, classes)."""


@dataclass(frozen=True)
class BreastParity:
    """What the comparison with torch needs for a model that judges breasts."""

    combine: Combine
    logits: Floats
    """Logits of the breasts by torch in float32, (breasts, classes)."""


@dataclass(frozen=True)
class Export:
    """The result of the export."""

    engine: str
    shipped: bool
    """Whether the files are in the model directory."""
    reason: str
    """Why the engine was or was not shipped, in one sentence."""
    precision: str
    """Number format of a forward pass, unless the score is close to a threshold."""
    images: int
    """Number of validation images compared."""
    largest_difference: float
    """Largest difference of a calibrated probability from torch in float32."""
    close_calls: int
    """Number of images computed again in float32."""
    other_decisions: int
    """Number of images with a different decision at any threshold. If it is above 0, the engine is not shipped."""
    activation_map: str | None
    """How the engine computes class activation maps; `None` if torch computes them."""

    def as_dict(self) -> dict[str, Any]:
        """Return the values for `evaluation.json`."""
        return asdict(self)

    def described(self, directory: Path) -> dict[str, Any]:
        """Return the values for `engines` of `model.json`; empty if nothing was shipped."""
        if not self.shipped:
            return {}
        names = [*NETWORK_FILES, *([HEAD_FILE] if self.activation_map == HEAD else [])]
        return {
            OPENVINO: {
                "files": {name: sha256(directory / name) for name in names},
                "outputs": list(OUTPUTS),
                "activation_map": self.activation_map,
                "precision": self.precision,
                "largest_difference": self.largest_difference,
                "images": self.images,
            }
        }


def export_network(
    model: LoadedModel,
    directory: Path,
    description: Mapping[str, Any],
    read: ReadImages,
    logits: Floats,
    mirrored: NDArray[np.bool_] | None = None,
    breasts: BreastParity | None = None,
) -> Export:
    """Export the network into the model directory; the files stay there only if the export agrees with torch.

    Args:
        model: The model.
        directory: Its model directory.
        description: The future `model.json`, with calibration and thresholds.
        read: Yields validation images.
        logits: Logits of the validation images by torch in float32, (images, classes).
        mirrored: Which images are judged together with their mirror image (`test_flips`); `None` for none of them.
        breasts: For a model that judges breasts, what the comparison of breasts needs; images are compared as well.
    """
    flips = np.zeros(len(logits), bool) if mirrored is None else mirrored
    first = next(iter(read([0])))
    write_network(model, directory / NETWORK_FILES[0])
    weights = head_weights(model.network, torch.from_numpy(first)[None, None])
    if weights is not None:
        write_bytes(directory / HEAD_FILE, save_arrays({"weight": weights}))
    outcome = _fastest_that_agrees(
        directory / NETWORK_FILES[0],
        description,
        read,
        logits,
        flips,
        activation_map=None if weights is None else HEAD,
        breasts=breasts,
    )
    if not outcome.shipped:
        for name in (*NETWORK_FILES, HEAD_FILE):
            (directory / name).unlink(missing_ok=True)
    return outcome


def _fastest_that_agrees(
    network: Path,
    description: Mapping[str, Any],
    read: ReadImages,
    logits: Floats,
    mirrored: NDArray[np.bool_],
    *,
    activation_map: str | None,
    breasts: BreastParity | None,
) -> Export:
    """Return the result in the processor's fastest format, or in float32 if the fastest format does not agree.

    The server always judges breasts in float32, so a model of breasts is checked and shipped only in that format.
    """
    check = partial(
        compare, network, description, read, logits, mirrored, activation_map=activation_map, breasts=breasts
    )
    if breasts is not None:
        return check(precision=Precision.FLOAT32)
    quick = check(precision=fastest_precision())
    if quick.shipped or quick.precision == Precision.FLOAT32:
        return quick
    exact = check(precision=Precision.FLOAT32)
    return replace(exact, reason=f"In {quick.precision}: {quick.reason} In {exact.precision}: {exact.reason}")


def write_network(model: LoadedModel, target: Path) -> None:
    """Write the network, for one image at a time, to `target`, and its float32 weights to the same name with `.bin`.

    The weights are not compressed to 16 bits, because the server also needs exact results in float32.
    """
    openvino = load_openvino()
    height, width = model.input_shape
    wrapped = WithMaps(model.network)
    try:
        program = torch.export.export(wrapped, (torch.zeros(1, 1, height, width),))
        converted = openvino.convert_model(program)
    finally:
        wrapped.close()
    converted.reshape([1, 1, height, width])
    for output, name in zip(converted.outputs, OUTPUTS, strict=True):
        output.get_tensor().set_names({name})
    # Default names contain counters of the process, so the same network would give a different file.
    converted.set_friendly_name("network")
    for index, operation in enumerate(converted.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{index}")
    openvino.save_model(converted, str(target), compress_to_fp16=False)


def compare(
    network: Path,
    description: Mapping[str, Any],
    read: ReadImages,
    logits: Floats,
    mirrored: NDArray[np.bool_],
    *,
    precision: Precision,
    activation_map: str | None,
    breasts: BreastParity | None = None,
) -> Export:
    """Compare the outputs of a network file with torch.

    Args:
        network: File of the network (`write_network`).
        description: The future `model.json`, with calibration and thresholds.
        read: Yields validation images.
        logits: Logits of the validation images by torch in float32, (images, classes).
        mirrored: (images,): which images are judged together with their mirror image.
        precision: Number format to compare.
        activation_map: How the engine computes class activation maps, for the result.
        breasts: What the comparison of breasts needs, for a model that judges breasts.
    """
    threads, given = torch.get_num_threads(), read_network(network)
    quick = CompiledNetwork(given, precision=precision, threads=threads)
    fast, features = _run(quick, read(range(len(logits))), mirrored)
    calibration = Calibration.of(description)
    difference = _difference(calibration, fast, logits)
    margin = 0.0 if precision is Precision.FLOAT32 else CAUTION * difference
    calls = NearThreshold.of(description, margin)
    close = [index for index, row in enumerate(fast) if calls.near(row)]
    if close:
        exact = CompiledNetwork(given, precision=Precision.FLOAT32, threads=threads)
        fast[close] = _run(exact, read(close), mirrored[close])[0]
    pairs = [(fast, logits)]
    if breasts is not None:
        pairs.append((breasts.combine(fast, features), breasts.logits))
    difference = max(_difference(calibration, ours, torchs) for ours, torchs in pairs)
    others = sum(
        calls.decisions(ours) != calls.decisions(torchs) for pair in pairs for ours, torchs in zip(*pair, strict=True)
    )
    shipped = difference <= TOLERANCE and others == 0
    return Export(
        OPENVINO,
        shipped,
        _reason(difference, others, len(logits)),
        str(precision),
        len(logits),
        difference,
        len(close),
        others,
        activation_map,
    )


def _difference(calibration: Calibration, ours: Floats, torchs: Floats) -> float:
    """Return the largest difference of a calibrated probability."""
    return float(np.abs(calibration.probabilities(ours) - calibration.probabilities(torchs)).max())


def _run(network: CompiledNetwork, images: Iterable[ImageArray], mirrored: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the logits, (images, classes), and the means of the feature maps, (images, channels)."""
    rows, means = [], []
    for image, both in zip(images, mirrored, strict=True):
        logits, maps = network.run(image)
        rows.append((logits + network.run(image[::-1])[0]) / 2 if both else logits)
        means.append(maps.mean(axis=(1, 2), dtype=np.float64))
    return np.array(rows), np.array(means)


def _reason(difference: float, others: int, images: int) -> str:
    measured = f"probabilities differ from torch in float32 by {difference:.2g} at most on {images} validation images"
    if difference > TOLERANCE:
        return f"Not shipped: {measured}, more than the {TOLERANCE:g} allowed."
    if others:
        return f"Not shipped: {others} of {images} validation images have another decision than with torch in float32."
    return f"Shipped: {measured}, and every decision is the same."
