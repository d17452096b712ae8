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
    """How the weights of a network follow their gradients."""

    batch_size: int = Field(
        default=16,
        ge=2,
        description="images in a step, over all processes together, so that the number of processes changes only the "
        "speed",
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="equal parts in which the images of a step are computed one after the other, to save memory",
    )
    optimiser: OptimiserKind = Field(
        default=OptimiserKind.ADAMW, description="the rule by which weights follow their gradients"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Nesterov momentum of optimiser=sgd")
    learning_rate: float = Field(
        default=3e-4,
        ge=1e-8,
        le=1,
        description="highest rate of the body; of all layers when there are no pretrained weights",
    )
    head_learning_rate: float = Field(
        default=1e-3, ge=1e-8, le=1, description="highest rate of the classifier of a pretrained network"
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="factor of the rate from each layer of the body to the one before it; 1 is none",
    )
    weight_decay: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="decay of weight matrices and kernels, decoupled with optimiser=adamw; biases and normalisation "
        "are spared",
    )
    clip_norm: float = Field(
        default=0.0, ge=0, le=1000, description="largest norm of the gradient of a step; 0 does not limit it"
    )
    average_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay in each step of the moving average of the weights, which is evaluated in their place; 0 "
        "is none",
    )
    warmup_epochs: float = Field(
        default=1.0,
        ge=0,
        le=1000,
        description="epochs over which the rate rises before it falls along a cosine; counted again when the body "
        "joins the head",
    )
