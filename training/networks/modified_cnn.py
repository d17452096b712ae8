"""The small network of the published pipeline, trained from scratch."""

from torch import nn

from mammopipe.training.networks.layers import Normalise
from mammopipe.training.networks.network import BuildOptions, ImageNetwork, classifier

_WIDTHS = (32, 64, 128, 256)


def build(name: str, options: BuildOptions) -> ImageNetwork:
    """Return the network: four blocks of two convolutions with batch normalisation, then global average pooling.

    It has 1.2 million weights.
    """
    blocks: list[nn.Module] = [_convolution(1, _WIDTHS[0], kernel=5, stride=2)]
    for before, width in zip((_WIDTHS[0], *_WIDTHS), _WIDTHS, strict=False):
        blocks.append(nn.Sequential(_convolution(before, width), _convolution(width, width), nn.MaxPool2d(2)))
    body = nn.Sequential()
    body.add_module("features", nn.Sequential(*blocks))
    body.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    body.add_module("head", classifier(_WIDTHS[-1], options))
    return ImageNetwork(
        name, body, head="head", cam_layer="features.4.1", normalise=Normalise((0.3,), (0.3,)), pool="pool"
    )


def _convolution(before: int, after: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )
