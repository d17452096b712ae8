"""Finds what AWS would refuse in a compiled definition, before anything costs money.

The rules have two sources: botocore's model of SageMaker (members, types, enumerated values, patterns, lengths and
ranges), and the documentation, for rules that the model does not state (`mammopipe.pipelines.graph.request_rules`).
docs/how-to/aws.md lists each rule with its page.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.validate import ParamValidator

from mammopipe.pipelines.backends.supported import all_steps, inner_steps, own_arguments
from mammopipe.pipelines.config.compute import require_divided, require_even_batch
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.graph.request_rules import RULES
from mammopipe.pipelines.graph.requests import StepRequest, requests, service_model
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import close_to

MOST_PARAMETERS = 200
MOST_STEPS = 50
"""Quotas of one pipeline ("Amazon SageMaker AI endpoints and quotas")."""
CLASSES: Mapping[str, str] = {
    r"\p{L}": "a-zA-Z\u00c0-\uffff",
    r"\p{M}": "\u0300-\u036f",
    r"\p{Z}": " \u00a0",
    r"\p{N}": "0-9",
    r"\p{S}": "$+<=>^`|~",
    r"\p{P}": r"!-#%-*,-/:;?@\[-\]_{}",
    r"\p{Alnum}": "a-zA-Z0-9",
    r"\uD800\uDC00-\uDBFF\uDFFF": "\U00010000-\U0010ffff",
}
"""The character classes in the service's patterns, as Python writes them inside brackets."""
INSTANCE_TYPES: Mapping[str, str] = {
    "ProcessingInstanceType": "ProcessingInstanceType",
    "TrainingInstanceType": "TrainingInstanceType",
    "EndpointInstanceType": "ProductionVariantInstanceType",
}
"""The pipeline parameters that are instance types, and the shape in the service's model that lists the known ones."""
RETRIED = ("Processing", "Training", "Tuning", "Transform", "Model", "RegisterModel")
"""The step types whose retry policies are supported ("Retry Policy for Pipeline Steps")."""
ONLY_IN_CONDITIONS = "Std:JsonGet"


