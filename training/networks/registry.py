"""The CNN registry: one frame around every network, and the networks themselves.

Input of all: float32 (N, 1, H, W) or (N, 3, H, W) in [0, 1], any H and W from 64. Output: (N, classes) logits.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import TrainConfig
from mammopipe.training.model.architecture import SMALLEST_SIDE, Cnn, Pooling
from mammopipe.training.networks.efficientnet_lite import (
    CUT,
    DEVIATION,
    FEATURES,
    MEAN,
    NARROW,
    efficientnet_lite0,
    lite0_at_16,
)
from mammopipe.training.networks.layers import IMAGENET_DEVIATION, IMAGENET_MEAN, Dropout, Normalise
from mammopipe.training.networks.pretrained import load_body, read_weights

NAMES: tuple[str, ...] = tuple(str(cnn) for cnn in Cnn)
"""The networks that `build_model` knows."""


class FilmNetwork(nn.Module):
    """A classifier of films: normalisation, then `body`, some part of which is the classifier, the `head`."""

    def __init__(
        self, name: str, body: nn.Module, *, head: str, cam_layer: str, normalise: Normalise, pool: str | None = None
    ) -> None:
        """Take the network and the paths, inside `body`, of its classifier and of its last layer that knows places.

        `pool` is the child of `body` that makes one place of all; before it the children compute in their order.
        """
        super().__init__()
        self.normalise = normalise
        self.body = body
        self.name, self.head_path, self.cam_path, self.pool_name = name, head, cam_layer, pool
        self.pooling, self.top_places = Pooling.MEAN, 1

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
        if self.pooling is not Pooling.MEAN:
            return self.pool(self.places(images))
        logits: Tensor = self.body(self.normalise(images))
        return logits

    def places(self, images: Tensor) -> Tensor:
        """Return the logits of every place, (N, classes, h, w): what the classifier says of the maps there alone."""
        return place_logits(self.head, self.maps(images))

    def maps(self, images: Tensor) -> Tensor:
        """Return the last maps that know places, (N, channels, h, w): what the classifier judges."""
        maps: Tensor = self.normalise(images)
        for name, layer in self.body.named_children():
            if name == self.pool_name:
                break
            maps = layer(maps)
        return maps

    def pool(self, places: Tensor) -> Tensor:
        """Return the film logits, (N, classes), that the logits of places make together."""
        if self.pooling is Pooling.TOP:
            return top(places, self.top_places)
        return peaks(places) if self.pooling is Pooling.PEAKS else places.mean(dim=(2, 3))


def place_logits(head: nn.Module, maps: Tensor) -> Tensor:
    """Return what a classifier says of every place of maps, (N, channels, h, w), as (N, classes, h, w)."""
    logits: Tensor = head(maps.permute(0, 2, 3, 1))
    return logits.permute(0, 3, 1, 2)


def peaks(places: Tensor) -> Tensor:
    """Return film logits, (N, classes), of the logits of places, (N, classes, h, w), as `Pooling.PEAKS` says.

    Source: Pinheiro and Collobert 2015 (https://arxiv.org/abs/1411.6228). The first class is that without a lesion.
    """
    count = places.shape[2] * places.shape[3]
    strongest = torch.logsumexp(places[:, 1:].flatten(2), dim=2) - math.log(count)
    return torch.cat([places[:, :1].mean(dim=(2, 3)), strongest], dim=1)


def top(places: Tensor, count: int) -> Tensor:
    """Return film logits, (N, classes), of the logits of places, (N, classes, h, w), as `Pooling.TOP` says.

    Of a film of fewer than `count` places all count. The first class is that without a lesion.
    """
    flat = places.flatten(2)
    strongest = flat[:, 1:].topk(min(count, flat.shape[2]), dim=2).values.mean(dim=2)
    return torch.cat([flat[:, :1].mean(dim=2), strongest], dim=1)


def build_model(
    name: str,
    *,
    classes: int | Sequence[str],
    weights: Path | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    pooling: Pooling = Pooling.MEAN,
    top_places: int = TrainConfig.top_places,
    stride: int = TrainConfig.stride,
) -> FilmNetwork:
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
        network = _builder(Cnn(name), stride)(count, dropout)
        network.apply(_initialise)
        # A new classifier starts undecided: with large first weights it would pull the pretrained body apart.
        for module in network.head.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
    if pooling is not Pooling.MEAN and network.pool_name is None:
        raise ConfigError(f"pooling={pooling}: cnn={name} has no logits of single places")
    network.pooling, network.top_places = pooling, top_places
    if weights is not None:
        cut = CUT if stride == 16 else ()
        load_body(network.body, read_weights(weights), head=network.head_path, cut=cut, where=weights)
    return network


def _initialise(module: nn.Module) -> None:
    """He et al. 2015: without it AlexNet, which has no normalisation, hardly learns from scratch."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(
            module.weight, mode="fan_out" if isinstance(module, nn.Conv2d) else "fan_in", nonlinearity="relu"
        )
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
    return FilmNetwork(
        "modified_cnn", body, head="head", cam_layer="features.4.1", normalise=Normalise((0.3,), (0.3,)), pool="pool"
    )


