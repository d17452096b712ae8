"""Networks by name: `build_model` returns each of them in the one frame, `FilmNetwork`."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

import torch
from torch import nn

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import ARCHITECTURES, Architecture, Pooling, find_architecture
from mammopipe.training.networks.network import BuildOptions, FilmNetwork
from mammopipe.training.networks.pretrained import load_body, read_weights

NAMES: tuple[str, ...] = tuple(ARCHITECTURES)
"""Our own networks; `build_model` knows those of timm, too."""


def build_model(
    name: str,
    *,
    classes: int | Sequence[str],
    weights: Path | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    seed: int = 0,
    pooling: Pooling = Pooling.MEAN,
    top_places: int = 3,
    stride: int = 32,
) -> FilmNetwork:
    """Return the network, initialised from `seed`, then from the file `weights` everywhere but in the classifier.

    Args:
        name: One of our own networks, or a name of timm.
        classes: Their number, or their names in the order of the logits.
        weights: A file of pretrained weights (safetensors, or a state dict of torch).
        dropout: Probability that a feature is dropped before the classifier.
        drop_path: Stochastic depth: probability that the last block is skipped; networks of timm only.
        seed: Of the first weights.
        pooling: How feature maps become logits.
        top_places: Places that count, with `Pooling.TOP`.
        stride: Pixels from place to place of the feature maps.

    Raises:
        ConfigError: The name is unknown, there are fewer than two classes, the network lacks what is asked of it, or
            the file does not fit it.
    """
    count = classes if isinstance(classes, int) else len(classes)
    architecture = find_architecture(name)
    if count < 2:
        raise ConfigError(f"classes={classes!r}: a classifier needs at least two")
    if stride not in architecture.strides:
        raise ConfigError(f"stride={stride}: cnn={name} has no places at that distance")
    if pooling is not Pooling.MEAN and not architecture.has_places:
        raise ConfigError(f"pooling={pooling}: cnn={name} has no logits of single places")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _build(architecture, BuildOptions(count, dropout, drop_path, stride))
        if not architecture.of_timm:
            network.apply(_initialise)
        # A new classifier starts undecided: with large first weights it would pull the pretrained body apart.
        for module in network.head.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
    network.pooling, network.top_places = pooling, top_places
    if weights is not None:
        load_body(network, read_weights(weights), where=weights)
    return network


def _build(architecture: Architecture, options: BuildOptions) -> FilmNetwork:
    module = import_module(f"mammopipe.training.networks.{architecture.module}")
    return cast(FilmNetwork, module.build(architecture.name, options))


def _initialise(module: nn.Module) -> None:
    """He et al. 2015: without it AlexNet, which has no normalisation, hardly learns from scratch."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(
            module.weight, mode="fan_out" if isinstance(module, nn.Conv2d) else "fan_in", nonlinearity="relu"
        )
        if module.bias is not None:
            nn.init.zeros_(module.bias)
