"""The steps that make the candidates: one training job per network, or a search over its hyperparameters."""

import hashlib
import json
import re
from typing import Any

from sagemaker.core.parameter import CategoricalParameter, ContinuousParameter, IntegerParameter, ParameterRange
from sagemaker.core.shapes import (
    Channel,
    CheckpointConfig,
    HyperParameterTrainingJobDefinition,
    MetricDefinition,
    OutputDataConfig,
    RetryStrategy,
    StoppingCondition,
    Tag,
)
from sagemaker.core.training.configs import Compute
from sagemaker.core.workflow.functions import Join
from sagemaker.mlops.workflow.steps import ProcessingStep, TrainingStep, TuningStep
from sagemaker.train import ModelTrainer
from sagemaker.train.tuner import HyperparameterTuner

from mammopipe.pipelines.config.compute import InputMode
from mammopipe.pipelines.config.search_space import Kind, Space
from mammopipe.pipelines.config.security import Duty
from mammopipe.pipelines.graph import request_parts
from mammopipe.pipelines.graph.request_parts import Context, below
from mammopipe.processing.container.paths import ContainerPaths

METRICS = (
    "train_loss",
    "validation_loss",
    "validation_macro_auc",
    "validation_balanced_accuracy",
    "validation_choice",
    "learning_rate",
    "seconds",
    "best_validation_macro_auc",
    "best_validation_choice",
)
"""The figures that `train` prints as `name=number`: after each epoch, except the last two, which it prints once at the
end."""
WEIGHTS_DIGEST = "mammopipe_weights_digest"
"""Hyperparameter of a search with the digest of the weights, which training ignores.

The step cache compares a search's hyperparameters, not its environment ("Default cache key attributes by pipeline step
type"), so the digest must be among them.
"""


Candidate = tuple[TrainingStep | TuningStep, Any]
"""The step that makes a model, and the S3 URI of the model."""


def candidates(context: Context, segmented: ProcessingStep) -> dict[str, Candidate]:
    """Return the steps that make the models, by the place of the model: `<cnn>`, or `<cnn>/fold-<number>`.

    With `compute.training_jobs` = N, each step waits for the step N positions before it, so that at most N run at once.
    """
    config, made = context.config, dict[str, Candidate]()
    for cnn in config.cnns:
        for fold in config.fold_jobs or (None,):
            limit, earlier = config.compute.training_jobs, [step for step, _ in made.values()]
            step, model = candidate(context, cnn, segmented, fold)
            if limit and len(earlier) >= limit:
                step.add_depends_on([earlier[-limit]])
            made[_place(cnn, fold)] = step, model
    return made


def _place(cnn: str, fold: int | None) -> str:
    return cnn if fold is None else f"{cnn}/fold-{fold}"


def candidate(context: Context, cnn: str, segmented: ProcessingStep, fold: int | None = None) -> Candidate:
    """Return the step that makes the candidate of a network, or one fold of it, and the S3 URI of its model."""
    if context.config.tuning.tunes(cnn):
        searched = tune(context, cnn, segmented)
        return searched, _best_model(searched)
    trained = train(context, cnn, segmented, fold)
    return trained, trained.properties.ModelArtifacts.S3ModelArtifacts


def train(context: Context, cnn: str, segmented: ProcessingStep, fold: int | None = None) -> TrainingStep:
    """Return the step that trains one candidate, or one fold of it; it never gets the images of the test split."""
    checkpoints = CheckpointConfig(
        s3_uri=_checkpoints(context, cnn, segmented, fold), local_path=str(ContainerPaths().checkpoints)
    )
    trainer = _trainer(context, cnn, fold, checkpoint_config=checkpoints)
    return TrainingStep(
        name=step_name(cnn, fold=fold),
        step_args=trainer.train(_channels(context, segmented)),
        cache_config=request_parts.cache(context),
        retry_policies=request_parts.job_retries(),
    )


def tune(context: Context, cnn: str, segmented: ProcessingStep) -> TuningStep:
    """Return the step that trains one network many times, with hyperparameters that a search chooses.

    The trials have no checkpoints on S3, because all of them would share one folder.
    """
    settings = context.config.tuning
    trainer = _trainer(context, cnn)
    trainer.with_retry_strategy(RetryStrategy(maximum_retry_attempts=2))
    if context.parameters.weights_digest is not None:
        trainer.hyperparameters[WEIGHTS_DIGEST] = context.parameters.weights_digest
    tuner = _Tuner(
        model_trainer=trainer,
        objective_metric_name=settings.objective.value,
        objective_type=settings.objective.direction,
        hyperparameter_ranges={space.key: _range(space) for space in settings.spaces},
        metric_definitions=[{"Name": name, "Regex": _pattern(name)} for name in METRICS],
        strategy=settings.strategy.value,
        max_jobs=settings.trials,
        max_parallel_jobs=settings.parallel,
        random_seed=context.parameters.seed,
        tags=request_parts.tags(context),
        base_tuning_job_name=step_name(cnn, "Tune"),
    )
    return TuningStep(
        name=step_name(cnn, "Tune"),
        step_args=tuner.tune(_channels(context, segmented), wait=False),
        cache_config=request_parts.cache(context),
        retry_policies=request_parts.tuning_retries(),
    )


class _Tuner(HyperparameterTuner):  # type: ignore[misc]  # the SDK is untyped
    """The SDK's tuner, whose jobs also get the isolation, encryption and volume key of the trainer's own jobs."""

    def _build_training_job_definition(self, inputs: list[Channel]) -> HyperParameterTrainingJobDefinition:
        definition = super()._build_training_job_definition(inputs)
        networking, compute = self.model_trainer.networking, self.model_trainer.compute
        definition.enable_network_isolation = networking.enable_network_isolation
        definition.enable_inter_container_traffic_encryption = networking.enable_inter_container_traffic_encryption
        definition.resource_config.volume_kms_key_id = compute.volume_kms_key_id
        return definition


