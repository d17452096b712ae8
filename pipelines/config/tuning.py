"""TuningConfig: the search over hyperparameters that replaces a network's training job."""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum

from pydantic import Field, model_validator

from mammopipe.pipelines.config.search_space import Space
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import Settings
from mammopipe.training.config import WITHOUT_EFFECT

MOST_TRIALS = 750
"""Training jobs of one search ("automatic-model-tuning-limits")."""
MOST_PARALLEL = 100
"""Training jobs of one search at a time, after AWS has raised the quota ("automatic-model-tuning-limits")."""
MOST_CHECKED = 500
"""Combinations of values that are validated before anything starts."""


class Strategy(StrEnum):
    """How the values of a trial are chosen."""

    BAYESIAN = "Bayesian"
    """By the figures of earlier trials."""
    RANDOM = "Random"
    """Without regard to earlier trials."""


class Objective(StrEnum):
    """The figure that a search improves: a metric that training prints."""

    BEST_CHOICE = "best_validation_choice"
    """The figure of `evaluation.choose_by` of the kept epoch, on validation or out of fold, printed at the end."""
    BEST_MACRO_AUC = "best_validation_macro_auc"
    """Macro AUC of the kept epoch, on validation or out of fold, printed at the end."""
    MACRO_AUC = "validation_macro_auc"
    """Macro AUC of the last epoch."""
    BALANCED_ACCURACY = "validation_balanced_accuracy"
    """Balanced accuracy of the last epoch."""
    LOSS = "validation_loss"
    """Loss of the last epoch; the lowest is best."""

    @property
    def direction(self) -> str:
        """`Maximize` or `Minimize`, in SageMaker's terms."""
        return "Minimize" if self is Objective.LOSS else "Maximize"


class TuningConfig(Settings):
    """A search over keys of `training`; without ranges, each network is trained once."""

    ranges: Mapping[str, str] = Field(
        default_factory=dict,
        description="values to search, by key of `training`: `log(LOW,HIGH)`, `uniform(LOW,HIGH)`, `int(LOW,HIGH)` or "
        "`choice(A,B,...)`; empty: no search",
    )
    cnns: tuple[str, ...] = Field(
        default=(), description="the networks to tune; empty: all candidates. Each other network is trained once"
    )
    trials: int = Field(
        default=20, ge=1, le=MOST_TRIALS, description="training jobs of each search (`MaxNumberOfTrainingJobs`)"
    )
    parallel: int = Field(
        default=2,
        ge=1,
        le=MOST_PARALLEL,
        description="training jobs of each search at a time on AWS (`MaxParallelTrainingJobs`); offline always one",
    )
    strategy: Strategy = Field(default=Strategy.BAYESIAN, description="how the next values are chosen")
    objective: Objective = Field(
        default=Objective.BEST_CHOICE,
        description="the metric printed by training that a search optimises, always on validation images",
    )

    @model_validator(mode="after")
    def _check(self) -> "TuningConfig":
        """Refuse texts that are not ranges, keys without effect, and networks or trials that do not fit the search."""
        for space in self.spaces:
            if space.key in WITHOUT_EFFECT:
                raise ConfigError(f"tuning.ranges.{space.key}: this key does not change what is learnt")
        if self.ranges and self.parallel > self.trials:
            raise ConfigError(f"tuning.parallel={self.parallel}: at most tuning.trials={self.trials}")
        if len(set(self.cnns)) < len(self.cnns):
            raise ConfigError(f"tuning.cnns = {', '.join(self.cnns)}: each once")
        if self.cnns and not self.ranges:
            raise ConfigError(f"tuning.cnns = {', '.join(self.cnns)}: needs tuning.ranges")
        return self

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The ranges, in the order of their keys; raises `ConfigError` for a text that is no range."""
        found = []
        for key, text in sorted(self.ranges.items()):
            space = Space.parse(key, text, f"tuning.ranges.{key} = {text!r}")
            if space is None:
                raise ConfigError(
                    f"tuning.ranges.{key} = {text!r}: must be log(LOW,HIGH), uniform(LOW,HIGH), int(LOW,HIGH) or "
                    "choice(A,B,...)"
                )
            found.append(space)
        return tuple(found)

    def tunes(self, cnn: str) -> bool:
        """Return whether a search takes the place of this network's training job."""
        return bool(self.ranges) and (not self.cnns or cnn in self.cnns)

    def require_valid(self, hyperparameters: Mapping[str, str], check: Callable[[Mapping[str, str]], object]) -> None:
        """Refuse ranges from which a trial could draw values that the training job refuses.

        Args:
            hyperparameters: The network's own hyperparameters, as the job gets them.
            check: Validates the hyperparameters of one job; raises `ConfigError`.

        Raises:
            ConfigError: A value, or a combination of values, breaks a rule of training.
        """
        for drawn in _combinations(self.spaces):
            try:
                check({**hyperparameters, **drawn})
            except ConfigError as error:
                shown = ", ".join(f"{key}={value}" for key, value in drawn.items())
                raise ConfigError(f"tuning.ranges: a trial could have {shown}: {error}") from None


def _combinations(spaces: tuple[Space, ...]) -> Iterator[dict[str, str]]:
    """Yield every value alone, then combinations: all of them, or a fixed sample if there are many."""
    values = {space.key: list(dict.fromkeys(space.examples())) for space in spaces}
    for key, choices in values.items():
        yield from ({key: value} for value in choices)
    # Rules between keys are broken at the ends of ranges, so combinations take the first and the last value first.
    ends = [list(dict.fromkeys((choices[0], choices[-1]))) for choices in values.values()]
    for drawn in itertools.islice(itertools.product(*ends), MOST_CHECKED):
        yield dict(zip(values, drawn, strict=True))
    sample = random.Random(0)
    for _ in range(MOST_CHECKED):
        yield {key: sample.choice(choices) for key, choices in values.items()}
