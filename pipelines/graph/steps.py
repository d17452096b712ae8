"""One function per step: the SageMaker request of each node of the graph in `mammopipe.pipelines.graph.definition`.

The training steps are in `candidate_steps`, those that serve the model in `serving_steps`.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Any

from sagemaker.core.model_metrics import MetricsSource, ModelMetrics
from sagemaker.core.processing import Processor
from sagemaker.core.shapes import ProcessingInput
from sagemaker.core.workflow.conditions import ConditionEquals, ConditionGreaterThanOrEqualTo
from sagemaker.core.workflow.functions import Join
from sagemaker.core.workflow.properties import PropertyFile
from sagemaker.mlops.workflow.condition_step import ConditionStep
from sagemaker.mlops.workflow.fail_step import FailStep
from sagemaker.mlops.workflow.model_step import ModelStep
from sagemaker.mlops.workflow.steps import ProcessingStep, Step

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.config.security import Duty
from mammopipe.pipelines.graph import request_parts, serving_steps
from mammopipe.pipelines.graph.request_parts import Context, below
from mammopipe.processing.breast.harmonisation import Harmonisation
from mammopipe.processing.classes import Question
from mammopipe.processing.datasets.manifest import SplitProtocol
from mammopipe.processing.datasets.registry import dataset_named
from mammopipe.processing.read_config import ForProcessing
from mammopipe.processing.splits import read_register

CONTENT_TYPES = ["application/dicom", "image/x-portable-graymap", "image/png", "application/json", "application/zip"]
RESPONSE_TYPES = ["application/json", "image/png", "application/dicom", "application/zip"]


def prepare(context: Context) -> ProcessingStep:
    """Return the step that turns the raw dataset into 16-bit images and a manifest with splits."""
    config, raw, weights = context.config, context.parameters.input_data_uri, context.parameters.weights_uri
    dataset = dataset_named(config.dataset)
    images = f"{dataset.image_folder}/" if dataset.image_folder else ""
    arguments = {
        "--dataset": str(config.dataset),
        "--protocol": str(config.data.protocol),
        "--seed": context.parameters.seed.to_string(),
        "--test-fraction": str(config.data.test_fraction),
        "--folds": str(config.data.folds),
        "--validation-fold": str(config.data.validation_fold),
        "--max-height": str(config.data.max_height),
        "--max-quarantine": str(config.data.max_quarantine),
        "--data-digest": context.parameters.data_digest,
        "--phi": config.data.phi,
    }
    # A setting at its default adds no argument: the step cache then finds results from before the setting existed.
    if config.data.reduced_decode:
        arguments["--reduced-decode"] = "true"
    if config.data.for_processing is not ForProcessing.REFUSE:
        arguments["--for-processing"] = config.data.for_processing.value
    salt = config.data.patient_salt
    inputs = [
        # A file, not an argument: everybody who may describe the job can read its arguments.
        *([request_parts.source("salt", config.storage.uri("secrets", config.data.salt_name))] if salt else []),
        # Prepare only checks the weights: missing ones would otherwise fail in training, after three paid steps.
        *([request_parts.source("weights", below(weights, ""))] if weights is not None else []),
        request_parts.source("labels", below(raw, dataset.label_table)),
        request_parts.sharded(context, "images", below(raw, images)),
    ]
    # Evaluate reads the register of test reads. If the register had no object yet, Evaluate would fail for lack of
    # input after all training is paid, so Prepare writes the register's first file.
    return _processing(
        context,
        "Prepare",
        "mammopipe.processing.jobs.prepare",
        arguments,
        inputs,
        ["prepared"],
        lasting={read_register.NAME: _register_of(context)},
    )


def _register_of(context: Context) -> str:
    """Return the S3 folder of the dataset's register of test reads; it outlives the executions."""
    return context.config.storage.uri(read_register.NAME, context.config.dataset)


def augment(context: Context, prepared: ProcessingStep) -> ProcessingStep:
    """Return the step that adds augmented copies of the training images."""
    folder = request_parts.output(prepared, "prepared")
    arguments = {
        "--copies": context.parameters.augmentation_copies.to_string(),
        "--copies-of": _copied(context.config),
        "--balance": str(context.config.augmentation.balance).lower(),
        "--seed": context.parameters.seed.to_string(),
        "--max-quarantine": str(context.config.data.max_quarantine),
    }
    if context.config.augmentation.rarer_only:
        arguments["--rarer-only"] = "true"
    if context.config.training.question is Question.BINARY:
        arguments["--question"] = str(Question.BINARY)
    inputs = [
        request_parts.source("manifest", below(folder, "manifest")),
        request_parts.source("stage", below(folder, "stage")),
        request_parts.source("unseen", below(folder, "unseen")),
        request_parts.sharded(context, "images", below(folder, "images/")),
    ]
    return _processing(
        context, "Augment", "mammopipe.processing.jobs.augment", arguments, inputs, ["data_augmentation"]
    )


