"""Definitions compiled for AWS in every way that a run there is configured, with the requests that they stand for."""

import json
from collections.abc import Mapping
from typing import Any

import botocore.session

from mammopipe.pipelines import PipelineConfig, build_pipeline
from mammopipe.pipelines.backends.expressions import Scope, resolve
from mammopipe.pipelines.backends.supported import all_steps
from mammopipe.pipelines.graph.parameters import resolve_parameters

MODEL = botocore.session.get_session().get_service_model("sagemaker")
OPERATIONS = {
    "Processing": ("CreateProcessingJob", {"ProcessingJobName": "job"}, "DescribeProcessingJob"),
    "Training": ("CreateTrainingJob", {"TrainingJobName": "job"}, "DescribeTrainingJob"),
    "Model": ("CreateModel", {"ModelName": "model"}, "DescribeModel"),
    "RegisterModel": ("CreateModelPackage", {}, "DescribeModelPackage"),
    "EndpointConfig": ("CreateEndpointConfig", {}, "DescribeEndpointConfig"),
    "Endpoint": ("CreateEndpoint", {}, "DescribeEndpoint"),
}
"""Of each step type: the call it makes, the names that Pipelines adds, and the call whose answer are its properties."""
KEY = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
ROLE = "arn:aws:iam::123456789012:role/mammopipe-"
CLOSED: Mapping[str, Any] = {
    "role": f"{ROLE}pipeline",
    "processing_role": f"{ROLE}processing",
    "training_role": f"{ROLE}training",
    "serving_role": f"{ROLE}serving",
    "kms_key": KEY,
    "subnets": ["subnet-1111", "subnet-2222"],
    "security_groups": ["sg-1111"],
}
CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "gpu": {"security": CLOSED, "compute": {"cache": "P30D"}},
    "spot": {
        "security": CLOSED,
        "compute": {"training_instance_type": "ml.p3.2xlarge", "spot": True, "cache": "P30D"},
        "endpoint": {"mode": "both"},
        "pretrained": True,
    },
    "cluster": {
        "security": CLOSED,
        "dataset": "rsna",
        "compute": {
            "processing_instance_count": 4,
            "distribution": "ShardedByS3Key",
            "training_instance_type": "ml.p3.16xlarge",
            "training_instance_count": 2,
            "keep_alive_seconds": 1800,
            "cache": "P30D",
        },
        "endpoint": {"capture_percent": 10, "rollback_alarms": ["mammopipe-5xx", "mammopipe-latency"]},
    },
    "serverless": {"security": CLOSED, "endpoint": {"mode": "serverless"}, "compute": {"cache": "P30D"}},
}


class Compiled:
    """A definition, and the requests that it stands for."""

    def __init__(self, values: Mapping[str, Any]):
        self.config = PipelineConfig.load(**values)
        self.text = build_pipeline(self.config).definition()
        self.definition = json.loads(self.text)
        self.steps = {step["Name"]: step for step in all_steps(self.definition["Steps"])}
        execution = {"PipelineExecutionId": "abcdefghijkl", "PipelineName": self.config.name}
        known = {name: properties(step) for name, step in self.steps.items() if step["Type"] in OPERATIONS}
        documents = {(name, file["PropertyFileName"]): DOCUMENTS[file["FilePath"]]
                     for name, step in self.steps.items() for file in step.get("PropertyFiles", [])}  # fmt: skip
        self.scope = Scope(resolve_parameters(self.definition, {}), execution, known, documents)

    def requests(self, *kinds: str) -> dict[str, dict[str, Any]]:
        """Return the request of every step of these types, complete."""
        return {
            name: OPERATIONS[step["Type"]][1] | resolve(step["Arguments"], self.scope)
            for name, step in self.steps.items()
            if step["Type"] in (kinds or OPERATIONS)
        }


EVALUATION = {
    "leakage": {"passed": True, "verdict": "nothing crosses"},
    "protocol": "patient",
    "protocol_verdict": "splits by patient",
    "selected": {
        "cnn": "alexnet",
        "figure": "0.5120",
        "validation": {"macro_auc": {"value": 0.512}},
        "test": {"macro_auc": {"value": 0.5}},
    },
}
DOCUMENTS = {"evaluation.json": EVALUATION, "registration.json": {"model_card": "{}"}}
"""What the jobs write, by the name of the file."""


def properties(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of a step's properties that are shaped as the service's answer and named as the request names."""
    shape = MODEL.operation_model(OPERATIONS[step["Type"]][2]).output_shape
    made: dict[str, Any] = sample(shape)
    outputs = step["Arguments"].get("ProcessingOutputConfig", {}).get("Outputs", [])
    if outputs:
        made["ProcessingOutputConfig"]["Outputs"] = [
            {"OutputName": item["OutputName"], "S3Output": {"S3Uri": f"s3://bucket/{item['OutputName']}"}}
            for item in outputs
        ]
    return made


def sample(shape: Any, depth: int = 0) -> Any:
    """Return a value of a botocore shape: every member of a structure, nothing in lists and maps."""
    if shape.type_name == "structure":
        return {name: sample(member, depth + 1) for name, member in shape.members.items()} if depth < 5 else {}
    values: dict[str, Any] = {"list": [], "map": {}, "integer": 1, "long": 1, "float": 1.0, "boolean": True}
    return values.get(shape.type_name, f"s3://bucket/{shape.name}" if "S3" in shape.name else "a-name")
