"""One function a step: the SageMaker request behind each node of the graph in `pipelines.definition`.

Inputs are named by the *properties* of the step that made them, never by a path built twice: a step that the cache skips
then hands on the files of the execution that it was skipped for.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sagemaker.core.model_metrics import MetricsSource, ModelMetrics
from sagemaker.core.network import NetworkConfig
from sagemaker.core.processing import Processor
from sagemaker.core.shapes import (
    Channel,
    CheckpointConfig,
    DataSource,
    MetricDefinition,
    OutputDataConfig,
    ProcessingInput,
    ProcessingOutput,
    ProcessingS3Input,
    ProcessingS3Output,
    S3DataSource,
    StoppingCondition,
    Tag,
)
from sagemaker.core.training.configs import Compute, Networking
from sagemaker.core.workflow.conditions import ConditionEquals, ConditionGreaterThanOrEqualTo
from sagemaker.core.workflow.execution_variables import ExecutionVariables
from sagemaker.core.workflow.functions import Join, JsonGet
from sagemaker.core.workflow.properties import PropertyFile
from sagemaker.mlops.workflow.condition_step import ConditionStep
from sagemaker.mlops.workflow.endpoint_step import EndpointConfigStep, EndpointStep
from sagemaker.mlops.workflow.fail_step import FailStep
from sagemaker.mlops.workflow.model_step import ModelStep
from sagemaker.mlops.workflow.retry import (
    SageMakerJobExceptionTypeEnum,
    SageMakerJobStepRetryPolicy,
    StepExceptionTypeEnum,
    StepRetryPolicy,
)
from sagemaker.mlops.workflow.steps import CacheConfig, ProcessingStep, Step, TrainingStep
from sagemaker.serve.model_builder import ModelBuilder
from sagemaker.train import ModelTrainer

from pipelines.config import Distribution, PipelineConfig
from pipelines.parameters import Parameters
from training.config import Cnn

EVALUATION = PropertyFile(name="EvaluationReport", output_name="evaluation", path="evaluation.json")
METRICS = ("train_loss", "validation_loss", "validation_macro_auc", "validation_balanced_accuracy", "learning_rate", "seconds")
"""The figures on the line that `train` prints after each epoch, as `name=number`."""
CONTENT_TYPES = ["application/dicom", "image/x-portable-graymap", "image/png", "application/json"]
RESPONSE_TYPES = ["application/json", "image/png", "application/dicom"]


@dataclass(frozen=True)
class Context:
    """What every step is built from."""

    config: PipelineConfig
    parameters: Parameters
    session: Any
    """A `PipelineSession`."""
    scratch: str
    """A folder that the SDK's model builder may leave files in."""


def prepare(context: Context) -> ProcessingStep:
    """Return the step that makes 16-bit images and a manifest with splits of the raw dataset."""
    data, raw = context.config.data, context.parameters.input_data_uri
    labels, images = _RAW[context.config.dataset]
    return _processing(context, "Prepare", "processing.jobs.prepare", {
        "--dataset": str(context.config.dataset), "--seed": context.parameters.seed.to_string(),
        "--test-fraction": str(data.test_fraction), "--folds": str(data.folds),
        "--validation-fold": str(data.validation_fold), "--max-height": str(data.max_height),
        "--max-quarantine": str(data.max_quarantine), "--phi": data.phi,
    }, inputs=[_input("labels", _join(raw, labels)), _sharded(context, "images", _join(raw, images))],
        outputs=["prepared"])


_RAW: Mapping[str, tuple[str, str]] = {"mias": ("Info.txt", ""), "rsna": ("train.csv", "train_images/")}
"""The label table and the image tree of each dataset, below its raw folder."""


def augment(context: Context, prepared: ProcessingStep) -> ProcessingStep:
    """Return the step that adds altered copies of the training images."""
    source = _output(prepared, "prepared")
    return _processing(context, "Augment", "processing.jobs.augment", {
        "--copies": context.parameters.augmentation_copies.to_string(), "--seed": context.parameters.seed.to_string(),
    }, inputs=[_input("manifest", _join(source, "manifest")), _sharded(context, "images", _join(source, "images/"))],
        outputs=["data_augmentation"])


def segment(context: Context, prepared: ProcessingStep, augmented: ProcessingStep) -> ProcessingStep:
    """Return the step that reduces originals and copies to the breast, at the size of the network's input."""
    original, copies = _output(prepared, "prepared"), _output(augmented, "data_augmentation")
    settings = context.config.segmentation
    return _processing(context, "Segment", "processing.jobs.segment", {
        "--height": context.parameters.image_height.to_string(), "--width": context.parameters.image_width.to_string(),
        "--remove-pectoral": str(settings.remove_pectoral).lower(),
        "--max-quarantine": str(context.config.data.max_quarantine),
    }, inputs=[
        _input("prepared-manifest", _join(original, "manifest")),
        _sharded(context, "prepared-images", _join(original, "images/")),
        _input("augmented-manifest", _join(copies, "manifest")),
        _sharded(context, "augmented-images", _join(copies, "images/")),
    ], outputs=["data_segmentation"])


def train(context: Context, cnn: Cnn, segmented: ProcessingStep) -> TrainingStep:
    """Return the step that trains one candidate; the test split's images never reach it."""
    config, parameters, compute = context.config, context.parameters, context.config.compute
    data = _output(segmented, "data_segmentation")
    channels = {"train": _join(data, "images/train/"), "validation": _join(data, "images/validation/"),
                "manifest": _join(data, "manifest"), "stage": _join(data, "stage")}
    if parameters.weights_uri is not None:
        channels["weights"] = _join(parameters.weights_uri, "")
    trainer = ModelTrainer(
        sagemaker_session=context.session, role=config.security.role, base_job_name=step_name(cnn),
        training_image=config.images.training, hyperparameters=_hyperparameters(context, cnn),
        compute=Compute(instance_type=parameters.training_instance_type, instance_count=parameters.training_instance_count,
                        volume_size_in_gb=compute.volume_gb, volume_kms_key_id=parameters.kms_key_id,
                        enable_managed_spot_training=compute.spot),
        networking=_networking(context),
        stopping_condition=StoppingCondition(max_runtime_in_seconds=compute.max_runtime_seconds,
                                             **({"max_wait_time_in_seconds": compute.max_wait_seconds} if compute.spot else {})),
        output_data_config=OutputDataConfig(s3_output_path=_execution(context, f"models/{cnn}"),
                                            **({"kms_key_id": parameters.kms_key_id} if parameters.kms_key_id else {})),
        checkpoint_config=CheckpointConfig(s3_uri=config.storage.uri("checkpoints", cnn), local_path="/opt/ml/checkpoints"),
        tags=[Tag(key=key, value=value) for key, value in config.tags.items()],
    ).with_metric_definitions([MetricDefinition(name=name, regex=rf"\b{name}=([0-9.eE+-]+)") for name in METRICS])
    return TrainingStep(name=step_name(cnn), step_args=trainer.train([_channel(*item) for item in channels.items()]),
                        cache_config=_cache(context), retry_policies=_job_retries())


def evaluate(context: Context, segmented: ProcessingStep, trained: Mapping[Cnn, TrainingStep]) -> ProcessingStep:
    """Return the step that measures every candidate and chooses the best by its validation figures."""
    candidates = [_input(f"model-{cnn}", step.properties.ModelArtifacts.S3ModelArtifacts, folder=f"models/{cnn}")
                  for cnn, step in trained.items()]
    return _processing(context, "Evaluate", "training.evaluate", {
        "--profile": str(context.config.profile), "--min-macro-auc": context.parameters.min_macro_auc.to_string(),
        "--bootstrap": str(context.config.evaluation.bootstrap), "--seed": context.parameters.seed.to_string(),
    }, inputs=[_input("data", _output(segmented, "data_segmentation")), *candidates],
        outputs=["evaluation", "model"], image=context.config.images.training, single=True, property_files=[EVALUATION])


def register(context: Context, evaluated: ProcessingStep) -> ModelStep:
    """Return the step that registers the chosen model with its measures and the limits that it was held to."""
    config, report = context.config, _join(_output(evaluated, "evaluation"), "evaluation.json")
    arguments = _builder(context, evaluated).register(
        model_package_group_name=config.registry.group, approval_status=context.parameters.approval_status,
        content_types=CONTENT_TYPES, response_types=RESPONSE_TYPES,
        inference_instances=[context.parameters.endpoint_instance_type],
        model_metrics=ModelMetrics(model_statistics=MetricsSource("application/json", report)),
        customer_metadata_properties={
            "profile": str(config.profile), "dataset": str(config.dataset),
            "min_macro_auc": context.parameters.min_macro_auc.to_string(),
            "cnn": _text(evaluated, "selected.cnn"),
            "validation_macro_auc": _text(evaluated, "selected.validation.macro_auc.value"),
            "test_macro_auc": _text(evaluated, "selected.test.macro_auc.value"),
            "leakage": _text(evaluated, "leakage.verdict"),
            "intended_use": "research only",
        })
    return ModelStep(name="Register", step_args=arguments, retry_policies=[_call_retry()])


def create_model(context: Context, evaluated: ProcessingStep, registered: ModelStep) -> ModelStep:
    """Return the step that makes the registered artefact a model that an endpoint can load."""
    return ModelStep(name="Model", step_args=_builder(context, evaluated).build(), depends_on=[registered],
                     retry_policies=[_call_retry()])


def endpoint_config(context: Context, model: ModelStep) -> EndpointConfigStep:
    """Return the step that says on which instances the model is served."""
    parameters = context.parameters
    name = Join(on="-", values=[context.config.endpoint.name, ExecutionVariables.PIPELINE_EXECUTION_ID])
    variant = {"VariantName": "AllTraffic", "ModelName": model.properties.ModelName, "InitialVariantWeight": 1,
               "InstanceType": parameters.endpoint_instance_type, "InitialInstanceCount": parameters.endpoint_instance_count}
    arguments = context.session.create_endpoint_config(
        name=name, production_variants=[variant], kms_key=parameters.kms_key_id, tags=_tags(context))
    return EndpointConfigStep(name="EndpointConfig", step_args=arguments, retry_policies=[_call_retry()])


def endpoint(context: Context, settings: EndpointConfigStep) -> EndpointStep:
    """Return the step that creates the endpoint, or moves it to the new model when it exists."""
    arguments = context.session.create_endpoint(
        endpoint_name=context.config.endpoint.name, config_name=settings.properties.EndpointConfigName, tags=_tags(context))
    return EndpointStep(name="Endpoint", step_args=arguments)


def gate(context: Context, evaluated: ProcessingStep, passed: Sequence[Step], refused: Step) -> ConditionStep:
    """Return the step that goes on only with a clean leakage audit and a validation macro AUC at or above the limit."""
    figure = _get(evaluated, "selected.validation.macro_auc.value")
    return ConditionStep(name="Gate", if_steps=list(passed), else_steps=[refused], conditions=[
        ConditionEquals(left=_get(evaluated, "leakage.passed"), right=True),
        ConditionGreaterThanOrEqualTo(left=figure, right=context.parameters.min_macro_auc),
    ])


def refuse(context: Context, evaluated: ProcessingStep) -> FailStep:
    """Return the step that ends a run whose gate stays closed, with the figure, the limit and the audit's verdict."""
    return FailStep(name="Fail", error_message=Join(on="", values=[
        "Nothing was registered: the best candidate, ", _get(evaluated, "selected.cnn"), ", has a validation macro AUC of ",
        _get(evaluated, "selected.validation.macro_auc.value"), " where MinMacroAuc is ",
        context.parameters.min_macro_auc.to_string(), "; leakage audit: ", _get(evaluated, "leakage.verdict"),
    ]))


def step_name(cnn: Cnn) -> str:
    """Return the name of a candidate's training step; step names take no underscore."""
    return f"Train-{cnn.replace('_', '-')}"


def _processing(context: Context, name: str, module: str, arguments: Mapping[str, Any], *, inputs: list[ProcessingInput],
                outputs: Sequence[str], image: str | None = None, single: bool = False,
                property_files: list[PropertyFile] | None = None) -> ProcessingStep:
    config, parameters = context.config, context.parameters
    processor = Processor(
        image_uri=image or config.images.processing, entrypoint=["python", "-m", module], role=config.security.role,
        instance_type=parameters.processing_instance_type,
        instance_count=1 if single else parameters.processing_instance_count,
        volume_size_in_gb=config.compute.volume_gb, volume_kms_key=parameters.kms_key_id, output_kms_key=parameters.kms_key_id,
        max_runtime_in_seconds=config.compute.max_runtime_seconds, sagemaker_session=context.session, tags=_tags(context),
        network_config=NetworkConfig(
            enable_network_isolation=config.security.network_isolation, encrypt_inter_container_traffic=True,
            security_group_ids=list(config.security.security_groups) or None, subnets=list(config.security.subnets) or None))
    flat = [item for pair in arguments.items() for item in pair]
    return ProcessingStep(
        name=name, property_files=property_files or [], cache_config=_cache(context), retry_policies=_job_retries(),
        step_args=processor.run(inputs=inputs, arguments=flat, outputs=[_result(context, output) for output in outputs]))


def _input(name: str, uri: Any, *, folder: str | None = None, distribution: Any = str(Distribution.REPLICATED)) -> ProcessingInput:
    return ProcessingInput(input_name=name, s3_input=ProcessingS3Input(
        s3_uri=uri, local_path=f"/opt/ml/processing/input/{folder or name}", s3_data_type="S3Prefix", s3_input_mode="File",
        s3_data_distribution_type=distribution))


def _sharded(context: Context, name: str, uri: Any) -> ProcessingInput:
    return _input(name, uri, distribution=context.parameters.data_distribution)


def _result(context: Context, name: str) -> ProcessingOutput:
    return ProcessingOutput(output_name=name, s3_output=ProcessingS3Output(
        s3_uri=_execution(context, name), local_path=f"/opt/ml/processing/output/{name}", s3_upload_mode="EndOfJob"))


def _channel(name: str, uri: Any) -> Channel:
    source = S3DataSource(s3_data_type="S3Prefix", s3_uri=uri, s3_data_distribution_type=str(Distribution.REPLICATED))
    return Channel(channel_name=name, data_source=DataSource(s3_data_source=source), input_mode="File")


def _hyperparameters(context: Context, cnn: Cnn) -> dict[str, Any]:
    fixed = {key: str(value) for key, value in context.config.training.to_json().items()}
    return fixed | {"cnn": str(cnn), "epochs": context.parameters.epochs.to_string(), "seed": context.parameters.seed.to_string()}


def _builder(context: Context, evaluated: ProcessingStep) -> ModelBuilder:
    # `dependencies=None`: its default looks up the bucket on S3 while the pipeline is being built.
    return ModelBuilder(
        image_uri=context.config.images.serving, s3_model_data_url=_join(_output(evaluated, "model"), "model.tar.gz"),
        role_arn=context.config.security.role, sagemaker_session=context.session, network=_networking(context),
        dependencies=None, model_path=context.scratch, log_level=logging.ERROR)


def _networking(context: Context) -> Networking:
    security = context.config.security
    return Networking(subnets=list(security.subnets) or None, security_group_ids=list(security.security_groups) or None,
                      enable_network_isolation=security.network_isolation, enable_inter_container_traffic_encryption=True)


def _execution(context: Context, name: str) -> Join:
    """Return the S3 folder of one result of this execution."""
    base = context.config.storage.uri("executions")
    return Join(on="/", values=[base, ExecutionVariables.PIPELINE_EXECUTION_ID, name])


def _output(step: ProcessingStep, name: str) -> Any:
    return step.properties.ProcessingOutputConfig.Outputs[name].S3Output.S3Uri


def _join(folder: Any, path: str) -> Join:
    return Join(on="/", values=[folder, path])


def _get(step: ProcessingStep, path: str) -> JsonGet:
    return JsonGet(step_name=step.name, property_file=EVALUATION, json_path=path)


def _text(step: ProcessingStep, path: str) -> Join:
    """Return a value of the evaluation as a string, where a request takes nothing else."""
    return Join(on="", values=[_get(step, path)])


def _tags(context: Context) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in context.config.tags.items()]


def _cache(context: Context) -> CacheConfig | None:
    cache = context.config.compute.cache
    return CacheConfig(enable_caching=True, expire_after=cache) if cache else None


def _call_retry() -> StepRetryPolicy:
    return StepRetryPolicy(exception_types=[StepExceptionTypeEnum.SERVICE_FAULT, StepExceptionTypeEnum.THROTTLING],
                           interval_seconds=10, backoff_rate=2.0, max_attempts=5)


def _job_retries() -> list[Any]:
    """Return the retries of a job: throttling and service faults soon, missing capacity patiently, internal errors once."""
    kinds = SageMakerJobExceptionTypeEnum
    return [
        _call_retry(),
        SageMakerJobStepRetryPolicy(exception_types=[kinds.RESOURCE_LIMIT], failure_reason_types=[kinds.CAPACITY_ERROR],
                                    interval_seconds=300, backoff_rate=1.5, expire_after_mins=240),
        SageMakerJobStepRetryPolicy(failure_reason_types=[kinds.INTERNAL_ERROR], interval_seconds=60, max_attempts=2),
    ]
