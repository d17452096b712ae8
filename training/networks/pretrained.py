"""Finds pretrained weights in their channel, checks them against their SHA-256 sums, and loads them strictly.

Weights are a published state dict, or a model that this project packed (`model.tar.gz`) and that is trained further (a
warm start). The classifier of a packed model is also loaded if its classes are those of the job.
"""

import pickle
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mammopipe.processing.declared_data import declaration_of
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.weight_sums import checked_sha256
from mammopipe.training.model.architecture import ARCHITECTURES, fits_weights, timm_names, weights_of_no_network
from mammopipe.training.model.archive import PACKED, unpacked
from mammopipe.training.model.description import WEIGHTS_FILE
from mammopipe.training.model.views.attention import PREFIX
from mammopipe.training.networks.network import ImageNetwork

_OPTIONAL = ".num_batches_tracked"
"""A counter that older files of torchvision lack; it does not affect what a network computes."""


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
"""Exceptions that torch's restricted unpickler raises for files that are not a state dict."""


_WRAPPERS = ("module.", "model.", "network.", "net.", "backbone.", "encoder.", "body.", "trunk.", "_orig_mod.")
"""Prefixes that other programs (DataParallel, Lightning, torch.compile) and this project put before parameter names."""
_OUTPUT = "output.tar.gz"
"""File that SageMaker may put next to a training job's `model.tar.gz`; it contains no model."""
_NESTED = ("state_dict", "model_state_dict", "model", "network")
"""Keys under which a checkpoint may hold its state dict."""


State = dict[str, Tensor]


@dataclass(frozen=True)
class StagedWeights:
    """One file of pretrained weights."""

    path: Path
    sha256: str
    declared: Mapping[str, Any] | None = None
    """The declaration of the images that the weights were trained on (`mammopipe.processing.declared_data`)."""
    model: Mapping[str, Any] | None = None
    """Keys of a packed model's `model.json`: architecture, classes, digests of its weights and its training data."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON values for `model.json`."""
        own = {} if self.model is None else {"model": dict(self.model)}
        return {"file": self.path.name, "sha256": self.sha256, "declared": self.declared, **own}

    def require_declared(self, data_digest: str) -> None:
        """Raise `ConfigError` if a packed model was trained on other images than the job's and nobody declared them.

        Args:
            data_digest: Digest of the job's images for training and validation.
        """
        if self.model is None or self.declared is not None or self.model["data_digest"] == data_digest:
            return
        raise ConfigError(
            f"{self.path}: this model was trained on other images than this job's; declare their datasets in "
            f'{self.path.name}.json, {{"datasets": ["..."]}}, because every figure is too good if the test images of '
            "this run are among them"
        )


def find_weights(folder: Path, name: str) -> StagedWeights | None:
    """Find the file of a network's weights.

    The file name begins with the network's name (`mammopipe.training.model.architecture.fits_weights`). The file's
    SHA-256 must be the one that is stated for it (`mammopipe.processing.weight_sums`).

    Args:
        folder: Folder of the weights.
        name: Name of the network.

    Returns:
        The file, or `None` if the folder has no weights of this network.

    Raises:
        ConfigError: The SHA-256 does not match, several files fit, or a file fits no known network. In the last case
            the file name is probably wrong, and training would silently start from scratch.
    """
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    networks = (*ARCHITECTURES, *timm_names())
    unknown = weights_of_no_network([path.name for path in files], networks)
    if unknown:
        raise ConfigError(
            f"{folder}: {', '.join(unknown)}: weights of no known network; a file's name must begin with the name of "
            f"the network that it is for"
        )
    packed = [path for path in files if path.name.endswith(PACKED) and path.name != _OUTPUT]
    fitting = [path for path in files if fits_weights(path.name, name)]
    # A network's name may begin with another network's name, so a file with exactly the name has precedence.
    exact = [path for path in fitting if path.stem.replace("-", "_") == name.replace("-", "_")]
    fitting = [*(exact if len(exact) == 1 else fitting), *packed]
    if len(fitting) > 1:
        raise ConfigError(f"{folder}: {', '.join(path.name for path in fitting)} all fit cnn={name}; stage one of them")
    if not fitting:
        return None
    digest = checked_sha256(fitting[0])
    return StagedWeights(fitting[0], digest, declaration_of(fitting[0]), _own_model(fitting[0], name))


