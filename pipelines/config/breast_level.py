"""Rules for runs whose networks classify breasts (`training.level`) instead of single images."""

from mammopipe.processing.datasets.manifest import SplitProtocol
from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import TrainConfig
from mammopipe.training.evaluation.config import EvaluationConfig
from mammopipe.training.model.architecture import Level


def check_breast_level(training: TrainConfig, evaluation: EvaluationConfig, protocol: SplitProtocol) -> None:
    """Raise `ConfigError` if networks classify breasts, but evaluation or split do not allow that."""
    if training.level is Level.IMAGE:
        return
    if evaluation.other_breast:
        raise ConfigError(
            f"evaluation.other_breast={evaluation.other_breast} must be 0 with training.level={training.level}: such a "
            "network itself learns to compare the two breasts (training.other_side)"
        )
    if protocol is not SplitProtocol.PATIENT:
        raise ConfigError(
            f"data.protocol={protocol} must be {SplitProtocol.PATIENT} with training.level={training.level}: all views "
            "of a breast must be in the same split"
        )
