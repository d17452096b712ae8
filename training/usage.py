"""The help of the training job."""

from mammopipe.processing.settings import range_of
from mammopipe.training.config import TrainConfig


def usage() -> str:
    """Return the help of `train`, with every hyperparameter, its meaning, range and default."""
    lines = [
        "usage: train",
        "",
        "Trains one network in a SageMaker training container. It takes no arguments: settings are the hyperparameters",
        "in /opt/ml/input/config/hyperparameters.json, images the channels below /opt/ml/input/data.",
        "",
        "hyperparameters:",
    ]
    for name, field in TrainConfig.model_fields.items():
        known = "needed" if field.is_required() else f"default: {field.get_default(call_default_factory=True)}"
        lines += [f"  {name}", f"      {field.description} ({', '.join(filter(None, (range_of(field), known)))})"]
    return "\n".join(lines)
