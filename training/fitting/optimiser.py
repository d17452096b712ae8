"""The optimiser and its rates: the classifier alone first when the body is pretrained, then everything."""

import math
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW

from mammopipe.training.config import Learns, TrainConfig
from mammopipe.training.fitting.head_only import Learner

MOMENTUM = 0.1
"""Share of a new batch in the moving statistics of batch normalisation, as torch has it."""

FLOOR = 0.01
"""Share of the highest rate at which the cosine ends."""


def make_optimiser(network: Learner, config: TrainConfig) -> AdamW:
    """Return AdamW over four groups: body and head, each with and without weight decay; rates are set at every step."""
    head = {id(parameter) for parameter in network.head.parameters()}
    groups = []
    for part in ("body", "head"):
        for decayed in (True, False):
            # Biases and the scales of batch normalisation are vectors: decay would only shift them.
            members = [
                parameter
                for parameter in network.parameters()
                if (id(parameter) in head) == (part == "head") and (parameter.ndim > 1) == decayed
            ]
            if members:
                groups.append(
                    {
                        "params": members,
                        "part": part,
                        "lr": 0.0,
                        "weight_decay": config.weight_decay if decayed else 0.0,
                    }
                )
    # Fused: one pass over the weights instead of a dozen, a fifth of the time for AlexNet's 57 million on a CPU.
    return AdamW(groups, fused=True)


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

    def apply(self, optimiser: AdamW, epoch: int, step: int) -> float:
        """Set the rates of this step; return that of the body, or of the head while it trains alone."""
        rates = self.rates(epoch, step)
        for group in optimiser.param_groups:
            group["lr"] = rates[group["part"]]
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
