"""The cases that a training job judges, by its level: images, or the breasts that they show."""

from typing import Any

from mammopipe.processing.datasets.manifest import Split, SplitProtocol
from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.breasts.dataset import Breasts
from mammopipe.training.fitting.dataset import ImageDataset, require_every_class
from mammopipe.training.model.architecture import Level
from mammopipe.training.model.views.attention import ViewMask


def cases_of_level(
    config: TrainConfig, protocol: SplitProtocol, train: ImageDataset, validation: ImageDataset
) -> tuple[ImageDataset | Breasts, ImageDataset | Breasts]:
    """Return the cases of training and of validation.

    Raises:
        ConfigError: Breasts are judged, but the split does not keep the images of a patient together.
        ManifestError: A class has no breast.
    """
    if config.level is Level.IMAGE:
        return train, validation
    if protocol is not SplitProtocol.PATIENT:
        raise ConfigError(
            f"hyperparameter level={config.level} needs the split protocol {SplitProtocol.PATIENT}, not {protocol}: "
            "all views of a breast must be in one split"
        )
    found = [Breasts(images, other_side=config.other_side, flips=config.test_flips) for images in (train, validation)]
    for split, breasts in zip((Split.TRAIN, Split.VALIDATION), found, strict=True):
        require_every_class(breasts, split)
    return found[0], found[1]


def described_level(config: TrainConfig) -> dict[str, Any]:
    """Return the keys of `model.json` that only a network that judges breasts has; none for one that judges images."""
    if config.level is Level.IMAGE:
        return {}
    mask = {side.name.lower(): int(side) for side in ViewMask}
    return {"level": str(config.level), "views": {"other_side": config.other_side, "mask": mask}}
