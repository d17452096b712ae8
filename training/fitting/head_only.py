"""Training of only the classifier, on feature maps that the pretrained body computes once for every image."""

from collections.abc import Sequence
from copy import copy
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from mammopipe.processing.datasets.manifest import Label
from mammopipe.training.config import Learns, TrainConfig
from mammopipe.training.fitting.breasts.dataset import Breasts
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.fitting.sampling import Draw
from mammopipe.training.networks.network import ImageNetwork

MapItem = tuple[Tensor, int, str]
"""Feature maps (channels, h, w) float32, class index, image id."""

_BATCH = 8
"""Images per forward pass. Another number changes the feature maps only by rounding."""


class HeadAlone(nn.Module):
    """The classifier of a network as a separate module, from feature maps to logits; parameters are shared."""

    def __init__(self, network: ImageNetwork) -> None:
        """Wrap the network's classifier and pooling."""
        super().__init__()
        self.head = network.head
        self.classify, self.classify_with_places = network.classify, network.classify_with_places

    def forward(self, maps: Tensor) -> Tensor:
        """Return the (N, classes) logits of feature maps, (N, channels, h, w)."""
        return self.classify(maps)

    def maps(self, maps: Tensor) -> Tensor:
        """Return the feature maps unchanged, because they are already computed."""
        return maps


class ImageMaps(Dataset[MapItem]):
    """A dataset of the images' feature maps, computed in evaluation mode as in serving; all are kept in memory."""

    def __init__(self, network: ImageNetwork, images: ImageDataset, maps: Tensor | None = None) -> None:
        """Compute the feature maps on the network's device; the network stays unchanged.

        Args:
            network: The network.
            images: The images.
            maps: The images' feature maps, (images, channels, h, w), if they are already computed.
        """
        self.records, self.labels, self.classes = images.records, images.labels, images.classes
        self.rows: Sequence[int] = range(len(images))
        """Row of each image in `maps`; subsets share `maps` (`part`)."""
        self.shape: tuple[int, int] = images.shape
        """(H, W) of the images, in pixels."""
        self.sha256 = images.sha256
        self.maps = _maps(network, images) if maps is None else maps

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.records)

    def __getitem__(self, index: int | Draw) -> MapItem:
        """Return the feature maps of an image, given by index or by draw; there is no random variation."""
        place = index.index if isinstance(index, Draw) else index
        return self.maps[self.rows[place]], int(self.labels[place]), self.records[place].image_id

    def part(self, places: Sequence[int]) -> "ImageMaps":
        """Return a subset, given by positions, that shares the feature maps."""
        part = copy(self)
        part.records = tuple(self.records[place] for place in places)
        part.labels, part.rows = self.labels[list(places)], [self.rows[place] for place in places]
        return part

    def counts(self) -> dict[Label, int]:
        """Return the number of images of each class."""
        return {label: int((self.labels == index).sum()) for index, label in enumerate(self.classes)}

    @property
    def grid(self) -> tuple[int, int]:
        """The number of places (h, w) of an image."""
        return self.maps.shape[2], self.maps.shape[3]


def _maps(network: ImageNetwork, mammograms: ImageDataset) -> Tensor:
    trains, made = network.training, []
    network.eval()
    with torch.inference_mode():
        for start in tqdm(range(0, len(mammograms), _BATCH), desc="maps", unit="batch", disable=None, leave=False):
            images = torch.stack([mammograms[index][0] for index in range(start, min(start + _BATCH, len(mammograms)))])
            images = images.to(network.normalise.mean.device, memory_format=torch.channels_last)
            made.append(network.maps(images).cpu())
    network.train(trains)
    # A copy, because tensors made in inference mode cannot be used in training.
    return torch.cat(made).clone(memory_format=torch.contiguous_format)


Images = ImageDataset | ImageMaps
ImagesOrBreasts = Images | Breasts
"""The cases that a network learns from: images, their feature maps, or breasts."""
Learner = ImageNetwork | HeadAlone


@overload
def learner(network: ImageNetwork, config: TrainConfig, *images: Images) -> tuple[Learner, list[Images]]: ...


@overload
def learner(
    network: ImageNetwork, config: TrainConfig, *images: ImagesOrBreasts
) -> tuple[Learner, list[ImagesOrBreasts]]: ...


def learner(network: ImageNetwork, config: TrainConfig, *images: Any) -> tuple[Learner, list[Any]]:
    """Return the module that learns and its training data.

    Args:
        network: The network.
        config: Hyperparameters; `learns` decides what learns.
        *images: Datasets of images, or precomputed feature maps.

    Returns:
        The network with the images, or its classifier (`HeadAlone`) with the feature maps.
    """
    if config.learns is Learns.ALL:
        return network, list(images)
    return HeadAlone(network), [ImageMaps(network, part) if isinstance(part, ImageDataset) else part for part in images]
