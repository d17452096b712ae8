"""The common structure of all networks: normalisation, feature maps, pooling, classifier; and ensembles of them.

Input: (N, 1, H, W) or (N, 3, H, W) float32 in [0, 1], with any H and W of at least 64. Output: (N, classes) logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import SMALLEST_SIDE, Pooling
from mammopipe.training.model.views.attention import ViewMask
from mammopipe.training.networks.layers import Dropout, Normalise
from mammopipe.training.networks.pooling import ViewPooling, Views, mean, peaks, place_logits, pool_maps, top


@dataclass(frozen=True)
class BuildOptions:
    """Options of a network."""

    classes: int
    dropout: float = 0.0
    """Probability that a feature is dropped before the classifier."""
    drop_path: float = 0.0
    """Probability that the last block is skipped in training (stochastic depth)."""
    stride: int = 32
    """Stride of the feature maps, in pixels."""


State = dict[str, Tensor]


class ImageNetwork(nn.Module):
    """A classifier of images: normalisation, then `body`, which contains the classifier, `head`."""

    def __init__(
        self,
        name: str,
        body: nn.Module,
        *,
        head: str,
        cam_layer: str,
        normalise: Normalise,
        pool: str | None = None,
        convert: Callable[[State], State] | None = None,
    ) -> None:
        """Create the network.

        Args:
            name: Name of the network.
            body: The network after normalisation.
            head: Path of the classifier within `body`.
            cam_layer: Path, within `body`, of the last layer with feature maps.
            normalise: Normalisation of the images.
            pool: Child of `body` that pools the feature maps; the children before it compute in order. `None` if the
                classifier needs all places at once.
            convert: Renames the keys of a published state dict to those of `body`.
        """
        super().__init__()
        self.normalise = normalise
        self.body = body
        self.name, self.head_path, self.cam_path, self.pool_name = name, head, cam_layer, pool
        self.pooling, self.top_places = Pooling.MEAN, 1
        self.convert = convert or dict
        self.views: ViewPooling | None = None
        """Combines the views of a breast; `None` in a network that judges images."""

    @property
    def new_layers(self) -> list[nn.Module]:
        """The layers that are not in pretrained weights, and train first."""
        return [self.head, *([] if self.views is None else [self.views])]

    @property
    def head(self) -> nn.Module:
        """The classifier, which is not in pretrained weights."""
        return self.body.get_submodule(self.head_path)

    @property
    def cam_layer(self) -> nn.Module:
        """The layer whose output, (N, channels, h, w), class activation maps use."""
        return self.body.get_submodule(self.cam_path)

    def forward(self, images: Tensor | Views) -> Tensor:
        """Return logits, (N, classes), of images, (N, 1, H, W) or (N, 3, H, W), or of breasts.

        An image has the same logits as a breast with this image as its only view.

        Raises:
            ValueError: The images are too small or have another shape.
        """
        if isinstance(images, Views):
            return self._judge_breasts(images)
        if min(images.shape[-2:]) < SMALLEST_SIDE:
            raise ValueError(f"images of {tuple(images.shape[-2:])} pixels: each side must be at least {SMALLEST_SIDE}")
        if self.pooling is not Pooling.MEAN:
            return self.classify(self.maps(images))
        logits: Tensor = self.body(self.normalise(images))
        return logits

    def _judge_breasts(self, breasts: Views) -> Tensor:
        """Return the logits of breasts, (breasts, classes); absent views are not computed."""
        assert self.views is not None
        present = breasts.sides != ViewMask.ABSENT
        images = breasts.images[present].contiguous(memory_format=torch.channels_last)
        # A hook takes the feature maps from the same forward pass; a second pass would double the time.
        kept: list[Tensor] = []
        hook = self.cam_layer.register_forward_hook(lambda layer, inputs, output: kept.append(output))
        try:
            logits = self.forward(images)
        finally:
            hook.remove()
        logits = mean_over_flips(self.forward, images, breasts.mirrored[present], logits)
        # In float32, because the attention costs little and the server does not compute it in 16 bits.
        with torch.autocast(images.device.type, enabled=False):
            features = _at_least_float32(kept[0]).mean(dim=(2, 3))
            found: Tensor = self.views(
                _placed(_at_least_float32(logits), present), _placed(features, present), breasts.sides
            )
            return found

    def maps(self, images: Tensor) -> Tensor:
        """Return the last feature maps, (N, channels, h, w), which are the input of pooling and classifier."""
        maps: Tensor = self.normalise(images)
        for name, layer in self.body.named_children():
            if name == self.pool_name:
                break
            maps = layer(maps)
        return maps

    def places(self, images: Tensor) -> Tensor:
        """Return the logits of each place, (N, classes, h, w): the classifier applied to the features of that place."""
        return place_logits(self.head, self.maps(images))

    def classify(self, maps: Tensor) -> Tensor:
        """Return image logits, (N, classes), from feature maps, (N, channels, h, w)."""
        if self.pooling.of_maps:
            logits: Tensor = self.head(pool_maps(maps, self.pooling))
            return logits
        return self.pool(place_logits(self.head, maps))

    def classify_with_places(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return image logits, (N, classes), and the logits of the places, (N, classes, h, w), from feature maps."""
        places = place_logits(self.head, maps)
        return (self.classify(maps) if self.pooling.of_maps else self.pool(places)), places

    def pool(self, places: Tensor) -> Tensor:
        """Return image logits, (N, classes), from the logits of the places, (N, classes, h, w)."""
        if self.pooling is Pooling.TOP:
            return top(places, self.top_places)
        return peaks(places) if self.pooling is Pooling.PEAKS else mean(places)


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _placed(rows: Tensor, present: Tensor) -> Tensor:
    """Return rows, (views, n), at the positions of their views, (breasts, places, n), and 0 at absent positions."""
    placed = rows.new_zeros((*present.shape, rows.shape[1]))
    placed[present] = rows
    return placed


