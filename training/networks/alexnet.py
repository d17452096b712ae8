"""AlexNet, whose classifier sees all places at once."""

from torch import nn
from torchvision.models import alexnet

from mammopipe.training.networks.layers import Dropout, imagenet
from mammopipe.training.networks.network import BuildOptions, FilmNetwork


def build(name: str, options: BuildOptions) -> FilmNetwork:
    """Return Krizhevsky's network of 2014 as torchvision builds it; its adaptive pooling takes images of any size."""
    body = alexnet(weights=None)
    body.classifier[0], body.classifier[3] = Dropout(options.dropout), Dropout(options.dropout)
    body.classifier[6] = nn.Linear(4096, options.classes)
    return FilmNetwork(name, body, head="classifier.6", cam_layer="features.11", normalise=imagenet())
