"""What a run whose networks judge breasts needs of the rest of the configuration."""

from mammopipe.processing.datasets.manifest import SplitProtocol
from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import TrainConfig
from mammopipe.training.evaluation.config import EvaluationConfig
from mammopipe.training.model.architecture import Level


def check_breast_level(training: TrainConfig, evaluation: EvaluationConfig, protocol: SplitProtocol) -> None:
    """Raise `ConfigError` where networks judge breasts, and evaluation or split does not fit them."""
    if training.level is Level.IMAGE:
        return
    if evaluation.other_breast:
        raise ConfigError(
            f"evaluation.other_breast={evaluation.other_breast} must be 0 with training.level={training.level}: such a "
            "network learns itself how to compare breasts (training.other_side)"
        )
    if protocol is not SplitProtocol.PATIENT:
        raise ConfigError(
            f"data.protocol={protocol} must be {SplitProtocol.PATIENT} with training.level={training.level}: the views "
            "of a breast lie in one split"
        )
