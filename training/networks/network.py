"""One frame around every network: normalisation, feature maps, pooling, classifier.

Input of all: float32 (N, 1, H, W) or (N, 3, H, W) in [0, 1], any H and W from 64. Output: (N, classes) logits.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from mammopipe.training.model.architecture import SMALLEST_SIDE, Pooling
from mammopipe.training.networks.layers import Dropout, Normalise
from mammopipe.training.networks.pooling import mean, peaks, place_logits, pool_maps, top


@dataclass(frozen=True)
class BuildOptions:
    """What shapes a network beside its name."""

    classes: int
    dropout: float = 0.0
    """Probability that a feature is dropped before the classifier."""
    drop_path: float = 0.0
    """Probability that the last block is skipped while training (stochastic depth)."""
    stride: int = 32
    """Pixels from place to place of the feature maps."""


State = dict[str, Tensor]


class FilmNetwork(nn.Module):
    """A classifier of images: normalisation, then `body`, some part of which is the classifier, the `head`."""

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
        """Take the network and the paths, inside `body`, of its classifier and of its last layer with feature maps.

        `pool` is the child of `body` that pools the maps; before it the children compute in their order. `None`: the
        classifier needs all places at once. `convert` gives a published state dict the names that `body` has.
        """
        super().__init__()
        self.normalise = normalise
        self.body = body
        self.name, self.head_path, self.cam_path, self.pool_name = name, head, cam_layer, pool
        self.pooling, self.top_places = Pooling.MEAN, 1
        self.convert = convert or dict

    @property
    def head(self) -> nn.Module:
        """The classifier: what is new, and trains first, when the rest is pretrained."""
        return self.body.get_submodule(self.head_path)

    @property
    def cam_layer(self) -> nn.Module:
        """The layer whose output, (N, channels, h, w), class activation maps are made of."""
        return self.body.get_submodule(self.cam_path)

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, classes) logits."""
        if min(images.shape[-2:]) < SMALLEST_SIDE:
            raise ValueError(f"images of {tuple(images.shape[-2:])} pixels: each side must be at least {SMALLEST_SIDE}")
        if self.pooling is not Pooling.MEAN:
            return self.classify(self.maps(images))
        logits: Tensor = self.body(self.normalise(images))
        return logits

    def maps(self, images: Tensor) -> Tensor:
        """Return the last feature maps, (N, channels, h, w), which the classifier judges."""
        maps: Tensor = self.normalise(images)
        for name, layer in self.body.named_children():
            if name == self.pool_name:
                break
            maps = layer(maps)
        return maps

    def places(self, images: Tensor) -> Tensor:
        """Return the logits of every place, (N, classes, h, w): what the classifier says of the maps there alone."""
        return place_logits(self.head, self.maps(images))

    def classify(self, maps: Tensor) -> Tensor:
        """Return the (N, classes) logits of feature maps, (N, channels, h, w)."""
        if self.pooling.of_maps:
            logits: Tensor = self.head(pool_maps(maps, self.pooling))
            return logits
        return self.pool(place_logits(self.head, maps))

    def classify_with_places(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of feature maps, (N, classes), and those of their places, (N, classes, h, w)."""
        places = place_logits(self.head, maps)
        return (self.classify(maps) if self.pooling.of_maps else self.pool(places)), places

    def pool(self, places: Tensor) -> Tensor:
        """Return the logits of images, (N, classes), from those of their places, (N, classes, h, w)."""
        if self.pooling is Pooling.TOP:
            return top(places, self.top_places)
        return peaks(places) if self.pooling is Pooling.PEAKS else mean(places)


def classifier(features: int, options: BuildOptions) -> nn.Sequential:
    """Return a classifier of pooled features, (N, features) to (N, classes), with dropout before it."""
    return nn.Sequential(Dropout(options.dropout), nn.Linear(features, options.classes))
