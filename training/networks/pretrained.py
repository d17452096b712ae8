"""Pretrained weights as they were staged: found in their channel, checked against their sums, loaded strictly."""

import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import sha256

SUFFIXES = (".pth", ".pt", ".safetensors")
_OPTIONAL = ".num_batches_tracked"
"""A counter that torchvision's older files lack; it has no part in what a network computes."""


_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    pickle.UnpicklingError,
)
"""What torch's restricted unpickler raises on bytes that are no state dict."""


@dataclass(frozen=True)
class StagedWeights:
    """One file of pretrained weights."""

    path: Path
    sha256: str

    def to_json(self) -> dict[str, str]:
        """Return what `model.json` says of the file."""
        return {"file": self.path.name, "sha256": self.sha256}


def find_weights(folder: Path, name: str) -> StagedWeights | None:
    """Return the file `<name>*.pth` (or .pt, .safetensors) in `folder`; `None` where there is none.

    Published files may write the name's underscores as hyphens (`efficientnet-lite0-57934424.pth`).
    Its SHA-256 must be the one that `SHA256SUMS` or `<file>.sha256` beside it states, and must begin with the digits
    that torchvision puts in its file names (`resnet50-0676ba61.pth`). Raises `ConfigError` when it is another one, or
    when several files fit.
    """
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    fitting = [
        path
        for path in files
        if path.suffix in SUFFIXES and path.name.replace("-", "_").startswith(name.replace("-", "_"))
    ]
    if len(fitting) > 1:
        raise ConfigError(f"{folder}: {', '.join(path.name for path in fitting)} all fit cnn={name}; stage one of them")
    if not fitting:
        return None
    digest = sha256(fitting[0])
    for stated in _stated_sums(fitting[0]):
        if not digest.startswith(stated):
            raise ConfigError(f"{fitting[0]}: its SHA-256 is {digest}, but it must begin with {stated}")
    return StagedWeights(fitting[0], digest)


def _stated_sums(path: Path) -> list[str]:
    named = re.search(r"-([0-9a-f]{8})$", path.stem)
    sums = [named[1]] if named else []
    for table in (path.with_name(path.name + ".sha256"), path.with_name("SHA256SUMS")):
        lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
        pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
        sums += [pair[0].lower() for pair in pairs if len(pair) == 1 or pair[1].lstrip("*").strip() == path.name]
    return sums


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a torch or safetensors file; nothing in it is executed. Raises `ConfigError`."""
    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except (*_UNREADABLE, SafetensorError) as error:
        reason = (str(error).splitlines() or ["it ends too early"])[0]
        raise ConfigError(f"{path}: not a file of weights: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"{path}: must hold a state dict, names to tensors, and nothing else")
    return dict(state)


def load_body(body: nn.Module, state: dict[str, Tensor], *, head: str, where: Path, cut: Sequence[str] = ()) -> None:
    """Load `state` into `body`, all but the layer `head`; raises `ConfigError` naming what does not fit.

    `cut` are the beginnings of the names of layers that the file has and the body lacks.
    """
    own = body.state_dict()
    kept = {key: value for key, value in state.items() if not key.startswith((f"{head}.", *cut))}
    wanted = {key: value for key, value in own.items() if not key.startswith(f"{head}.")}
    missing = [key for key in wanted if key not in kept and not key.endswith(_OPTIONAL)]
    unknown = [key for key in kept if key not in wanted]
    misshapen = [
        f"{key} {tuple(kept[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in kept
        if key in wanted and kept[key].shape != wanted[key].shape
    ]
    for what, keys in (("lacks", missing), ("has unknown", unknown), ("has misshapen", misshapen)):
        if keys:
            raise ConfigError(
                f"{where}: does not fit the network: it {what} {', '.join(keys[:5])}"
                + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            )
    body.load_state_dict({**own, **kept}, strict=True)
