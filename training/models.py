"""The CNN registry: one frame around every network, and the networks themselves.

Input of all: float32 (N, 1, H, W) or (N, 3, H, W) in [0, 1], any H and W from 64. Output: (N, classes) logits.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import alexnet, resnet50

from processing.errors import ConfigError
from training.config import SMALLEST_SIDE, Cnn
from training.layers import IMAGENET_DEVIATION, IMAGENET_MEAN, Dropout, Normalise
from training.weights import load_body, read_weights

NAMES: tuple[str, ...] = tuple(str(cnn) for cnn in Cnn)
"""The networks that `build_model` knows."""


class FilmNetwork(nn.Module):
    """A classifier of films: normalisation, then `body`, some part of which is the classifier, the `head`."""

    def __init__(self, name: str, body: nn.Module, *, head: str, cam_layer: str, normalise: Normalise) -> None:
        """Take the network and the paths, inside `body`, of its classifier and of its last layer that knows places."""
        super().__init__()
        self.normalise = normalise
        self.body = body
        self.name, self.head_path, self.cam_path = name, head, cam_layer

    @property
    def head(self) -> nn.Module:
        """The classifier: what is new, and trains first, when the rest is pretrained."""
        return self.body.get_submodule(self.head_path)

    @property
    def cam_layer(self) -> nn.Module:
        """The layer whose output, (N, channels, h, w), class activation maps are made of."""
        return self.body.get_submodule(self.cam_path)

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, classes) logits."""
        if min(images.shape[-2:]) < SMALLEST_SIDE:
            raise ValueError(f"images of {tuple(images.shape[-2:])} pixels: each side must be at least {SMALLEST_SIDE}")
        logits: Tensor = self.body(self.normalise(images))
        return logits


def build_model(name: str, *, classes: int | Sequence[str], weights: Path | None = None, dropout: float = 0.0,
                seed: int = 0) -> FilmNetwork:
    """Return the network, initialised from `seed`, then from the file `weights` everywhere but in the classifier.

    `classes` is their number or their names. Raises `ConfigError` for an unknown name, fewer than two classes, or a
    file that does not fit the network.
    """
    count = classes if isinstance(classes, int) else len(classes)
    if name not in NAMES:
        raise ConfigError(f"cnn={name!r} is unknown; known are {', '.join(NAMES)}")
    if count < 2:
        raise ConfigError(f"classes={classes!r}: a classifier needs at least two")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _BUILDERS[Cnn(name)](count, dropout)
        network.apply(_initialise)
        # A new classifier starts undecided: with large first weights it would pull the pretrained body apart.
        for module in network.head.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
    if weights is not None:
        load_body(network.body, read_weights(weights), head=network.head_path, where=weights)
    return network


def _initialise(module: nn.Module) -> None:
    """He et al. 2015: without it AlexNet, which has no normalisation, hardly learns from scratch."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_out" if isinstance(module, nn.Conv2d) else "fan_in",
                                nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _head(features: int, classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(Dropout(dropout), nn.Linear(features, classes))


def _modified_cnn(classes: int, dropout: float) -> FilmNetwork:
    """Four blocks of two convolutions with batch normalisation, global average pooling, dropout; 1.2 M weights."""
    widths = (32, 64, 128, 256)
    blocks: list[nn.Module] = [_convolution(1, widths[0], kernel=5, stride=2)]
    for before, width in zip((widths[0], *widths), widths, strict=False):
        blocks.append(nn.Sequential(_convolution(before, width), _convolution(width, width), nn.MaxPool2d(2)))
    body = nn.Sequential()
    body.add_module("features", nn.Sequential(*blocks))
    body.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    body.add_module("head", _head(widths[-1], classes, dropout))
    return FilmNetwork("modified_cnn", body, head="head", cam_layer="features.4.1", normalise=Normalise((0.3,), (0.3,)))


def _convolution(before: int, after: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(after),
                         nn.ReLU(inplace=True))


def _alexnet(classes: int, dropout: float) -> FilmNetwork:
    """Krizhevsky 2014 as torchvision builds it; its adaptive pooling takes films of any size."""
    body = alexnet(weights=None)
    body.classifier[0], body.classifier[3] = Dropout(dropout), Dropout(dropout)
    body.classifier[6] = nn.Linear(4096, classes)
    return FilmNetwork("alexnet", body, head="classifier.6", cam_layer="features.11", normalise=_imagenet())


def _resnet50(classes: int, dropout: float) -> FilmNetwork:
    """He et al. 2016 as torchvision builds it, with dropout before the classifier."""
    body = resnet50(weights=None)
    body.fc = _head(2048, classes, dropout)
    return FilmNetwork("resnet50", body, head="fc", cam_layer="layer4", normalise=_imagenet())


def _imagenet() -> Normalise:
    return Normalise(IMAGENET_MEAN, IMAGENET_DEVIATION)


_BUILDERS: dict[Cnn, Callable[[int, float], FilmNetwork]] = {
    Cnn.MODIFIED_CNN: _modified_cnn,
    Cnn.ALEXNET: _alexnet,
    Cnn.RESNET50: _resnet50,
}