def _range(space: Space) -> ParameterRange:
    """Return a range in the SDK's terms."""
    if space.kind is Kind.CHOICE:
        return CategoricalParameter(list(space.bounds))
    low, high = space.bounds
    if space.kind is Kind.INT:
        return IntegerParameter(low, high, scaling_type="Linear")
    return ContinuousParameter(low, high, scaling_type="Logarithmic" if space.kind is Kind.LOG else "Linear")


def _best_model(searched: TuningStep) -> Join:
    """Return the S3 URI of the model of a search's best trial.

    The folder is that of the job itself: a step that the cache skips wrote to the folder of an earlier execution.
    """
    properties = searched.properties
    # SageMaker Pipelines sorts the summaries by the objective, the best trial first ("Tuning step").
    folder = properties.TrainingJobDefinition.OutputDataConfig.S3OutputPath
    best = properties.TrainingJobSummaries[0].TrainingJobName
    return Join(on="/", values=[folder, best, "output/model.tar.gz"])


def _channels(context: Context, segmented: ProcessingStep) -> list[Channel]:
    """Return the channels of a training job; none has images of the test split."""
    data = request_parts.output(segmented, "data_segmentation")
    channels = {
        "train": below(data, "images/train/"),
        "validation": below(data, "images/validation/"),
        "manifest": below(data, "manifest"),
        "stage": below(data, "stage"),
    }
    if context.parameters.weights_uri is not None:
        channels["weights"] = below(context.parameters.weights_uri, "")
    modes = dict.fromkeys(("train", "validation"), context.config.compute.input_mode)
    return [request_parts.channel(name, uri, modes.get(name, InputMode.FILE)) for name, uri in channels.items()]


def step_name(cnn: str, verb: str = "Train", fold: int | None = None) -> str:
    """Return the name of a candidate's step; step names allow no underscores."""
    return f"{verb}-{re.sub('[^A-Za-z0-9]+', '-', _place(cnn, fold)).strip('-')}"


def _checkpoints(context: Context, cnn: str, segmented: ProcessingStep, fold: int | None) -> Join:
    """Return the S3 folder of a training job's checkpoints: one per network, settings, code and data.

    The name of the job that produced the data identifies them; a step that the cache skips keeps that name. So
    concurrent executions share a folder only if they train the same network with the same settings on the same files,
    from the same weights, with as many processes.
    """
    settings = {**_settings(context, cnn, fold), "image": context.config.images.training}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    parameters = context.parameters
    instances = [parameters.training_instance_type, parameters.training_instance_count.to_string()]
    weights = [parameters.weights_digest] if parameters.weights_digest is not None else []
    numbers = [parameters.epochs.to_string(), parameters.seed.to_string()]
    run = Join(on="-", values=[digest, *numbers, *instances, *weights])
    base = context.config.storage.uri("checkpoints", cnn)
    return Join(on="/", values=[base, run, segmented.properties.ProcessingJobName])


def _trainer(context: Context, cnn: str, fold: int | None = None, **settings: Any) -> ModelTrainer:
    config, parameters, compute = context.config, context.parameters, context.config.compute
    kms = {"kms_key_id": parameters.kms_key_id} if parameters.kms_key_id is not None else {}
    # The service requires a limit on waiting with spot, and refuses one without spot.
    waiting = {"max_wait_time_in_seconds": compute.max_wait_seconds} if compute.spot else {}
    trainer = ModelTrainer(
        sagemaker_session=context.session,
        role=config.security.role_for(Duty.TRAINING),
        base_job_name=step_name(cnn, fold=fold),
        training_image=config.images.training,
        environment={"MAMMOPIPE_WEIGHTS_DIGEST": parameters.weights_digest} if parameters.weights_digest else {},
        hyperparameters=_hyperparameters(context, cnn, fold),
        compute=Compute(
            instance_type=parameters.training_instance_type,
            instance_count=parameters.training_instance_count,
            volume_size_in_gb=compute.training_volume_gb,
            volume_kms_key_id=request_parts.volume_key(context, compute.training_instance_type),
            enable_managed_spot_training=compute.spot,
            keep_alive_period_in_seconds=compute.keep_alive_seconds or None,
        ),
        networking=request_parts.networking(context),
        stopping_condition=StoppingCondition(max_runtime_in_seconds=compute.training_max_runtime_seconds, **waiting),
        output_data_config=OutputDataConfig(
            s3_output_path=request_parts.execution_folder(context, f"models/{_place(cnn, fold)}"), **kms
        ),
        tags=[Tag(key=key, value=word) for key, word in config.tags.items()],
        **settings,
    )
    return trainer.with_metric_definitions([MetricDefinition(name=name, regex=_pattern(name)) for name in METRICS])


def _pattern(metric: str) -> str:
    return rf"\b{metric}=([0-9.eE+-]+)"


def _settings(context: Context, cnn: str, fold: int | None) -> dict[str, Any]:
    """Return the hyperparameters of a training job; they contain `fold` only if the job trains a single fold."""
    values = context.config.training_of(cnn).to_json()
    del values["fold"]
    return values if fold is None else {**values, "fold": fold}


def _hyperparameters(context: Context, cnn: str, fold: int | None = None) -> dict[str, Any]:
    parameters = context.parameters
    # SageMaker passes every hyperparameter as text.
    fixed = {key: str(word) for key, word in _settings(context, cnn, fold).items()}
    return fixed | {
        "cnn": str(cnn),
        "epochs": parameters.epochs.to_string(),
        "seed": parameters.seed.to_string(),
    }