def _copied(config: PipelineConfig) -> str:
    """Return which images get copies: with cross-validation, those of every fold, since each fold trains in turn."""
    if config.data.protocol is SplitProtocol.PUBLISHED:
        return "all"
    return "development" if config.training.folds else "train"


def segment(context: Context, prepared: ProcessingStep, augmented: ProcessingStep) -> ProcessingStep:
    """Return the step that segments the breast in originals and copies, at the size of the network's input."""
    originals, copies = request_parts.output(prepared, "prepared"), request_parts.output(augmented, "data_augmentation")
    arguments = {
        "--height": context.parameters.image_height.to_string(),
        "--width": context.parameters.image_width.to_string(),
        "--remove-pectoral": str(context.config.segmentation.remove_pectoral).lower(),
        "--max-quarantine": str(context.config.data.max_quarantine),
    }
    if context.config.segmentation.shard_megabytes:
        arguments["--shard-megabytes"] = str(context.config.segmentation.shard_megabytes)
    if context.config.segmentation.harmonisation is not Harmonisation.NONE:
        arguments["--harmonisation"] = context.config.segmentation.harmonisation.value
    inputs = [
        request_parts.source("prepared-manifest", below(originals, "manifest")),
        request_parts.source("prepared-stage", below(originals, "stage")),
        request_parts.sharded(context, "prepared-images", below(originals, "images/")),
        request_parts.source("augmented-manifest", below(copies, "manifest")),
        request_parts.source("augmented-unseen", below(copies, "unseen")),
        request_parts.sharded(context, "augmented-images", below(copies, "images/")),
    ]
    return _processing(
        context, "Segment", "mammopipe.processing.jobs.segment", arguments, inputs, ["data_segmentation"]
    )


def evaluate(context: Context, segmented: ProcessingStep, models: Mapping[str, Any]) -> ProcessingStep:
    """Return the step that evaluates every candidate and selects the best by its validation figures.

    Args:
        context: The objects that every step is built from.
        segmented: The step that segmented the images.
        models: The S3 URI of each `model.tar.gz`, by its place: `<cnn>`, or `<cnn>/fold-<number>`.
    """
    config, data = context.config, request_parts.output(segmented, "data_segmentation")
    arguments = {
        "--profile": str(config.profile),
        "--min-macro-auc": context.parameters.min_macro_auc.to_string(),
        "--choose-by": config.evaluation.choose_by,
        "--choose-level": config.evaluation.choose_level,
        "--min-choice": str(config.evaluation.min_choice),
        "--bootstrap": str(config.evaluation.bootstrap),
        "--breast-rule": config.evaluation.breast_rule,
        "--other-breast": str(config.evaluation.other_breast),
        "--predict-training": str(config.evaluation.predict_training).lower(),
        "--seed": context.parameters.seed.to_string(),
    }
    candidates = [
        request_parts.source(f"model-{place.replace('/', '-')}", model, folder=f"models/{place}")
        for place, model in models.items()
    ]
    reads = _register_of(context)
    inputs = [
        request_parts.source("data", data),
        request_parts.source(read_register.NAME, f"{reads}/"),
        *candidates,
    ]
    return _processing(
        context,
        "Evaluate",
        "mammopipe.training.evaluate",
        arguments,
        inputs,
        ["evaluation", "model"],
        # Not below the execution: the register outlives it, and each evaluation adds one object.
        lasting={read_register.NAME: reads},
        image=config.images.training,
        instances=1,
        property_files=[request_parts.EVALUATION],
    )


