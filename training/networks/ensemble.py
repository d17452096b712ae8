"""The ensemble of networks of one architecture: one network whose logits are the mean of the members' logits."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mammopipe.processing.errors import ConfigError
from mammopipe.training.networks.network import FilmNetwork


class _Join(nn.Module):
    """Returns the members' feature maps unchanged; class activation maps are taken from here."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps, (N, channels of all members, h, w)."""
        return maps


class Ensemble(FilmNetwork):
    """Networks of one architecture, such as those of the folds of a cross-validation, as one network.

    The logits are the mean of the members' logits. The feature maps are those of all members, one after the other.
    """

    def __init__(self, members: Sequence[FilmNetwork]) -> None:
        """Join the members, which must have the same architecture and pooling.

        Raises:
            ConfigError: There are fewer than two members, or their classifier needs all places at once.
        """
        if len(members) < 2 or any(member.pool_name is None for member in members):
            raise ConfigError(f"an ensemble needs at least two networks with logits of places, not {len(members)}")
        first = members[0]
        body = nn.ModuleDict({"members": nn.ModuleList(members), "join": _Join()})
        super().__init__(
            first.name, body, head="members", cam_layer="join", normalise=first.normalise, pool=first.pool_name
        )
        self.pooling, self.top_places = first.pooling, first.top_places

    @property
    def members(self) -> list[FilmNetwork]:
        """The networks."""
        return [member for member in self.body.get_submodule("members").children() if isinstance(member, FilmNetwork)]

    @property
    def head(self) -> nn.Module:
        """One linear classifier of the feature maps of all members; if a member has several layers, all of them.

        For activation maps only: training it would change no member.
        """
        layers = [[part for part in member.head.modules() if isinstance(part, nn.Linear)] for member in self.members]
        if any(len(found) != 1 for found in layers):
            return nn.ModuleList([member.head for member in self.members])
        weights = torch.cat([found[0].weight for found in layers], dim=1) / len(layers)
        joint = nn.Linear(weights.shape[1], weights.shape[0], bias=False, device="meta")
        joint.weight = nn.Parameter(weights.detach(), requires_grad=False)
        return joint

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (N, classes), of images, (N, 1, H, W) or (N, 3, H, W)."""
        return self.classify(self.maps(images))

    def maps(self, images: Tensor) -> Tensor:
        """Return the feature maps of all members, (N, channels, h, w)."""
        joined: Tensor = self.cam_layer(torch.cat([member.maps(images) for member in self.members], dim=1))
        return joined

    def places(self, images: Tensor) -> Tensor:
        """Return the mean logits of each place, (N, classes, h, w)."""
        return torch.stack([member.places(images) for member in self.members]).mean(dim=0)

    def classify(self, maps: Tensor) -> Tensor:
        """Return image logits, (N, classes), from the feature maps of all members."""
        parts = maps.chunk(len(self.members), dim=1)
        logits = [member.classify(part) for member, part in zip(self.members, parts, strict=True)]
        return torch.stack(logits).mean(dim=0)

    def classify_with_places(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return image logits, (N, classes), and the logits of the places, (N, classes, h, w), from feature maps."""
        parts = maps.chunk(len(self.members), dim=1)
        found = [member.classify_with_places(part) for member, part in zip(self.members, parts, strict=True)]
        logits, places = (torch.stack(each).mean(dim=0) for each in zip(*found, strict=True))
        return logits, places
