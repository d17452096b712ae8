"""The settings of the optimiser: batches, learning rates, decay."""

from enum import StrEnum

from pydantic import Field

from mammopipe.processing.settings import Settings


class OptimiserKind(StrEnum):
    """The optimiser of the weights."""

    ADAMW = "adamw"
    SGD = "sgd"
    """Stochastic gradient descent with Nesterov momentum."""


class OptimiserSettings(Settings):
    """Settings of the optimiser and the learning rate schedule."""

    batch_size: int = Field(
        default=16,
        ge=2,
        description="images in a step, summed over all processes, so that the number of processes changes only the "
        "speed",
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="equal parts in which the images of a step are computed one after the other, to save memory",
    )
    optimiser: OptimiserKind = Field(default=OptimiserKind.ADAMW, description="the optimiser of the weights")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Nesterov momentum of optimiser=sgd")
    learning_rate: float = Field(
        default=3e-4,
        ge=1e-8,
        le=1,
        description="highest learning rate of the body; of all layers if there are no pretrained weights",
    )
    head_learning_rate: float = Field(
        default=1e-3, ge=1e-8, le=1, description="highest learning rate of the classifier of a pretrained network"
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="learning rate of each layer of the body, relative to that of the layer after it; 1 gives all "
        "layers the same rate",
    )
    weight_decay: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="decay of weight matrices and kernels, decoupled with optimiser=adamw; biases and normalisation "
        "have none",
    )
    clip_norm: float = Field(
        default=0.0, ge=0, le=1000, description="largest norm of the gradient of a step; 0 does not limit it"
    )
    average_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay per step of the moving average of the weights, which is then evaluated in their place; 0 "
        "makes no average",
    )
    warmup_epochs: float = Field(
        default=1.0,
        ge=0,
        le=1000,
        description="epochs over which the learning rate rises before it falls along a cosine; counted from the epoch "
        "in which the body starts to train",
    )
