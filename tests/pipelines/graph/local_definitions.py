"""Configurations to compile without credentials, and the requests of the compiled steps."""

from collections.abc import Iterator
from typing import Any

from mammopipe.pipelines.backends.expressions import Scope, resolve
from mammopipe.pipelines.backends.supported import all_steps
from mammopipe.pipelines.graph.parameters import resolve_parameters

OPERATIONS = {
    "Processing": ("CreateProcessingJob", "ProcessingJobName"),
    "Training": ("CreateTrainingJob", "TrainingJobName"),
    "Model": ("CreateModel", "ModelName"),
    "RegisterModel": ("CreateModelPackage", None),
    "EndpointConfig": ("CreateEndpointConfig", None),
    "Endpoint": ("CreateEndpoint", None),
}
KEY = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "full": {"profile": "full"},
    "everything": {
        "dataset": "rsna",
        "pretrained": True,
        "security": {
            "kms_key": KEY,
            "subnets": ["subnet-12345678"],
            "security_groups": ["sg-12345678"],
        },
        "compute": {
            "training_instance_type": "ml.p3.2xlarge",
            "spot": True,
            "cache": "P30D",
            "distribution": "ShardedByS3Key",
            "processing_instance_count": 3,
        },
    },
    "no endpoint": {"deploy": False, "cnns": ["alexnet"]},
    "async": {
        "endpoint": {
            "mode": "async",
            "async_concurrent": 12,
            "async_max_seconds": 600,
            "async_success_topic": "arn:aws:sns:eu-west-1:123456789012:films-done",
        },
        "security": {"kms_key": KEY},
    },
    "fold jobs": {
        "cnns": ["resnet50", "modified_cnn"],
        "training": {"folds": 4},
        "compute": {"fold_jobs": True, "training_jobs": 3},
        "deploy": False,
    },
    "own settings": {"per_cnn": {"alexnet": {"learning_rate": 1e-4, "pooling": "mean"}}},
    "both": {"endpoint": {"mode": "both", "name": "films"}, "cnns": ["alexnet"]},
}
EVALUATION = {
    "protocol": "patient",
    "protocol_verdict": "patient, all images of one in one split",
    "leakage": {"passed": True, "verdict": "nothing crosses"},
    "selected": {
        "cnn": "alexnet",
        "figure": "0.5120",
        "validation": {"macro_auc": {"value": 0.512}},
        "test": {"macro_auc": {"value": 0.5}},
    },
}


def filled(compiled: dict[str, Any]) -> Scope:
    execution = {"PipelineExecutionId": "abcdefghijkl"}
    scope = Scope(resolve_parameters(compiled, {}), execution)
    scope.documents["Evaluate", "EvaluationReport"] = EVALUATION
    return scope


def requests(compiled: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield every step with its request, in which references are resolved from the requests of earlier steps."""
    scope = filled(compiled)
    for step in all_steps(compiled["Steps"]):
        if step["Type"] == "Condition":
            continue
        request = resolve(step["Arguments"], scope)
        name = OPERATIONS.get(step["Type"], ("", None))[1]
        if name:
            request[name] = f"pipelines-abcdefghijkl-{step['Name']}"
        artefacts = {"ModelArtifacts": {"S3ModelArtifacts": f"s3://mammopipe/{step['Name']}/model.tar.gz"}}
        scope.steps[step["Name"]] = {**request, **artefacts}
        yield step, request


def steps_of(compiled: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["Name"]: step for step in all_steps(compiled["Steps"])}
