"""Finds which networks of timm have feature maps, at which strides, and the image sizes that they accept.

`python -m benchmarks.studies.timm_inputs > training/model/timm_tables/inputs.txt` writes the table that
`mammopipe.training.model.architecture` reads, so that an unusable network is refused before a job starts. Each network
is built without memory for its weights (torch's device `meta`) and gets images of many sizes, which computes only
shapes. This takes about ten minutes on one core.
"""

import sys
from collections.abc import Sequence
from typing import Any

import timm
import torch

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import SMALLEST_SIDE, TIMM_STRIDES, timm_names
from mammopipe.training.networks.network import BuildOptions
from mammopipe.training.networks.timm_network import Trunk, trunk_of

MULTIPLES = (1, 2, 4, 8, 14, 16, 28, 32, 56, 64, 112, 128, 192, 224, 256)
"""The divisors of an image's sides that are tried, in this order."""
UNCHECKED = ("mvitv2", "sequencer2d")
"""Families that have tables for only one image size, which the device `meta` does not notice."""
LARGE = 300
"""An image with sides of at least this many pixels is large enough for every network."""
LARGEST_TRIED = 512
_REFUSALS = (RuntimeError, AssertionError, ValueError, TypeError, IndexError, ZeroDivisionError)
"""Errors of networks for image sizes that they do not accept."""


def main(arguments: Sequence[str]) -> None:
    """Print one line for each network, or for those that are named: name, strides, smallest side, divisor of sides."""
    torch.set_num_threads(1)
    for name in arguments or sorted(name for name in timm_names() if "." not in name):
        print(described(name), flush=True)


def described(name: str) -> str:
    """Return the line of a network; that of an unusable one is its name, a hyphen, and the reason."""
    shallow = _shallow(name)
    for stride in reversed(TIMM_STRIDES):
        try:
            with torch.device("meta"):
                trunk = trunk_of(name, BuildOptions(2, stride=stride), **shallow).eval()
        except ConfigError:
            continue
        size = None if name.startswith(UNCHECKED) else _sizes(trunk)
        if size is None:
            return f"{name} - it accepts only images of a few sizes, such as {_own_size(name)} pixels"
        smaller = {each["reduction"] for each in getattr(trunk.network, "feature_info", [])} & {*TIMM_STRIDES}
        known = hasattr(trunk.network, "forward_intermediates")
        strides = {stride, *(each for each in smaller if known and each < stride)}
        return f"{name} {','.join(map(str, sorted(strides)))} {size[1]} {size[0]}"
    if _has_maps_of_its_own_size(name, shallow):
        return f"{name} - it accepts only images of a few sizes, such as {_own_size(name)} pixels"
    wanted = ", ".join(map(str, TIMM_STRIDES))
    return f"{name} - it has no feature maps, (N, channels, h, w), at a stride of {wanted} pixels"


def _has_maps_of_its_own_size(name: str, shallow: dict[str, Any]) -> bool:
    """Return whether a network has feature maps for images of the size that it was published for."""
    height, width = map(int, _own_size(name).split(" x "))
    with torch.device("meta"), torch.inference_mode():
        network: Any = timm.create_model(name, **shallow).eval()
        try:
            found = network.forward_intermediates(
                torch.zeros(2, 3, height, width), indices=1, output_fmt="NCHW", intermediates_only=True
            )
        except (AttributeError, *_REFUSALS):
            return False
    return bool(found[-1].ndim == 4)


def _shallow(name: str) -> dict[str, Any]:
    """Return the option that gives a transformer only one block, if it exists: all blocks accept the same images."""
    try:
        with torch.device("meta"):
            timm.create_model(name, depth=1)
    except (TypeError, ValueError, AssertionError):  # It has no such option, or `depth` means something else.
        return {}
    return {"depth": 1}


def _own_size(name: str) -> str:
    own = timm.get_pretrained_cfg(name)
    assert own is not None
    return " x ".join(map(str, own.input_size[1:]))


def _sizes(trunk: Trunk) -> tuple[int, int] | None:
    """Return the divisor of the sides that a network accepts, and its smallest side; `None` if it accepts one size."""
    for multiple in MULTIPLES:
        first = -(-LARGE // multiple) * multiple
        if not _takes(trunk, first + multiple, first):
            continue
        smallest = -(-SMALLEST_SIDE // multiple) * multiple
        for side in range(smallest, LARGEST_TRIED + 1, multiple):
            if _takes(trunk, side, side) and _takes(trunk, first, side):
                return multiple, side
    return None


def _takes(trunk: Trunk, height: int, width: int) -> bool:
    try:
        with torch.device("meta"), torch.inference_mode():
            maps = trunk(torch.zeros(2, 3, height, width))
    except _REFUSALS:
        return False
    return all(side >= 1 for side in maps.shape[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
