"""The networks by name and the choices that shape them, for training and serving alike; imports no torch."""

from enum import StrEnum

SMALLEST_SIDE = 64
"""Pixels of a side that every network takes: below, AlexNet's last pooling has nothing left."""


class Cnn(StrEnum):
    """The networks that can be trained; `mammopipe.training.networks.registry` builds each of them."""

    MODIFIED_CNN = "modified_cnn"
    ALEXNET = "alexnet"
    RESNET50 = "resnet50"
    EFFICIENTNET_LITE0 = "efficientnet_lite0"


class Pooling(StrEnum):
    """How what speaks for each class at the places of a film becomes the film's logits."""

    MEAN = "mean"
    """The mean over all places: right for what shows everywhere, but a small lesion is a small part of it."""
    PEAKS = "peaks"
    """The mean for normal tissue; for a lesion's class log-mean-exp, which its few strongest places decide."""
    TOP = "top"
    """The mean for normal tissue; for a lesion's class the mean of its `top_places` strongest places."""


class Precision(StrEnum):
    """The number format of the forward pass; weights and optimiser are float32 always."""

    AUTO = "auto"
    """The faster of float32 and a 16-bit format for this network on this machine, by a short measurement."""
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    """With loss scaling, for GPUs without bfloat16; refused on a CPU."""
    FLOAT32 = "float32"
