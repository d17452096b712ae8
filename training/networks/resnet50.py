"""ResNet-50 (He et al. 2016, https://arxiv.org/abs/1512.03385)."""

from torchvision.models import resnet50

from mammopipe.training.networks.layers import imagenet
from mammopipe.training.networks.network import BuildOptions, ImageNetwork, classifier


def build(name: str, options: BuildOptions) -> ImageNetwork:
    """Return torchvision's ResNet-50 with dropout before the classifier."""
    body = resnet50(weights=None)
    body.fc = classifier(2048, options)
    return ImageNetwork(name, body, head="fc", cam_layer="layer4", normalise=imagenet(), pool="avgpool")