def check(definition: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """Raise `ConfigError` naming every step, member, value and rule that AWS would refuse.

    Args:
        definition: A compiled definition.
        parameters: The value of each of its parameters.

    Raises:
        ConfigError: AWS would refuse the pipeline.
    """
    faults = list(_definition(definition))
    # If the definition itself has faults, its requests may not be resolvable.
    for asked in requests(definition, parameters) if not faults else ():
        faults += [f"step {asked.step}: {fault}" for fault in _model(asked)]
        faults += [f"step {asked.step}: {fault}" for rule in RULES.get(asked.kind, ()) for fault in rule(asked.request)]
    if faults:
        raise ConfigError("AWS would refuse this pipeline: " + "; ".join(dict.fromkeys(faults)))


def check_run(config: PipelineConfig, definition: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for parameter values that AWS would refuse, or that contradict each other.

    Args:
        config: The configuration that the definition was compiled from.
        definition: The compiled definition.
        parameters: The run's value of each parameter.

    Raises:
        ConfigError: A value would be refused, or two values contradict each other.
    """
    require_divided(parameters["ProcessingInstanceCount"], parameters["DataDistribution"])
    for name in INSTANCE_TYPES:
        require_instance_type(name, f"pipeline parameter {name}", parameters[name])
    for cnn in config.cnns:
        training, instances = config.training_of(cnn), parameters["TrainingInstanceCount"]
        require_even_batch(training, parameters["TrainingInstanceType"], instances)
    check(definition, parameters)


def check_instances(config: PipelineConfig) -> None:
    """Raise `ConfigError` for an instance type that SageMaker does not know, with the key and similar types."""
    compute, endpoint = config.compute, config.endpoint
    for name, key, value in (
        ("ProcessingInstanceType", "compute.processing_instance_type", compute.processing_instance_type),
        ("TrainingInstanceType", "compute.training_instance_type", compute.training_instance_type),
        ("EndpointInstanceType", "endpoint.instance_type", endpoint.instance_type),
    ):
        require_instance_type(name, key, value)


def require_instance_type(parameter: str, key: str, value: str) -> None:
    """Raise `ConfigError` unless SageMaker knows an instance type; `key` names the setting in the message."""
    known = service_model().shape_for(INSTANCE_TYPES[parameter]).enum
    if value not in known:
        close = close_to(value, known)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(f"{key}={value}: no instance type that SageMaker knows{hint}")


def _definition(definition: Mapping[str, Any]) -> Iterator[str]:
    steps = list(all_steps(list(definition["Steps"])))
    if len(steps) > MOST_STEPS:
        yield f"{len(steps)} steps; a pipeline has at most {MOST_STEPS}"
    if len(definition.get("Parameters", [])) > MOST_PARAMETERS:
        yield f"{len(definition['Parameters'])} parameters; a pipeline has at most {MOST_PARAMETERS}"
    for step in steps:
        if step["Type"] != "Condition" and _holds_key(own_arguments(step), ONLY_IN_CONDITIONS):
            yield f"step {step['Name']}: AWS documents {ONLY_IN_CONDITIONS} only for conditions"
        if step["Type"] not in RETRIED and step.get("RetryPolicies"):
            yield f"step {step['Name']}: SageMaker Pipelines supports no retry policy for a step of type {step['Type']}"
        if any(item["Type"] == "Condition" for item in inner_steps(step)):
            yield f"step {step['Name']}: SageMaker Pipelines supports no condition inside a condition"


def _holds_key(value: Any, key: str) -> bool:
    if isinstance(value, list):
        return any(_holds_key(item, key) for item in value)
    return isinstance(value, dict) and (key in value or any(_holds_key(item, key) for item in value.values()))


def _model(asked: StepRequest) -> Iterator[str]:
    """Yield the faults that botocore's model of the operation finds."""
    shape = service_model().operation_model(asked.operation).input_shape
    report = ParamValidator().validate(asked.request, shape)
    if report.has_errors():
        yield " ".join(report.generate_report().split())
        return
    yield from _limits(asked.request, shape, "")


def _limits(value: Any, shape: Any, where: str) -> Iterator[str]:
    """Yield violations of lengths, ranges, patterns and enumerations; botocore itself checks only minima."""
    if shape.type_name == "structure":
        for key, item in value.items():
            yield from _limits(item, shape.members[key], f"{where}.{key}".lstrip("."))
        return
    most, least = shape.metadata.get("max"), shape.metadata.get("min")
    size = value if isinstance(value, int | float) else len(value)
    if most is not None and size > most:
        yield f"{where}={_short(value)}: at most {most}"
    if least is not None and size < least:
        yield f"{where}={_short(value)}: at least {least}"
    if shape.type_name == "list":
        for item in value:
            yield from _limits(item, shape.member, f"{where}[]")
    elif shape.type_name == "map":
        for key, item in value.items():
            yield from _limits(item, shape.value, f"{where}.{key}")
    elif shape.type_name == "string":
        yield from _text(value, shape, where)


def _text(value: str, shape: Any, where: str) -> Iterator[str]:
    if shape.enum and value not in shape.enum:
        yield f"{where}={value!r}: SageMaker does not know this value ({shape.name})"
    pattern = shape.metadata.get("pattern")
    if pattern and re.fullmatch(_python_pattern(pattern), value) is None:
        yield f"{where}={value!r}: must match {pattern}"


def _python_pattern(pattern: str) -> str:
    """Return a pattern of the service's model in Python's syntax, which lacks Java's named character classes."""
    for java, python in CLASSES.items():
        pattern = pattern.replace(java, python)
    # Some patterns end in a count after the end-of-line anchor, which means nothing; lengths are checked separately.
    return re.sub(r"\$\{\d+,\d+\}$", "", pattern)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
