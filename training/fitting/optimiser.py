"""The optimiser and its learning rates. With a pretrained body, first only the classifier trains, then all layers."""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from mammopipe.training.config import Learns, TrainConfig
from mammopipe.training.fitting.head_only import Learner
from mammopipe.training.networks.network import ImageNetwork
from mammopipe.training.optimisation import OptimiserKind

MOMENTUM = 0.1
"""Weight of a new batch in the moving statistics of batch normalisation; torch's default."""

FLOOR = 0.01
"""Final learning rate of the cosine schedule, relative to the highest rate."""


def make_optimiser(network: Learner, config: TrainConfig) -> Optimizer:
    """Return the optimiser with separate parameter groups for body and head, each with and without weight decay.

    With `layer_decay`, each layer of the body has its own groups. `Schedule` sets the learning rates at every step.
    """
    head = {id(parameter) for layer in _new_layers(network) for parameter in layer.parameters()}
    layers = _layers(network, head) if config.layer_decay < 1 else {}
    deepest = max(layers.values(), default=0)
    groups: dict[tuple[str, bool, int], dict[str, Any]] = {}
    for part in ("body", "head"):
        for decayed in (True, False):
            for parameter in network.parameters():
                # Biases and normalisation scales (vectors) get no weight decay.
                if (id(parameter) in head) == (part == "head") and (parameter.ndim > 1) == decayed:
                    depth = layers.get(id(parameter), deepest)
                    group = groups.setdefault(
                        (part, decayed, depth),
                        {
                            "params": [],
                            "part": part,
                            "scale": config.layer_decay ** (deepest - depth) if part == "body" else 1.0,
                            "lr": 0.0,
                            "weight_decay": config.weight_decay if decayed else 0.0,
                        },
                    )
                    group["params"].append(parameter)
    if config.optimiser is OptimiserKind.SGD:
        return SGD(list(groups.values()), momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    # `fused` makes one pass over the weights instead of a dozen: a fifth of the time for AlexNet's 57 million on a CPU.
    return AdamW(list(groups.values()), fused=True)


def _new_layers(network: Learner) -> list[nn.Module]:
    """Return the layers that are not in pretrained weights: the classifier, and the pooling of a breast's views."""
    return network.new_layers if isinstance(network, ImageNetwork) else [network.head]


def _layers(network: Learner, head: Collection[int]) -> dict[int, int]:
    """Return the layer number of each parameter of the body, counted from the input, by the parameter's `id`.

    A layer is a block, or a module outside of blocks. The order of the parameters is that of computation.
    """
    numbers: dict[str, int] = {}
    found = {}
    for name, parameter in network.named_parameters():
        if id(parameter) not in head:
            inner = name.removeprefix("body.").removeprefix("trunk.network.")
            # The name up to a block's number ("layer1.0", "stages.0.blocks.1"), or the first part ("stem").
            match = re.match(r"\w+?\.\d+(\.blocks\.\d+)?(?=\.)|\w+", inner)
            found[id(parameter)] = numbers.setdefault(match[0] if match else inner, len(numbers))
    return found


@dataclass(frozen=True)
class Schedule:
    """The learning rates of body and head at every step of a run."""

    config: TrainConfig
    steps: int
    """Steps per epoch."""
    pretrained: bool

    @property
    def head_epochs(self) -> int:
        """Number of epochs in which only the head trains; 0 without a pretrained body or if the body never trains."""
        return self.config.head_epochs if self.pretrained and self.config.learns is Learns.ALL else 0

    def trains_body(self, epoch: int) -> bool:
        """Whether the body trains in this epoch; epochs count from 1."""
        return epoch > self.head_epochs

    def rates(self, epoch: int, step: int) -> dict[str, float]:
        """Return the learning rates {"body", "head"} at a step (from 0) of an epoch (from 1)."""
        head = self.config.head_learning_rate if self.pretrained else self.config.learning_rate
        if not self.trains_body(epoch):
            # A linear warm-up over the first epoch: the new classifier starts from random weights.
            return {"body": 0.0, "head": head * min(1.0, (step + 1) / self.steps) if epoch == 1 else head}
        done = (epoch - self.head_epochs - 1) * self.steps + step
        factor = self._factor(done, (self.config.epochs - self.head_epochs) * self.steps)
        return {"body": self.config.learning_rate * factor, "head": head * factor}

    def _factor(self, done: int, total: int) -> float:
        warmup = min(self.config.warmup_epochs * self.steps, total / 2)
        if done < warmup:
            return (done + 1) / (warmup + 1)
        share = (done - warmup) / max(1.0, total - warmup)
        return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * share)) / 2

    def apply(self, optimiser: Optimizer, epoch: int, step: int) -> float:
        """Set the learning rates of this step; return the body's rate, or the head's if only the head trains."""
        rates = self.rates(epoch, step)
        for group in optimiser.param_groups:
            group["lr"] = rates[group["part"]] * group["scale"]
        return rates["body"] if self.trains_body(epoch) and self.config.learns is Learns.ALL else rates["head"]


def set_phase(network: Learner, *, trains_body: bool) -> None:
    """Set the network to training mode; a body that does not train keeps its weights and batch statistics."""
    network.train()
    network.requires_grad_(trains_body)
    for layer in _new_layers(network):
        layer.requires_grad_(True)
    if not trains_body:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def hasten_statistics(network: nn.Module, steps_done: int) -> None:
    """Make the statistics of batch normalisation plain means over the first ten steps, and moving means afterwards.

    They start as mean 0 and variance 1, which are not from data. With the default momentum, these initial values would
    dominate validation in a run of a few steps.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = max(MOMENTUM, 1 / (steps_done + 1))