def _own_model(path: Path, name: str) -> dict[str, Any] | None:
    """Return keys of a packed model's `model.json`; `None` for a state dict.

    Raises:
        ConfigError: The model is damaged, is of another network, or is an ensemble.
    """
    if not path.name.endswith(PACKED):
        return None
    with unpacked(path) as (_, described):
        if described["architecture"] != name:
            raise ConfigError(
                f"{path}: a model of {described['architecture']}; cnn={name} can only start from a model of the same "
                "network"
            )
        if described.get("ensemble", 1) > 1:
            raise ConfigError(f"{path}: an ensemble of {described['ensemble']} networks; training must start from one")
        kept = {key: described[key] for key in ("architecture", "classes", "weights_sha256", "pretrained_weights")}
        return {**kept, "data_digest": described["training"].get("data_digest")}


def load_packed(network: ImageNetwork, path: Path, classes: Sequence[str]) -> None:
    """Load a packed model into a network: the body, and the classifier if it has the same classes.

    A network that judges breasts also gets the attention over views, from a model that has the same attention.

    Raises:
        ConfigError: The model is damaged, or does not fit the network.
    """
    with unpacked(path) as (folder, described):
        state = load_file(folder / WEIGHTS_FILE)
    load_body(network, state, where=path)
    if list(classes) == list(described["classes"]):
        head = f"body.{network.head_path}."
        own = network.state_dict()
        kept = {key: value for key, value in state.items() if key.startswith((head, PREFIX)) and key in own}
        network.load_state_dict({**own, **kept})


def read_weights(path: Path) -> State:
    """Read the state dict of a torch or safetensors file, or of a checkpoint; nothing in the file is executed.

    Raises:
        ConfigError: The file cannot be read, or contains no state dict.
    """
    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except (*_UNREADABLE, SafetensorError) as error:
        reason = (str(error).splitlines() or ["it ends too early"])[0]
        # A checkpoint may contain objects of other programs, such as hyperparameters. Unpickling them could run code.
        objects = isinstance(error, pickle.UnpicklingError)
        hint = '; save its state dict alone, torch.save(checkpoint["state_dict"], FILE)' if objects else ""
        raise ConfigError(f"{path}: not a file of weights: {reason}{hint}") from None
    inner = (
        next((state[key] for key in _NESTED if key in state and isinstance(state[key], dict)), state)
        if isinstance(state, dict)
        else state
    )
    if not isinstance(inner, dict) or not inner or not all(isinstance(value, Tensor) for value in inner.values()):
        raise ConfigError(f"{path}: must hold a state dict, names to tensors, and nothing else")
    return dict(inner)


def unwrapped(state: State, wanted: Collection[str]) -> State:
    """Return a state dict without the prefixes that other programs put before the `wanted` names.

    A prefix is removed if more names are wanted without it, or if all names have it and none is wanted. Names without
    the prefix are then dropped, because they belong to the wrapper, such as the weights of a loss.
    """
    wanted = set(wanted)
    while True:
        for prefix in _WRAPPERS:
            inner = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
            gains = len(wanted & inner.keys()) > len(wanted & state.keys())
            if gains or (inner and len(inner) == len(state) and not wanted & state.keys()):
                state = inner
                break
        else:
            return state


def load_body(network: ImageNetwork, state: State, *, where: Path) -> None:
    """Load a published state dict into a network's body, except its classifier.

    Args:
        network: The network.
        state: The state dict.
        where: File name for error messages.

    Raises:
        ConfigError: Names or shapes do not fit, or a value is not finite; the message states the first five.
    """
    own, head = network.body.state_dict(), f"{network.head_path}."
    wanted = {key: value for key, value in own.items() if not key.startswith(head)}
    try:
        state = network.convert(unwrapped(state, wanted))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    kept = {key: value for key, value in state.items() if not key.startswith(head)}
    missing = [key for key in wanted if key not in kept and not key.endswith(_OPTIONAL)]
    unknown = [key for key in kept if key not in wanted]
    misshapen = [
        f"{key} {tuple(kept[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in kept
        if key in wanted and kept[key].shape != wanted[key].shape
    ]
    infinite = [key for key in kept if kept[key].is_floating_point() and not kept[key].isfinite().all()]
    faults = (("lacks", missing), ("has unknown", unknown), ("has misshapen", misshapen), ("has not finite", infinite))
    for what, keys in faults:
        if keys:
            raise ConfigError(
                f"{where}: does not fit the network: it {what} {', '.join(keys[:5])}"
                + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            )
    network.body.load_state_dict({**own, **kept}, strict=True)
