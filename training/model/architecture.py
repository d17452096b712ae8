"""Describes the networks that can be trained and served; needs no torch.

To add a network, write one module in `training/networks/`, like `modified_cnn.py`, with a function `build`, and add one
line to `OWN`. `timm_tables/names.txt` lists the names of timm's networks in the pinned version.
`timm_tables/inputs.txt` lists the image sizes that each of them accepts; `benchmarks.studies.timm_inputs` writes it.

A place is a position of a network's last feature maps. A network with logits of places can judge each of them.
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
"""Smallest image side, in pixels, that every network accepts. Below it, AlexNet's last pooling has no input."""


class Cnn(StrEnum):
    """The names of this project's own networks; all other networks are timm's."""

    MODIFIED_CNN = "modified_cnn"
    ALEXNET = "alexnet"
    RESNET50 = "resnet50"
    EFFICIENTNET_LITE0 = "efficientnet_lite0"


class Pooling(StrEnum):
    """How the feature maps of an image become its logits."""

    MEAN = "mean"
    """The mean over all places. It suits findings that show everywhere; a small lesion contributes little to it."""
    PEAKS = "peaks"
    """The first class gets the mean of the places' logits, other classes their log-mean-exp, which the highest logits
    dominate."""
    TOP = "top"
    """The first class gets the mean of the places' logits, other classes the mean of the `top_places` highest ones."""
    MAX = "max"
    """The maximum of each feature map, then the classifier."""
    GEM = "gem"
    """The generalised mean of each feature map with power 3, then the classifier (Radenovic et al. 2019)."""

    @property
    def of_maps(self) -> bool:
        """Whether the feature maps are pooled before the classifier, not the places' logits after it."""
        return self in (Pooling.MAX, Pooling.GEM)


class Precision(StrEnum):
    """The number format of the forward pass; weights and optimiser are always float32."""

    AUTO = "auto"
    """The faster of float32 and a 16-bit format for this network on this machine, chosen by a short measurement."""
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    """With loss scaling, for GPUs without bfloat16; refused on a CPU."""
    FLOAT32 = "float32"


@dataclass(frozen=True)
class Architecture:
    """The properties of a network that are known without building it."""

    name: str
    module: str
    """The module of `training.networks` whose function `build` returns the network."""
    strides: tuple[int, ...] = (32,)
    """The strides, in pixels, that its feature maps may have."""
    has_places: bool = True
    """Whether the classifier can be applied to each place of the feature maps separately."""
    smallest_side: int = SMALLEST_SIDE
    """Smallest side of an image, in pixels."""
    divisor: int = 1
    """A number by which both sides of an image must be divisible."""

    @property
    def of_timm(self) -> bool:
        """Whether timm builds it."""
        return self.module == TIMM

    @property
    def stated_strides(self) -> str:
        """The strides as text, for messages."""
        return ", ".join(map(str, self.strides))

    def require_size(self, height: int, width: int) -> None:
        """Raise `ConfigError` if the network does not accept images of this size, in pixels."""
        rules = []
        if min(height, width) < self.smallest_side:
            rules.append(f"each side must be at least {self.smallest_side}")
        if height % self.divisor or width % self.divisor:
            rules.append(f"each side must be a multiple of {self.divisor}")
        if rules:
            raise ConfigError(f"cnn={self.name} does not take images of {height} x {width} pixels: {'; '.join(rules)}")


TIMM = "timm_network"
TIMM_STRIDES = (4, 8, 14, 16, 32)
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
    return frozenset((files(__package__) / "timm_tables" / "names.txt").read_text(encoding="utf-8").split())


@cache
def _timm_inputs() -> dict[str, list[str]]:
    """Return the entries of `timm_tables/inputs.txt`, each by the network's name without a tag."""
    lines = (files(__package__) / "timm_tables" / "inputs.txt").read_text(encoding="utf-8").splitlines()
    return {name: rest for name, *rest in (line.split(maxsplit=3) for line in lines)}


def _of_timm(name: str) -> Architecture:
    strides, *rest = _timm_inputs()[name.partition(".")[0]]
    if strides == "-":  # The table states a reason instead of sizes for a network that cannot be used.
        raise ConfigError(f"cnn={name}: {' '.join(rest)}")
    smallest, divisor = map(int, rest)
    return Architecture(
        name, TIMM, strides=tuple(map(int, strides.split(","))), smallest_side=smallest, divisor=divisor
    )


def find_architecture(name: str) -> Architecture:
    """Return the properties of a network by its name.

    Raises:
        ConfigError: The name is unknown (the message suggests similar names), or the network has no feature maps or
            accepts only images of one size.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    if name in timm_names():
        return _of_timm(name)
    own = ", ".join(ARCHITECTURES)
    near = difflib.get_close_matches(name, sorted({*ARCHITECTURES, *timm_names()}), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(f"cnn={name!r} must be one of {own}, or a network of timm{hint}")


SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
"""Suffixes of files with pretrained weights."""


def fits_weights(file_name: str, name: str) -> bool:
    """Return whether a file name denotes weights of a network: it begins with the network's name.

    Hyphens and underscores are equivalent (`efficientnet-lite0-57934424.pth`). A hyphen, an underscore or the suffix
    must follow the name. For a network of timm, a dot with a tag may follow as well; for this project's own networks it
    may not, because timm's tagged network of the same name is a different network.
    """
    stem, suffix = _split(file_name)
    wanted = name.replace("-", "_")
    if suffix not in SUFFIXES or not stem.startswith(wanted):
        return False
    rest = stem[len(wanted) :]
    return not rest or rest[0] == "_" or (rest[0] == "." and name not in ARCHITECTURES)


def weights_of_no_network(names: Iterable[str], networks: Iterable[str]) -> list[str]:
    """Return the names of weights files that fit none of the networks."""
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
    """The unit that is classified as malignant or not; each level combines cases of the previous one."""

    IMAGE = "image"
    BREAST = "breast"
    PATIENT = "patient"


class BreastRule(StrEnum):
    """How the scores of a breast's views are combined into the breast's score."""

    MEAN = "mean"
    MAX = "max"
    """The most suspicious view decides."""
    NOISY_OR = "noisy-or"
    """The probability that at least one view is malignant if views are independent: 1 - product of (1 - score)."""