def _convolution(before: int, after: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


def _alexnet(classes: int, dropout: float) -> FilmNetwork:
    """Krizhevsky 2014 as torchvision builds it; its adaptive pooling takes films of any size."""
    from torchvision.models import alexnet  # here: its import takes as long as torch itself

    body = alexnet(weights=None)
    body.classifier[0], body.classifier[3] = Dropout(dropout), Dropout(dropout)
    body.classifier[6] = nn.Linear(4096, classes)
    return FilmNetwork("alexnet", body, head="classifier.6", cam_layer="features.11", normalise=_imagenet())


def _resnet50(classes: int, dropout: float) -> FilmNetwork:
    """He et al. 2016 as torchvision builds it, with dropout before the classifier."""
    from torchvision.models import resnet50  # here: its import takes as long as torch itself

    body = resnet50(weights=None)
    body.fc = _head(2048, classes, dropout)
    return FilmNetwork("resnet50", body, head="fc", cam_layer="layer4", normalise=_imagenet(), pool="avgpool")


def _efficientnet_lite0(classes: int, dropout: float) -> FilmNetwork:
    """Tan and Le 2019 in its Lite form, the parameters named as in the published weights."""
    body = efficientnet_lite0(_head(FEATURES, classes, dropout))
    return FilmNetwork(
        "efficientnet_lite0",
        body,
        head="_fc",
        cam_layer="_last",
        normalise=Normalise((MEAN,) * 3, (DEVIATION,) * 3),
        pool="_pool",
    )


def _lite0_at_16(classes: int, dropout: float) -> FilmNetwork:
    """EfficientNet-Lite0 up to its last reduction: four times the places, and maps of smaller things."""
    return FilmNetwork(
        "efficientnet_lite0",
        lite0_at_16(_head(NARROW, classes, dropout)),
        head="_fc",
        cam_layer="_last",
        normalise=Normalise((MEAN,) * 3, (DEVIATION,) * 3),
        pool="_pool",
    )


def _imagenet() -> Normalise:
    return Normalise(IMAGENET_MEAN, IMAGENET_DEVIATION)


_BUILDERS: dict[Cnn, Callable[[int, float], FilmNetwork]] = {
    Cnn.MODIFIED_CNN: _modified_cnn,
    Cnn.ALEXNET: _alexnet,
    Cnn.RESNET50: _resnet50,
    Cnn.EFFICIENTNET_LITE0: _efficientnet_lite0,
}


def _builder(cnn: Cnn, stride: int) -> Callable[[int, float], FilmNetwork]:
    if stride == 32:
        return _BUILDERS[cnn]
    if (cnn, stride) == (Cnn.EFFICIENTNET_LITE0, 16):
        return _lite0_at_16
    raise ConfigError(f"stride={stride}: cnn={cnn} has no places at that distance")