def mean_over_flips(
    network: Callable[[Tensor], Tensor], images: Tensor, mirrored: Tensor, logits: Tensor | None = None
) -> Tensor:
    """Return logits, (N, classes); for the `mirrored` images, means of the image's and its mirror image's logits.

    Args:
        network: Function from images to logits.
        images: (N, 1, H, W).
        mirrored: (N,) bool: the images whose mirror image, top to bottom, is used as well.
        logits: Logits of the images, (N, classes), if a forward pass has already computed them.
    """
    logits = network(images) if logits is None else logits
    if mirrored.any():
        logits = logits.clone()  # The assignment must not change the caller's tensor.
        logits[mirrored] = (logits[mirrored] + network(images[mirrored].flip(2))) / 2
    return logits


def classifier(features: int, options: BuildOptions) -> nn.Sequential:
    """Return dropout followed by a linear classifier, from (N, features) to (N, classes)."""
    return nn.Sequential(Dropout(options.dropout), nn.Linear(features, options.classes))


class _Join(nn.Module):
    """Returns the members' feature maps unchanged; a module with this output, which class activation maps can hook."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps, (N, channels of all members, h, w)."""
        return maps


class Ensemble(ImageNetwork):
    """Networks of one architecture, such as those of the folds of a cross-validation, as one network.

    The logits are the mean of the members' logits. The feature maps are those of all members, one after the other.
    """

    def __init__(self, members: Sequence[ImageNetwork]) -> None:
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
    def members(self) -> list[ImageNetwork]:
        """The networks."""
        return [member for member in self.body.get_submodule("members").children() if isinstance(member, ImageNetwork)]

    @property
    def head(self) -> nn.Module:
        """One linear classifier of the feature maps of all members; the members' heads if one has several layers.

        It is for class activation maps only; training it would change no member.
        """
        layers = [[part for part in member.head.modules() if isinstance(part, nn.Linear)] for member in self.members]
        if any(len(found) != 1 for found in layers):
            return nn.ModuleList([member.head for member in self.members])
        # The mean of the members' logits is linear in the joined feature maps, with these weights.
        weights = torch.cat([found[0].weight for found in layers], dim=1) / len(layers)
        # On the meta device, so that torch draws no initial weights, which would change the caller's random numbers.
        joint = nn.Linear(weights.shape[1], weights.shape[0], bias=False, device="meta")
        joint.weight = nn.Parameter(weights.detach(), requires_grad=False)
        return joint

    def forward(self, images: Tensor | Views) -> Tensor:
        """Return logits, (N, classes), of images, (N, 1, H, W) or (N, 3, H, W); an ensemble cannot judge breasts."""
        assert isinstance(images, Tensor)
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
