"""The networks that can be trained and served, described without torch.

Adding a network of one's own takes one file beside `training/networks/modified_cnn.py`, with a function `build`, and
one line in `OWN`. All networks of timm are known by their names (`timm_names.txt`, of the pinned version).
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

from mammopipe.processing.errors import ConfigError

SMALLEST_SIDE = 64
"""Pixels of a side that every network takes: below, AlexNet's last pooling has nothing left."""


class Cnn(StrEnum):
    """The names of our own networks; all others are timm's."""

    MODIFIED_CNN = "modified_cnn"
    ALEXNET = "alexnet"
    RESNET50 = "resnet50"
    EFFICIENTNET_LITE0 = "efficientnet_lite0"


class Pooling(StrEnum):
    """How the feature maps of an image become its logits."""

    MEAN = "mean"
    """The mean over all places: right for what shows everywhere, but a small lesion is a small part of it."""
    PEAKS = "peaks"
    """Of the places' logits: the mean for the first class; for the others log-mean-exp, which the strongest decide."""
    TOP = "top"
    """Of the places' logits: the mean for the first class; for the others the mean of the `top_places` strongest."""
    MAX = "max"
    """The classifier judges the maximum of each feature map."""
    GEM = "gem"
    """The classifier judges the generalised mean, with power 3, of each feature map (Radenovic et al. 2019)."""

    @property
    def of_maps(self) -> bool:
        """Whether feature maps are pooled before the classifier, not the logits of places after it."""
        return self in (Pooling.MAX, Pooling.GEM)


class Precision(StrEnum):
    """The number format of the forward pass; weights and optimiser are float32 always."""

    AUTO = "auto"
    """The faster of float32 and a 16-bit format for this network on this machine, by a short measurement."""
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    """With loss scaling, for GPUs without bfloat16; refused on a CPU."""
    FLOAT32 = "float32"


@dataclass(frozen=True)
class Architecture:
    """What is known of a network without building it."""

    name: str
    module: str
    """The module of `training.networks` whose function `build` makes it."""
    strides: tuple[int, ...] = (32,)
    """Distances, in pixels, that the places of its feature maps may have."""
    has_places: bool = True
    """Whether the classifier can judge each place of the feature maps alone."""

    @property
    def of_timm(self) -> bool:
        """Whether timm builds it."""
        return self.module == TIMM


TIMM = "timm_network"
TIMM_STRIDES = (4, 8, 16, 32)
OWN = (
    Architecture(Cnn.MODIFIED_CNN.value, "modified_cnn"),
    Architecture(Cnn.ALEXNET.value, "alexnet", has_places=False),
    Architecture(Cnn.RESNET50.value, "resnet50"),
    Architecture(Cnn.EFFICIENTNET_LITE0.value, "efficientnet_lite", strides=(16, 32)),
)
ARCHITECTURES = {architecture.name: architecture for architecture in OWN}


@cache
def timm_names() -> frozenset[str]:
    """Return the names of timm's networks, with and without their tags, as the pinned version lists them."""
    return frozenset((files(__package__) / "timm_names.txt").read_text(encoding="utf-8").split())


def find_architecture(name: str) -> Architecture:
    """Return what is known of the network of this name; raises `ConfigError`, with the nearest names, for no such."""
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if name in timm_names():
        return Architecture(name, TIMM, strides=TIMM_STRIDES)
    own = ", ".join(ARCHITECTURES)
    near = difflib.get_close_matches(name, sorted({*ARCHITECTURES, *timm_names()}), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(f"cnn={name!r} must be one of {own}, or a network of timm{hint}")


def is_network(name: object) -> bool:
    """Return whether this is the name of a network."""
    return isinstance(name, str) and (name in ARCHITECTURES or name in timm_names())


SUFFIXES = (".pth", ".pt", ".safetensors")
"""Of files with pretrained weights."""


def fits_weights(file_name: str, name: str) -> bool:
    """Return whether a file's name says that it holds weights of a network: it begins with the network's name.

    Hyphens and underscores are alike (`efficientnet-lite0-57934424.pth`). What follows the name begins with a hyphen,
    an underscore or, for a tag or the suffix, a dot; a tag of timm is another network than ours of the same name.
    """
    stem, suffix = _split(file_name)
    wanted = name.replace("-", "_")
    if suffix not in SUFFIXES or not stem.startswith(wanted):
        return False
    rest = stem[len(wanted) :]
    return not rest or rest[0] == "_" or (rest[0] == "." and name not in ARCHITECTURES)


def weights_of_no_network(names: Iterable[str], networks: Iterable[str]) -> list[str]:
    """Return which of these file names are weights that fit none of the networks."""
    networks = list(networks)
    return [
        name
        for name in sorted(names)
        if _split(name)[1] in SUFFIXES and not any(fits_weights(name, network) for network in networks)
    ]


def _split(file_name: str) -> tuple[str, str]:
    match = re.fullmatch(r"(.*)(\.[a-z]+)", file_name)
    return (match[1].replace("-", "_"), match[2]) if match else (file_name, "")


class Level(StrEnum):
    """What is called malignant or not; each level is made of the one before."""

    IMAGE = "image"
    BREAST = "breast"
    PATIENT = "patient"


class BreastRule(StrEnum):
    """How the scores of a breast's views become the score of the breast."""

    MEAN = "mean"
    MAX = "max"
    """The most suspicious view decides."""
    NOISY_OR = "noisy-or"
    """The probability that any view is right, as if views erred independently: 1 - product of (1 - score)."""
