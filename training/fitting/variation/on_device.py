"""Varies training images on the device that trains, by torchvision.transforms.v2 (`augment_on=gpu`).

Loader processes only read the images and draw the random numbers, the same as for variation on the CPU
(`mammopipe.processing.variation`): an image is turned, moved and cropped alike on both, and its lesions lie at the same
places. Pixels differ by how the libraries interpolate; noise and holes come from another random stream.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mammopipe.processing.datasets.manifest import Lesion, View
from mammopipe.processing.variation import DARKEST, Drawn, coarse_shape, draw, reduced_size
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.dataset import Item, TrainingImages, draw_holes
from mammopipe.training.fitting.sampling import Draw, derived_seed, generator
from mammopipe.training.variation import AugmentOn

Packed = Mapping[str, Tensor]
"""The random numbers of a variation as tensors, of one image or stacked for a batch."""

_NOISE_STREAM = 3
"""Number of the random stream of the noise; shares of mixup and variations have others."""


class UnvariedImages(TrainingImages):
    """Training images unchanged, each with its `Packed` variation; `dataset[draw]` is ((image, packed), label, id)."""

    def with_lesions(self, use: Draw) -> tuple[Item, tuple[Lesion, ...]]:
        """Return the image of the draw with its packed variation, and its lesions as they lie in the varied image."""
        image, label, image_id = self.images[use.index]
        record, key = self.images.records[use.index], (self.config.seed, use.epoch, use.position)
        shape, drawn, lesions = tuple(image.shape[1:]), Drawn(), record.lesions
        if self.config.augment:
            drawn, lesions = draw(
                shape, lesions, generator(*key, 1), self.variation, craniocaudal=record.view is View.CC
            )
        return ((image, self._pack(drawn, shape, key)), label, image_id), lesions  # type: ignore[return-value]

    def _pack(self, drawn: Drawn, shape: tuple[int, ...], key: tuple[int, int, int]) -> dict[str, Tensor]:
        random, config = generator(*key), self.config
        noise = float(random.uniform(0, config.noise)) if config.noise else 0.0
        holes = list(draw_holes(shape, random, config.holes))
        bent = drawn.displacement is not None
        numbers = {
            "geometry": [drawn.degrees, drawn.scale, drawn.right, drawn.down, float(drawn.mirrored)],
            "tone": [0.0, 0.0, 0.0, 0.0] if drawn.tone is None else [1.0, *drawn.tone],
            "window": list(drawn.window or (0, 0, *shape)),
            "holes": [*holes, *[(0, 0, 0, 0)] * (config.holes - len(holes))] or torch.zeros(0, 4),
            "others": [drawn.reach if bent else 0.0, drawn.sigma, drawn.reduction, noise],
        }
        coarse = torch.zeros(2, *coarse_shape(*shape)) if not bent else torch.from_numpy(drawn.displacement)
        return {
            **{name: torch.as_tensor(value, dtype=torch.float64) for name, value in numbers.items()},
            "displacement": coarse,
            "seed": torch.tensor(derived_seed(*key, _NOISE_STREAM)),
        }


def varied_here(images: Any, config: TrainConfig, device: torch.device) -> Tensor:
    """Return the images of a step as the network takes them: varied here where `augment_on` is `gpu`.

    Args:
        images: What a loader of training images yields: a tensor, or with `UnvariedImages` a tensor and its variations.
        config: Hyperparameters.
        device: The device that trains.
    """
    if config.augment_on is AugmentOn.CPU:
        return images  # type: ignore[no-any-return]
    plain, packed = images
    return vary_on_device(plain.to(device, non_blocking=True), packed)


def vary_on_device(images: Tensor, packed: Packed) -> Tensor:
    """Return the variations of a batch.

    Args:
        images: (N, 1, H, W) float32 in [0, 1], 0 = air, on any device.
        packed: The variation of each image, stacked, on the CPU.

    Returns:
        (N, 1, H, W) float32 on the same device; air stays 0.
    """
    rows = [{name: value[index] for name, value in packed.items()} for index in range(len(images))]
    return torch.stack([_disturbed(_varied(image, row), row) for image, row in zip(images, rows, strict=True)])


def _varied(image: Tensor, packed: Packed) -> Tensor:
    """Return the variation of one image, (1, H, W), without noise and holes."""
    # Imported here because jobs that do not vary on the device would pay for it.
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    height, width = image.shape[1:]
    degrees, scale, right, down, mirrored = packed["geometry"].tolist()
    reach, sigma, reduction, _ = packed["others"].tolist()
    if mirrored:
        image = functional.vertical_flip(image)
    if (degrees, scale, right, down) != (0, 1, 0, 0):
        # torchvision turns clockwise, OpenCV counter-clockwise.
        image = functional.affine(image, -degrees, [right, down], scale, [0.0, 0.0], InterpolationMode.BILINEAR)
    if reach:
        coarse = packed["displacement"].to(image.device)
        field = functional.resize(coarse, [height, width], InterpolationMode.BICUBIC, antialias=False) * reach
        sides = torch.tensor([width, height], device=image.device)
        image = functional.elastic(image, (field.permute(1, 2, 0) * 2 / sides)[None], InterpolationMode.BILINEAR)
    top, left, rows, columns = (int(value) for value in packed["window"].tolist())
    window = torch.zeros_like(image)
    window[:, top : top + rows, left : left + columns] = image[:, top : top + rows, left : left + columns]
    image, tissue = window, window > 0
    toned, gamma, contrast, brightness = packed["tone"].tolist()
    if toned:
        image = ((image ** math.exp(gamma) - 0.5) * (1 + contrast) + (0.5 + brightness / 2)).clamp(DARKEST, 1)
    if sigma:
        side = round(sigma * 8 + 1) | 1
        image = functional.gaussian_blur(image, [side, side], [sigma, sigma])
    if reduction < 1:
        small = functional.resize(image, list(reduced_size(height, width, reduction)), antialias=True)
        image = functional.resize(small, [height, width], antialias=False)
    return image * tissue


def _disturbed(image: Tensor, packed: Packed) -> Tensor:
    """Return the image, (1, H, W), with noise in the tissue and with its holes."""
    deviation = float(packed["others"][3])
    if deviation:
        random = torch.Generator(image.device).manual_seed(int(packed["seed"]))
        noise = torch.randn(image.shape, generator=random, device=image.device) * deviation
        image = torch.where(image > 0, (image + noise).clamp(0, 1), image)
    for top, left, rows, columns in packed["holes"].long().tolist():
        image[:, top : top + rows, left : left + columns] = 0
    return image
