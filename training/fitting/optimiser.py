"""The optimiser and its rates: the classifier alone first when the body is pretrained, then everything."""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from mammopipe.training.config import Learns, OptimiserKind, TrainConfig
from mammopipe.training.fitting.head_only import Learner

MOMENTUM = 0.1
"""Share of a new batch in the moving statistics of batch normalisation, as torch has it."""

FLOOR = 0.01
"""Share of the highest rate at which the cosine ends."""


def make_optimiser(network: Learner, config: TrainConfig) -> Optimizer:
    """Return the optimiser over groups of parameters: body and head, each with and without weight decay.

    With `layer_decay` each layer of the body has groups of its own. Rates are set at every step (`Schedule`).
    """
    head = {id(parameter) for parameter in network.head.parameters()}
    layers = _layers(network, head) if config.layer_decay < 1 else {}
    deepest = max(layers.values(), default=0)
    groups: dict[tuple[str, bool, int], dict[str, Any]] = {}
    for part in ("body", "head"):
        for decayed in (True, False):
            for parameter in network.parameters():
                # Biases and the scales of normalisation are vectors: decay would only shift them.
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
    # Fused: one pass over the weights instead of a dozen, a fifth of the time for AlexNet's 57 million on a CPU.
    return AdamW(list(groups.values()), fused=True)


def _layers(network: Learner, head: Collection[int]) -> dict[int, int]:
    """Return the layer of each parameter of the body, counted from the input, by the parameter's identity.

    A layer is a block, or what stands by itself; parameters are named in the order in which they compute.
    """
    numbers: dict[str, int] = {}
    found = {}
    for name, parameter in network.named_parameters():
        if id(parameter) not in head:
            inner = name.removeprefix("body.").removeprefix("trunk.network.")
            match = re.match(r"\w+?\.\d+(\.blocks\.\d+)?(?=\.)|\w+", inner)
            found[id(parameter)] = numbers.setdefault(match[0] if match else inner, len(numbers))
    return found


@dataclass(frozen=True)
class Schedule:
    """The rates of body and head at every step of a run."""

    config: TrainConfig
    steps: int
    """Steps an epoch."""
    pretrained: bool

    @property
    def head_epochs(self) -> int:
        """Epochs before the body joins the head; none without a pretrained body, or where it never joins."""
        return self.config.head_epochs if self.pretrained and self.config.learns is Learns.ALL else 0

    def trains_body(self, epoch: int) -> bool:
        """Whether the body learns in this epoch, the first being 1."""
        return epoch > self.head_epochs

    def rates(self, epoch: int, step: int) -> dict[str, float]:
        """Return the rates of `body` and `head` at a step (from 0) of an epoch (from 1)."""
        head = self.config.head_learning_rate if self.pretrained else self.config.learning_rate
        if not self.trains_body(epoch):
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
        """Set the rates of this step; return that of the body, or of the head while it trains alone."""
        rates = self.rates(epoch, step)
        for group in optimiser.param_groups:
            group["lr"] = rates[group["part"]] * group["scale"]
        return rates["body"] if self.trains_body(epoch) and self.config.learns is Learns.ALL else rates["head"]


def set_phase(network: Learner, *, trains_body: bool) -> None:
    """Put the network in training mode; a body that does not train keeps its weights and batch statistics."""
    network.train()
    network.requires_grad_(trains_body)
    network.head.requires_grad_(True)
    if not trains_body:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def hasten_statistics(network: nn.Module, steps_done: int) -> None:
    """Let batch statistics be plain means over the first ten steps, and moving means after.

    They start from 0 and 1, which is nothing that was seen; at the usual momentum a run of a few steps would be
    measured with those.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = max(MOMENTUM, 1 / (steps_done + 1))
