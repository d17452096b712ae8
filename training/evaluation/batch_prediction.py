"""Runs the networks over the images of a split: logits of all candidates, and features of the selected one.

Batch normalisations are folded into the convolutions before them, for faster inference with the same result.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from tqdm import tqdm

from mammopipe.processing.classes import class_indices
from mammopipe.processing.datasets.manifest import ImageRecord, breast_id
from mammopipe.processing.variation import may_be_mirrored
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.model.predictions import Floats, Kind
from mammopipe.training.model.views.breasts import Breast, breasts_of
from mammopipe.training.networks.grad_cam import WithMaps
from mammopipe.training.networks.model_directory import LoadedModel
from mammopipe.training.networks.network import ImageNetwork, mean_over_flips

BATCH = 16
"""Images per forward pass, at most."""
_PIXELS_AT_ONCE = 800_000
"""Maximum number of pixels of a forward pass. Small batches are faster: their feature maps stay near the cache."""

_IMAGES_AT_ONCE = 512
"""Maximum number of images in memory. All candidates predict these images before the next ones are read."""
LARGEST_DIFFERENCE = 1e-4
"""Largest accepted difference of an output after folding, relative to the largest output; float32 rounds at 1e-7."""


def predict_split(
    kind: type[Kind],
    models: Mapping[str, LoadedModel],
    records: Sequence[ImageRecord],
    folder: Path,
    *,
    shape: tuple[int, int],
) -> dict[str, Kind]:
    """Predict the images `<folder>/<image_id>.png` with every model, in float32 and evaluation mode.

    Each image is decoded once for all models; at most `_IMAGES_AT_ONCE` are in memory.

    Args:
        kind: Class of the predictions; it determines the split.
        models: Models by name.
        records: Manifest rows of the images.
        folder: Folder of the images.
        shape: (H, W) of the images, in pixels.

    Returns:
        The predictions of each model by name.

    Raises:
        ManifestError: An image is missing or has another shape.
        ImageError: An image is damaged.
    """
    parts: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in models}
    for images in _in_parts(records, folder, shape):
        for name, model in models.items():
            batches = _batches(images, f"{name} on {folder.name}")
            parts[name] += [
                mean_over_flips(model.predict_logits, batch, both).numpy()
                for batch, both in zip(batches, _mirrored(model, images), strict=True)
            ]
    names = (
        tuple(item.image_id for item in records),
        tuple(item.patient_id for item in records),
        tuple(breast_id(item) for item in records),
    )
    return {
        name: kind(*names, class_indices(records, models[name].classes), np.concatenate(rows).astype(np.float64))
        for name, rows in parts.items()
    }


def predict_breasts(
    kind: type[Kind], models: Mapping[str, LoadedModel], records: Sequence[ImageRecord], folder: Path
) -> dict[str, Kind]:
    """Predict the breasts that images `<folder>/<image_id>.png` show, with every model, as `predict_split` does.

    Each view is computed once; the views of a breast are combined as in serving.

    Args:
        kind: Class of the predictions; it determines the split.
        models: Models by name; all judge breasts.
        records: Manifest rows of the images.
        folder: Folder of the images.

    Returns:
        The predictions of each model by name; each row is a breast.
    """
    return {
        name: breast_predictions(kind, model, records, *logits_and_features(model, records, folder))
        for name, model in models.items()
    }


def breast_predictions(
    kind: type[Kind], model: LoadedModel, records: Sequence[ImageRecord], logits: Floats, features: Floats
) -> Kind:
    """Return the predictions of the breasts that images show, from the logits and the features of the images."""
    breasts = breasts_of(records, model.classes, other_side=model.other_side)
    rows = [breast.record for breast in breasts]
    combined = combined_views(model, breasts, logits, features)
    views = [tuple(records[place].image_id for view in breast.own for place in view) for breast in breasts]
    return replace(kind.of(rows, class_indices(rows, model.classes), combined), views=tuple(views))


def combined_views(model: LoadedModel, breasts: Sequence[Breast], logits: Floats, features: Floats) -> Floats:
    """Return the logits of breasts, (breasts, classes), from the logits and the features of their images."""
    attention = model.attention
    assert attention is not None
    rows = []
    for breast in breasts:
        places = [view[0] for view, _ in breast.views]
        rows.append(attention.breast_logits(logits[places], features[places], [side for _, side in breast.views]))
    return np.array(rows, np.float64)


def read_images(
    records: Sequence[ImageRecord], folder: Path, *, shape: tuple[int, int]
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the images, float32 of `shape` (H, W) in [0, 1]; at most `_IMAGES_AT_ONCE` are in memory."""
    for images in _in_parts(records, folder, shape):
        yield from (images[index][0][0].numpy() for index in range(len(images)))


