"""The heads of auxiliary targets: linear layers on the mean of a network's last feature maps, used only in training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.auxiliary.targets import AuxiliaryTargets
from mammopipe.training.fitting.head_only import ImagesOrBreasts
from mammopipe.training.networks.network import ImageNetwork


class AuxiliaryHeads(nn.Module):
    """One linear layer for each auxiliary target."""

    def __init__(self, network: ImageNetwork, targets: AuxiliaryTargets, *, shape: tuple[int, int], seed: int) -> None:
        """Create the heads.

        Args:
            network: The network; its last feature maps give the number of features.
            targets: The targets.
            shape: (H, W) of the images, in pixels.
            seed: Seed of the initial weights.
        """
        super().__init__()
        device, dtype = network.normalise.mean.device, next(network.parameters()).dtype
        trains = network.training
        network.eval()  # So that this black image does not enter the batch statistics.
        with torch.inference_mode():
            _, maps = with_maps(network, network, torch.zeros(1, 1, *shape, device=device))
        network.train(trains)
        # Forked, so that the network's own random numbers are the same with and without auxiliary targets.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(nn.Linear(maps.shape[1], target.outputs) for target in targets.targets)
        self.to(device, dtype)
        self.targets = targets
        self._network = [network]  # In a list, so that its parameters are not among those of the heads.

    @property
    def network(self) -> ImageNetwork:
        """The network whose feature maps the heads read."""
        return self._network[0]

    def forward(self, maps: Tensor) -> list[Tensor]:
        """Return the outputs of each head, (N, outputs), for feature maps, (N, channels, h, w)."""
        features = maps.mean(dim=(2, 3))
        return [layer(features) for layer in self.layers]


class WithAuxiliary(nn.Module):
    """Wraps a network, or `WithPlaces`, to return its output and the outputs of the auxiliary heads."""

    def __init__(self, model: nn.Module, heads: AuxiliaryHeads) -> None:
        """Wrap the model, which contains the network of the heads; parameters are shared."""
        super().__init__()
        self.model, self.heads = model, heads

    def forward(self, images: Tensor) -> tuple[Tensor | tuple[Tensor, Tensor], list[Tensor]]:
        """Return both for images (N, 1, H, W)."""
        output, maps = with_maps(self.model, self.heads.network, images)
        return output, self.heads(maps)


def auxiliary_heads(
    network: nn.Module, images: ImagesOrBreasts, config: TrainConfig, optimiser: Optimizer
) -> AuxiliaryHeads | None:
    """Return the heads of the auxiliary targets, or `None` without targets.

    Args:
        network: The network that learns.
        images: Training images.
        config: Hyperparameters.
        optimiser: The optimiser of the network; the heads' parameters are added to it, with the classifier's rate.
    """
    if not config.auxiliary_weights or not isinstance(network, ImageNetwork):
        return None
    targets = AuxiliaryTargets(images.records, config.auxiliary_weights)
    heads = AuxiliaryHeads(network, targets, shape=images.shape, seed=config.seed)
    settings = {"part": "head", "scale": 1.0, "lr": 0.0, "weight_decay": config.weight_decay}
    optimiser.add_param_group({"params": list(heads.parameters()), **settings})
    return heads


def with_maps(model: nn.Module, network: ImageNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the model's output and the network's last feature maps, (N, channels, h, w), from one forward pass."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Sequence[Tensor], output: Tensor) -> None:
        seen.append(output)

    handle = network.cam_layer.register_forward_hook(keep)
    try:
        output = model(images)
    finally:
        handle.remove()
    return output, seen[0]
