"""A classifier that learns alone, on maps that the pretrained body before it makes of every film once."""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from mammopipe.processing.datasets.manifest import Label
from mammopipe.training.config import Learns, TrainConfig
from mammopipe.training.fitting.dataset import FilmDataset
from mammopipe.training.fitting.sampling import Draw
from mammopipe.training.networks.network import FilmNetwork

MapItem = tuple[Tensor, int, str]
"""Maps (channels, h, w) float32, class index (`Label.rank`), image id."""

_BATCH = 8
"""Films whose maps are made at once: their number has no part in the maps but for rounding."""


class HeadAlone(nn.Module):
    """The classifier of a network as a network of its own, from maps to logits; its parameters are the network's."""

    def __init__(self, network: FilmNetwork) -> None:
        """Take the network, whose pooling counts here, too."""
        super().__init__()
        self.head = network.head
        self.classify, self.classify_with_places = network.classify, network.classify_with_places

    def forward(self, maps: Tensor) -> Tensor:
        """Return the (N, classes) logits of maps, (N, channels, h, w)."""
        return self.classify(maps)

    def maps(self, maps: Tensor) -> Tensor:
        """Return the maps as they are: they were computed before."""
        return maps


class FilmMaps(Dataset[MapItem]):
    """The maps of films, as serving would see them, in place of the films; all of them are kept in memory."""

    def __init__(self, network: FilmNetwork, films: FilmDataset) -> None:
        """Make the maps, on the network's device; the network is left as it was."""
        self.records, self.labels = films.records, films.labels
        self.rows: Sequence[int] = range(len(films))
        """Of each film its row in `maps`, which parts share (`part`)."""
        self.shape: tuple[int, int] = films.shape
        """(H, W) of the films in pixels."""
        self.sha256 = films.sha256
        self.maps = _maps(network, films)

    def __len__(self) -> int:
        """Return the number of films."""
        return len(self.records)

    def __getitem__(self, index: int | Draw) -> MapItem:
        """Return the maps of a film, or of that of a draw: the seed changes nothing about them."""
        place = index.index if isinstance(index, Draw) else index
        return self.maps[self.rows[place]], int(self.labels[place]), self.records[place].image_id

    def part(self, places: Sequence[int]) -> "FilmMaps":
        """Return the films at these places, which share the maps."""
        part = copy(self)
        part.records = tuple(self.records[place] for place in places)
        part.labels, part.rows = self.labels[list(places)], [self.rows[place] for place in places]
        return part

    def counts(self) -> dict[Label, int]:
        """Return how many films each class has."""
        return {label: int((self.labels == label.rank).sum()) for label in Label}

    @property
    def grid(self) -> tuple[int, int]:
        """How many places (h, w) a film has."""
        return self.maps.shape[2], self.maps.shape[3]


def _maps(network: FilmNetwork, films: FilmDataset) -> Tensor:
    trains, made = network.training, []
    network.eval()
    with torch.inference_mode():
        for start in tqdm(range(0, len(films), _BATCH), desc="maps", unit="batch", disable=None, leave=False):
            images = torch.stack([films[index][0] for index in range(start, min(start + _BATCH, len(films)))])
            images = images.to(network.normalise.mean.device, memory_format=torch.channels_last)
            made.append(network.maps(images).cpu())
    network.train(trains)
    # A plain copy: tensors made in inference mode cannot take part in training.
    return torch.cat(made).clone(memory_format=torch.contiguous_format)


Films = FilmDataset | FilmMaps
Learner = FilmNetwork | HeadAlone


def learner(network: FilmNetwork, config: TrainConfig, *films: Films) -> tuple[Learner, list[Films]]:
    """Return what learns of the network, by `config.learns`, and the films, or their maps where the classifier alone.

    Maps that were made before are taken as they are.
    """
    if config.learns is Learns.ALL:
        return network, list(films)
    return HeadAlone(network), [part if isinstance(part, FilmMaps) else FilmMaps(network, part) for part in films]
