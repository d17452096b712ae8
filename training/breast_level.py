"""Settings of a model that judges breasts by all their views, and the settings that exclude such a model."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import Settings
from mammopipe.training.model.architecture import Level, find_architecture

_OFF: Mapping[str, Any] = {
    "learns": "all",
    "location_weight": 0,
    "mixup": 0,
    "augment_on": "cpu",
    "compile": False,
    "folds": 0,
}
"""Settings that apply to single images, each with its only allowed value for breasts."""


class BreastSettings(Settings):
    """What the network judges: an image, or a breast by all its views."""

    level: Level = Field(
        default=Level.IMAGE,
        description="what the network judges: `image`, each image on its own, or `breast`, all views of a breast "
        "together, combined by attention; the breast's label is the most serious one of its images",
    )
    other_side: bool = Field(
        default=False,
        description="whether a network with level=breast also sees the views of the patient's other breast, where "
        "there are any",
    )
    most_views: int = Field(
        default=4,
        ge=1,
        le=16,
        description="maximum number of views of each breast in a training step with level=breast; of more views, this "
        "many are drawn at random each time. Evaluation and serving use all views",
    )


def check_breast_level(settings: Mapping[str, Any], auxiliary: Mapping[Any, float]) -> None:
    """Raise `ConfigError` if settings of a training job contradict its level.

    Args:
        settings: All settings of the job by name.
        auxiliary: The weights of the auxiliary targets that are learnt.
    """
    level = settings["level"]
    if level is Level.PATIENT:
        raise ConfigError(f"hyperparameter level={level} must be {Level.IMAGE} or {Level.BREAST}")
    if level is Level.IMAGE:
        if settings["other_side"]:
            raise ConfigError(f"hyperparameter other_side=true needs level={Level.BREAST}, not {level}")
        return
    if not find_architecture(settings["cnn"]).has_places:
        raise ConfigError(
            f"hyperparameter level={level} needs a network with logits of single places, not cnn={settings['cnn']}"
        )
    for name, off in _OFF.items():
        if settings[name] != off:
            raise ConfigError(
                f"hyperparameter {name}={settings[name]} must be {off} with level={level}: it applies to single images"
            )
    if auxiliary:
        raise ConfigError(f"hyperparameter auxiliary_{next(iter(auxiliary))} must be 0 with level={level}")