def forward(
    model: LoadedModel, records: Sequence[ImageRecord], folder: Path
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield a network's outputs for images, batch by batch.

    With `test_flips`, the logits of craniocaudal views are means with those of the mirror images. The feature maps are
    always those of the image itself, so that heatmaps fit it.

    Yields:
        The position of the first image, the images (N, 1, H, W), their logits (N, classes), and their last feature
        maps (N, channels, h, w).
    """
    wrapped = WithMaps(model.network)
    first = 0
    try:
        for mammograms in _in_parts(records, folder, model.input_shape):
            batches = _batches(mammograms, f"features of {folder.name}")
            for batch, both in zip(batches, _mirrored(model, mammograms), strict=True):
                with torch.inference_mode():
                    given, maps = wrapped(batch)
                    logits = mean_over_flips(lambda images: wrapped(images)[0], batch, both, given)
                yield first, batch, logits, maps
                first += len(batch)
    finally:
        wrapped.close()


def logits_and_features(model: LoadedModel, records: Sequence[ImageRecord], folder: Path) -> tuple[Floats, Floats]:
    """Return the logits, (images, classes), and the means of the last feature maps, (images, channels)."""
    logits, means = [], []
    for _, _, given, maps in forward(model, records, folder):
        logits.append(given.numpy())
        means.append(maps.mean(dim=(2, 3)).numpy())
    return np.concatenate(logits).astype(np.float64), np.concatenate(means).astype(np.float64)


def _in_parts(records: Sequence[ImageRecord], folder: Path, shape: tuple[int, int]) -> Iterator[ImageDataset]:
    for start in range(0, len(records), _IMAGES_AT_ONCE):
        yield ImageDataset(records[start : start + _IMAGES_AT_ONCE], folder, shape=shape, description=folder.name)


def mirrored(model: LoadedModel, records: Sequence[ImageRecord]) -> npt.NDArray[np.bool_]:
    """Return, for each image, whether the model judges it together with its mirror image (`test_flips`)."""
    flips = bool(model.description.get("test_flips", False))
    return np.array([flips and may_be_mirrored(record.view) for record in records], bool)


def _mirrored(model: LoadedModel, images: ImageDataset) -> Sequence[Tensor]:
    whole, size = torch.from_numpy(mirrored(model, images.records)), _batch_size(images)
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def _batch_size(images: ImageDataset) -> int:
    """Return the number of images of a forward pass."""
    return max(1, min(BATCH, _PIXELS_AT_ONCE // (images.shape[0] * images.shape[1])))


def _batches(images: ImageDataset, title: str) -> Iterator[Tensor]:
    size = _batch_size(images)
    for start in tqdm(range(0, len(images), size), desc=title, unit="batch", disable=None, leave=False):
        yield torch.stack([images[index][0] for index in range(start, min(start + size, len(images)))])


def folded(network: ImageNetwork, images: Tensor) -> ImageNetwork:
    """Return a copy of a network, in evaluation mode, without the batch normalisations that follow a convolution.

    In evaluation mode, batch normalisation multiplies each channel by a constant and adds another. Both constants can
    be merged into the convolution's weights and bias (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section
    3.2).

    A normalisation is folded if its input is exactly the output of a convolution. If anything else also uses that
    output, folding changes the result. The result is therefore compared: if logits or feature maps for `images` differ
    by more than `LARGEST_DIFFERENCE`, the function returns the original network.

    Args:
        network: The network, in evaluation mode and float32; it stays unchanged.
        images: Images for the check, as the network gets them.
    """
    copied = deepcopy(network)
    with torch.inference_mode():
        pairs = _pairs(copied, images)
        names = {module: name for name, module in copied.named_modules()}
        for convolution, normalisation in pairs:
            _fold(convolution, normalisation)
            parent, _, name = names[normalisation].rpartition(".")
            setattr(copied.get_submodule(parent), name, nn.Identity())
        return copied if pairs and _same(network, copied, images) else network


def _same(network: ImageNetwork, other: ImageNetwork, images: Tensor) -> bool:
    found = []
    for each in (network, other):
        wrapped = WithMaps(each)
        found.append(wrapped(images))
        wrapped.close()
    return all(
        bool((before - after).abs().max() <= LARGEST_DIFFERENCE * before.abs().max())
        for before, after in zip(*found, strict=True)
    )


def _pairs(network: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return each batch normalisation with the convolution whose output it gets, as one forward pass shows."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: dict[nn.Module, int] = {}

    def convolved(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Remember the output, which stays alive so that no other tensor gets its id."""
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = module, output

    def normalised(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Pair the normalisation with the convolution that made its input."""
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in made:
            found.append((made[id(inputs[0])][0], module))

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(convolved))
        # `type() is`, because subclasses, such as those of timm, may include an activation. Without running statistics
        # a normalisation is not constant: each batch has its own.
        elif type(module) is nn.BatchNorm2d and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(normalised))
    network(images)
    for hook in hooks:
        hook.remove()
    # A module that is called twice has a second use that folding would change.
    return [pair for pair in found if all(calls[module] == 1 for module in pair)]


def _fold(convolution: nn.Conv2d, normalisation: nn.BatchNorm2d) -> None:
    """Merge the normalisation into the convolution's weights and bias, in place."""
    mean, variance = normalisation.running_mean, normalisation.running_var
    assert mean is not None and variance is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        mean,
        variance,
        normalisation.eps,
        normalisation.weight,
        normalisation.bias,
    )
    convolution.weight, convolution.bias = weight, bias
