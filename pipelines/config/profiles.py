"""The values that each profile sets; they override the defaults, and a recipe overrides them."""

from collections.abc import Mapping
from typing import Any

from mammopipe.training.evaluation.config import Profile

PROFILES: Mapping[Profile, Mapping[str, Mapping[str, Any]]] = {
    Profile.QUICK: {
        "augmentation": {"copies": 1},
        "segmentation": {"height": 160, "width": 112},
        "training": {"epochs": 3, "head_epochs": 1, "warmup_epochs": 1, "patience": 3},
        "evaluation": {"min_macro_auc": 0.0, "bootstrap": 500},
    },
    Profile.FULL: {
        "augmentation": {"copies": 3},
        "segmentation": {"height": 384, "width": 256},
        "training": {"epochs": 25, "head_epochs": 3, "warmup_epochs": 2, "patience": 8},
        "evaluation": {"min_macro_auc": 0.6, "bootstrap": 2000},
    },
}
"""What each profile sets. `quick` tests the software on all of mini-MIAS within minutes on two cores: it registers a
model whatever its macro AUC, but never skips the leakage audit. `full` is a training with meaningful results."""
