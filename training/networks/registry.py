"""Builds networks by name; `build_model` returns each as an `ImageNetwork`."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

import torch
from torch import nn

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import ARCHITECTURES, Architecture, Level, Pooling, find_architecture
from mammopipe.training.model.archive import PACKED
from mammopipe.training.networks.network import BuildOptions, ImageNetwork
from mammopipe.training.networks.pooling import ViewPooling
from mammopipe.training.networks.pretrained import load_body, load_packed, read_weights

NAMES: tuple[str, ...] = tuple(ARCHITECTURES)
"""This project's own networks; `build_model` also builds those of timm."""


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
    level: Level = Level.IMAGE,
    other_side: bool = False,
    initialise: bool = True,
) -> ImageNetwork:
    """Build a network, initialise it from `seed`, and load pretrained weights into all layers but the classifier.

    Args:
        name: Name of one of this project's own networks, or of a network of timm.
        classes: Number of classes, or their names in the order of the logits.
        weights: A file of pretrained weights (safetensors, or a state dict of torch), or a packed model of the same
            network (`model.tar.gz`), whose classifier is also loaded if it has the same classes.
        dropout: Probability that a feature is dropped before the classifier.
        drop_path: Stochastic depth: probability that the last block is skipped; only for networks of timm.
        seed: Seed of the initial weights.
        pooling: How feature maps become logits.
        top_places: Number of places that `Pooling.TOP` uses.
        stride: Stride of the feature maps, in pixels.
        level: What the network judges: images, or breasts by all their views.
        other_side: Whether the views of the patient's other breast are also used.
        initialise: Whether to draw initial weights; unnecessary if a file will replace all of them.

    Raises:
        ConfigError: The name is unknown, there are fewer than two classes, the network does not support an option, or
            the file does not fit the network.
    """
    count = classes if isinstance(classes, int) else len(classes)
    architecture = find_architecture(name)
    if count < 2:
        raise ConfigError(f"classes={classes!r}: a classifier needs at least two")
    if stride not in architecture.strides:
        raise ConfigError(f"stride={stride}: cnn={name} has feature maps only at stride {architecture.stated_strides}")
    if pooling is not Pooling.MEAN and not architecture.has_places:
        raise ConfigError(f"pooling={pooling}: cnn={name} has no logits of single places")
    with torch.random.fork_rng(devices=[]):  # Building a network must not change the caller's random numbers.
        torch.manual_seed(seed)
        network = _build(architecture, BuildOptions(count, dropout, drop_path, stride))
        if initialise and not architecture.of_timm:
            network.apply(_initialise)
        # Small initial weights for the new classifier: with large ones, its gradients would damage a pretrained body.
        for module in network.head.modules():
            if initialise and isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
        network.views = _view_pooling(network, architecture, count, other_side) if level is not Level.IMAGE else None
    network.pooling, network.top_places = pooling, top_places
    if weights is not None and weights.name.endswith(PACKED):
        load_packed(network, weights, [] if isinstance(classes, int) else classes)
    elif weights is not None:
        load_body(network, read_weights(weights), where=weights)
    return network


def _build(architecture: Architecture, options: BuildOptions) -> ImageNetwork:
    module = import_module(f"mammopipe.training.networks.{architecture.module}")
    return cast(ImageNetwork, module.build(architecture.name, options))


def _view_pooling(network: ImageNetwork, architecture: Architecture, classes: int, other_side: bool) -> ViewPooling:
    """Return the layer that pools the views of breasts; its input has as many channels as that of the classifier."""
    if not architecture.has_places:
        raise ConfigError(
            f"level={Level.BREAST}: cnn={architecture.name}, whose classifier has several layers, cannot pool views"
        )
    channels = next(module.in_features for module in network.head.modules() if isinstance(module, nn.Linear))
    return ViewPooling(channels, classes, other_side=other_side)


def _initialise(module: nn.Module) -> None:
    """Initialise a layer by He et al. 2015; AlexNet, without normalisation, hardly learns from scratch otherwise."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(
            module.weight, mode="fan_out" if isinstance(module, nn.Conv2d) else "fan_in", nonlinearity="relu"
        )
        if module.bias is not None:
            nn.init.zeros_(module.bias)
