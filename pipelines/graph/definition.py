"""The graph of the pipeline.

Prepare -> Augment -> Segment -> Train-<cnn>, or Train-<cnn>-fold-<number>, in parallel -> Evaluate -> Gate

    A network that is tuned has Tune-<cnn> in place of Train-<cnn>; the best trial is the candidate.

    Gate passed:  Register -> Model -> EndpointConfig -> Endpoint (the last three twice in mode `both`)
                  Register -> Model-batch -> Transform, if `transform.input` names images to answer
    Gate refused: Fail, with the reason
"""

import json
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mammopipe.pipelines.config.endpoint import EndpointConfig
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.graph.sdk import compile_session, prepare_sdk, quiet_sdk

if TYPE_CHECKING:
    from sagemaker.mlops.workflow.pipeline import Pipeline


def build_pipeline(config: PipelineConfig, session: Any = None) -> "Pipeline":
    """Return the SageMaker pipeline of `config`; building makes no call to AWS and needs no credentials.

    The definition contains no time and no upload path, so compiling twice gives the same bytes.

    Args:
        config: The configuration.
        session: A `PipelineSession`; without one, the pipeline can be compiled but not started.

    Returns:
        The pipeline, checked against AWS's rules.

    Raises:
        ConfigError: AWS would refuse the pipeline; the message names the step, the member, the value and the rule.
    """
    return _checked(config, session, config.endpoint.candidate)


def build_promotion(config: PipelineConfig) -> "Pipeline":
    """Return the pipeline whose last steps serve at the endpoint that a clinic calls.

    This pipeline never runs. Deployments of an approved package read their requests from its definition.
    """
    return _checked(config, None, config.endpoint)


def _checked(config: PipelineConfig, session: Any, endpoint: EndpointConfig) -> "Pipeline":
    prepare_sdk(config.region)
    with quiet_sdk(), TemporaryDirectory() as scratch:
        pipeline = _build(config, session or compile_session(config), scratch, endpoint)
    from mammopipe.pipelines.graph import aws_rules
    from mammopipe.pipelines.graph.parameters import resolve_parameters

    definition = json.loads(pipeline.definition())
    aws_rules.check(definition, resolve_parameters(definition, {}))
    return pipeline


def _build(config: PipelineConfig, session: Any, scratch: str, endpoint: EndpointConfig) -> "Pipeline":
    from sagemaker.mlops.workflow.pipeline import Pipeline

    from mammopipe.pipelines.graph import candidate_steps, serving_steps, steps, transform_steps
    from mammopipe.pipelines.graph.parameters import Parameters
    from mammopipe.pipelines.graph.request_parts import Context

    context = Context(config, Parameters.of(config), session, scratch, endpoint)
    prepared = steps.prepare(context)
    augmented = steps.augment(context, prepared)
    segmented = steps.segment(context, prepared, augmented)
    candidates = candidate_steps.candidates(context, segmented)
    evaluated = steps.evaluate(context, segmented, {place: model for place, (_, model) in candidates.items()})

    registered = steps.register(context, evaluated)
    passed: list[Any] = [registered]
    if config.deploy:
        passed += serving_steps.deploy(context, evaluated, registered)
    passed += transform_steps.transform(context, evaluated, registered)
    gate = steps.gate(context, evaluated, passed, refused=steps.refuse(context, evaluated))

    return Pipeline(
        name=config.name,
        parameters=context.parameters.declared(),
        pipeline_experiment_config=None,
        steps=[prepared, augmented, segmented, *(step for step, _ in candidates.values()), evaluated, gate],
        sagemaker_session=session,
    )