def register(context: Context, evaluated: ProcessingStep) -> ModelStep:
    """Return the step that registers the selected model, with the location of its metrics and the limits it passed.

    The package names files instead of values from them, since AWS documents property-file values only for conditions.
    """
    config, parameters = context.config, context.parameters
    results = request_parts.output(evaluated, "evaluation")
    report = below(results, "evaluation.json")
    facts = {
        "profile": str(config.profile),
        "dataset": str(config.dataset),
        "protocol": str(config.data.protocol),
        "min_macro_auc": parameters.min_macro_auc.to_string(),
        "networks": " ".join(config.cnns),
        "intended_use": "research only",
        "evaluation": report,
        "report": below(results, "report.html"),
        "model_card": below(results, "model_card.md"),
        "registration": below(results, "registration.json"),
    }
    arguments = serving_steps.builder(context, evaluated, {}).register(
        model_package_group_name=config.registry.group,
        approval_status=parameters.approval_status,
        content_types=CONTENT_TYPES,
        response_types=RESPONSE_TYPES,
        inference_instances=[parameters.endpoint_instance_type],
        model_metrics=ModelMetrics(model_statistics=MetricsSource("application/json", report)),
        customer_metadata_properties=facts,
    )
    return ModelStep(name="Register", step_args=arguments, retry_policies=[request_parts.call_retry()])


def gate(context: Context, evaluated: ProcessingStep, passed: Sequence[Step], refused: Step) -> ConditionStep:
    """Return the step that continues only with the protocol `patient`, a passed audit, and the minimum macro AUC.

    The macro AUC is that on validation or, for cross-validated networks, out of fold. With `evaluation.min_choice`, the
    figure that chose the network must reach that limit, too.
    """
    config = context.config.evaluation
    figure = request_parts.value(evaluated, "selected.validation.macro_auc.value")
    conditions: list[Any] = [
        ConditionEquals(left=request_parts.value(evaluated, "protocol"), right=str(SplitProtocol.PATIENT)),
        ConditionEquals(left=request_parts.value(evaluated, "leakage.passed"), right=True),
        ConditionGreaterThanOrEqualTo(left=figure, right=context.parameters.min_macro_auc),
    ]
    if config.min_choice:
        chosen = request_parts.value(evaluated, "selected.choice.value")
        conditions.append(ConditionGreaterThanOrEqualTo(left=chosen, right=config.min_choice))
    return ConditionStep(name="Gate", conditions=conditions, if_steps=list(passed), else_steps=[refused])


def refuse(context: Context, evaluated: ProcessingStep) -> FailStep:
    """Return the step that ends a run whose gate stays closed, with the limit and the location of the figures.

    The message contains parameters but no figures, since AWS documents property-file values only for conditions.
    """
    config = context.config.evaluation
    chosen = [f" and a {config.choice.words} of at least {config.min_choice:g}"] if config.min_choice else []
    sentence = [
        "Nothing was registered: the best candidate must be split by patient, pass the leakage audit and have a macro "
        "AUC of at least MinMacroAuc=",
        context.parameters.min_macro_auc.to_string(),
        *chosen,
        "; evaluation.json shows which of these it failed, in ",
        request_parts.execution_folder(context, "evaluation"),
    ]
    return FailStep(name="Fail", error_message=Join(on="", values=sentence))


def _processing(
    context: Context,
    name: str,
    module: str,
    arguments: Mapping[str, Any],
    inputs: list[ProcessingInput],
    outputs: Sequence[str],
    *,
    lasting: Mapping[str, str] = MappingProxyType({}),
    image: str | None = None,
    instances: int | None = None,
    property_files: list[PropertyFile] | None = None,
) -> ProcessingStep:
    config, parameters = context.config, context.parameters
    processor = Processor(
        image_uri=image or config.images.processing,
        entrypoint=["python", "-m", module],
        role=config.security.role_for(Duty.PROCESSING),
        instance_type=parameters.processing_instance_type,
        instance_count=instances or parameters.processing_instance_count,
        volume_size_in_gb=config.compute.processing_volume_gb,
        volume_kms_key=request_parts.volume_key(context, config.compute.processing_instance_type),
        output_kms_key=parameters.kms_key_id,
        max_runtime_in_seconds=config.compute.processing_max_runtime_seconds,
        sagemaker_session=context.session,
        tags=request_parts.tags(context),
        network_config=request_parts.network_config(context),
    )
    # JSON writes a StrEnum as a string, but the YAML that the SDK's local mode writes would contain a Python object.
    words = [word.value if isinstance(word, Enum) else word for pair in arguments.items() for word in pair]
    results = [request_parts.result(context, output) for output in outputs]
    results += [request_parts.uploaded(output, uri) for output, uri in lasting.items()]
    return ProcessingStep(
        name=name,
        step_args=processor.run(inputs=inputs, arguments=words, outputs=results),
        property_files=property_files or [],
        cache_config=request_parts.cache(context),
        retry_policies=request_parts.job_retries(),
    )
