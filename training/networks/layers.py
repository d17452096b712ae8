"""Layers whose result does not depend on the number of processes that share a batch, and input normalisation.

A batch is divided into equal slices, one per process. Dropout masks are drawn for the whole batch, and each process
uses its rows; batch statistics are summed over the processes. Results with one and with two processes therefore differ
only by rounding. In float64 they agree to ten digits. In float32, a rounding error can change the sign at a ReLU or the
choice of a maximum, which changes a gradient by about 0.5 %.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mammopipe.processing.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def world() -> tuple[int, int]:
    """Return this process's rank and the number of processes; (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


class Normalise(nn.Module):
    """Normalises images in [0, 1] to the number of channels and the scale that a network expects."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        """Create the layer.

        Args:
            mean: Mean of each channel.
            deviation: Standard deviation of each channel.
        """
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return normalised images.

        Args:
            images: (N, 1, H, W) or (N, 3, H, W), in [0, 1].

        Returns:
            (N, channels, H, W) float32.

        Raises:
            ValueError: The images have another shape.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images must be (N, 1, H, W) or (N, 3, H, W), not {tuple(images.shape)}")
        channels = self.mean.shape[1]
        if channels == 1 and images.shape[1] == 3:
            images = images.mean(dim=1, keepdim=True)
        return (images - self.mean) / self.deviation


def imagenet() -> Normalise:
    """Return the normalisation of networks trained on ImageNet."""
    return Normalise(IMAGENET_MEAN, IMAGENET_DEVIATION)


class Dropout(nn.Dropout):
    """Dropout whose mask is drawn for the whole batch, so that it does not depend on the number of processes."""

    def forward(self, input: Tensor) -> Tensor:
        """In training, drop features and scale up the rest; otherwise return `input` unchanged."""
        if not self.training or self.p == 0:
            return input
        rank, size = world()
        rows = input.shape[0]
        drawn = torch.rand((rows * size, *input.shape[1:]), device=input.device)[rank * rows : (rank + 1) * rows]
        return input * (drawn >= self.p).to(input.dtype) / (1 - self.p)


class SharedDropPath(nn.Module):
    """Stochastic depth (https://arxiv.org/abs/1603.09382), drawn for the whole batch like `Dropout`."""

    def __init__(self, p: float, *, scale: bool = True) -> None:
        """Create the layer.

        Args:
            p: Probability that a block is skipped.
            scale: Whether blocks that are not skipped are scaled up in compensation.
        """
        super().__init__()
        self.p, self.scale = p, scale

    def forward(self, input: Tensor) -> Tensor:
        """In training, set the rows of some images to 0; otherwise return `input` unchanged."""
        if not self.training or self.p == 0:
            return input
        rank, size = world()
        rows = input.shape[0]
        drawn = torch.rand(rows * size, device=input.device)[rank * rows : (rank + 1) * rows]
        kept = (drawn >= self.p).to(input.dtype).view(rows, *[1] * (input.ndim - 1))
        return input * (kept / (1 - self.p) if self.scale else kept)


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the batch of all processes, for CPUs, which `nn.SyncBatchNorm` does not support."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input; in training, with the mean and variance over the slices of all processes."""
        _, size = world()
        if not self.training or size == 1:
            return super().forward(input)
        values = input if input.dtype == torch.float64 else input.float()
        # The count is summed too, because breasts have different numbers of views and the slices may differ in size.
        count = float(_total(values.new_tensor(values.numel() // values.shape[1])))
        mean = _total(values.sum(dim=(0, 2, 3))) / count
        centred = values - mean.view(1, -1, 1, 1)
        variance = _total(centred.square().sum(dim=(0, 2, 3))) / count
        # As in torch, the running variance is the unbiased one and the batch is normalised by the biased one.
        self._remember(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalised: Tensor = centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normalised.to(input.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Total(torch.autograd.Function):
    """The sum over all processes. Every process's loss depends on it, so its gradient is also summed over processes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _total(values: Tensor) -> Tensor:
    return cast(Tensor, _Total.apply(values))


class SharedBatchNormAct(SharedBatchNorm):
    """timm's batch normalisation with its activation, over the batch of all processes."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input after dropout and activation."""
        activated: Tensor = self.act(self.drop(super().forward(input)))
        return activated


def share_batch_statistics(network: nn.Module, device: torch.device) -> nn.Module:
    """Make every batch normalisation of the network use the batch of all processes.

    Returns:
        The network, changed in place where that is possible.

    Raises:
        ConfigError: The network has an unsupported kind of batch normalisation.
    """
    if world()[1] == 1:
        return network
    kinds = {type(module) for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    if device.type == "cuda" and kinds <= {nn.BatchNorm2d}:
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(network))  # type: ignore[no-untyped-call]
    for module in network.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm) or isinstance(module, SharedBatchNorm):
            continue
        # Parameters, buffers and state-dict keys are the same; only `forward` differs.
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm
        elif type(module).__name__ == "BatchNormAct2d":
            module.__class__ = SharedBatchNormAct
        else:
            raise ConfigError(f"{type(module).__name__}: several processes cannot share its statistics; train on one")
    return network
