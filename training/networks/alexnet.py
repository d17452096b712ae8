"""AlexNet (Krizhevsky 2014). Its classifier needs all positions of the feature maps at once."""

from torch import nn
from torchvision.models import alexnet

from mammopipe.training.networks.layers import Dropout, imagenet
from mammopipe.training.networks.network import BuildOptions, ImageNetwork


def build(name: str, options: BuildOptions) -> ImageNetwork:
    """Return torchvision's AlexNet with the given dropout; its adaptive pooling accepts images of any size."""
    body = alexnet(weights=None)
    body.classifier[0], body.classifier[3] = Dropout(options.dropout), Dropout(options.dropout)
    body.classifier[6] = nn.Linear(4096, options.classes)
    return ImageNetwork(name, body, head="classifier.6", cam_layer="features.11", normalise=imagenet())
