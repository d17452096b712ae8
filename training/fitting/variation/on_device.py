"""Varies training images on the device that trains, with torchvision.transforms.v2 (`augment_on=gpu`).

Loader processes only read the images and draw the random numbers. These are the same as for variation on the CPU
(`mammopipe.processing.variation`), so both rotate, move and crop an image alike and its lesions are at the same
positions. Pixels differ slightly, because the libraries interpolate differently. Noise and holes are drawn differently.
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
"""Number of the random stream of the noise. Variations have 1, and the shares of mixup have 2."""


class UnvariedImages(TrainingImages):
    """Training images unchanged, each with its `Packed` variation; `dataset[draw]` is ((image, packed), label, id)."""

    def with_lesions(self, use: Draw) -> tuple[Item, tuple[Lesion, ...]]:
        """Return the image of the draw with its packed variation, and the lesions' positions in the varied image."""
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
    """Return the images of a step as the network's input; with `augment_on=gpu`, they are varied here.

    Args:
        images: A batch of the loader: a tensor, or with `UnvariedImages` a tensor and its variations.
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
    # Imported here, because the import is slow and most jobs do not need it.
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    height, width = image.shape[1:]
    degrees, scale, right, down, mirrored = packed["geometry"].tolist()
    reach, sigma, reduction, _ = packed["others"].tolist()
    if mirrored:
        image = functional.vertical_flip(image)
    if (degrees, scale, right, down) != (0, 1, 0, 0):
        # torchvision's positive angles are clockwise, OpenCV's counter-clockwise.
        image = functional.affine(image, -degrees, [right, down], scale, [0.0, 0.0], InterpolationMode.BILINEAR)
    if reach:
        coarse = packed["displacement"].to(image.device)
        field = functional.resize(coarse, [height, width], InterpolationMode.BICUBIC, antialias=False) * reach
        # torchvision expects displacements in halves of the image's width and height.
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
        # The kernel size that OpenCV's GaussianBlur chooses for float images, so that both devices blur alike.
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
