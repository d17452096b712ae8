"""The settings of the random variations of training images, which are drawn anew for each use of an image."""

from enum import StrEnum

from pydantic import Field

from mammopipe.processing.settings import Settings


class AugmentOn(StrEnum):
    """Where training images are varied."""

    CPU = "cpu"
    """In the processes that read them."""
    GPU = "gpu"
    """On the device that trains, by torchvision; without a GPU, this device is the CPU."""


class VariationSettings(Settings):
    """Noise, holes, geometric and tonal variation, and mixup."""

    noise: float = Field(
        default=0.02,
        ge=0,
        le=0.5,
        description="highest standard deviation of the random noise in training images, as a share of full scale; "
        "drawn anew for each use of an image",
    )
    holes: int = Field(
        default=2,
        ge=0,
        description="maximum number of random patches that are blackened in a training image, drawn anew for each use; "
        "their sides are 1/16 to 1/8 of the longer side",
    )
    augment: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="strength of the random variations of training images, drawn anew for each use; 0 turns them off",
    )
    augment_crop: bool = Field(default=True, description="blacken all but a window of 50 % to 100 % of the area")
    augment_flip: bool = Field(default=True, description="mirror craniocaudal views top to bottom")
    augment_affine: bool = Field(
        default=True, description="rotate by up to 30 degrees, scale by up to 15 % and shift by up to 5 %"
    )
    augment_elastic: bool = Field(default=True, description="deform elastically")
    augment_tone: bool = Field(default=True, description="change gamma, contrast and brightness by up to 20 %")
    augment_blur: bool = Field(default=True, description="blur by a Gaussian of up to 1.5 pixels")
    augment_downscale: bool = Field(default=True, description="reduce the resolution by up to a half")
    augment_on: AugmentOn = Field(
        default=AugmentOn.CPU,
        description="where training images are varied: `cpu`, in the processes that read them, or `gpu`, on the device "
        "that trains",
    )
    mixup: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="both parameters of the Beta distribution of the share with which mixup mixes two training images "
        "of a batch and their losses; 0 turns mixup off, 0.2 to 1 is common",
    )

    @property
    def images_together(self) -> int:
        """The number of images in each part of a batch must be a multiple of this, because mixup mixes pairs."""
        return 2 if self.mixup else 1
