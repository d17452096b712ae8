"""Definitions compiled for the different ways to configure a run on AWS, with the requests of their steps."""

import json
from collections.abc import Mapping
from typing import Any

from mammopipe.pipelines import PipelineConfig, build_pipeline
from mammopipe.pipelines.backends.expressions import Scope
from mammopipe.pipelines.backends.supported import all_steps
from mammopipe.pipelines.graph.parameters import resolve_parameters
from mammopipe.pipelines.graph.requests import CALLS, EXECUTION, resolved

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
    """A compiled definition, and the requests of its steps."""

    def __init__(self, values: Mapping[str, Any]):
        self.config = PipelineConfig.load(**values)
        self.text = build_pipeline(self.config).definition()
        self.definition = json.loads(self.text)
        self.steps = {step["Name"]: step for step in all_steps(self.definition["Steps"])}
        documents = {
            (name, file["PropertyFileName"]): DOCUMENTS[file["FilePath"]]
            for name, step in self.steps.items()
            for file in step.get("PropertyFiles", [])
        }
        self.parameters = resolve_parameters(self.definition, {})
        self.scope = Scope(self.parameters, EXECUTION, {}, documents)
        self.asked = resolved(self.definition, self.scope)

    def requests(self, *kinds: str) -> dict[str, dict[str, Any]]:
        """Return the complete request of every step of these types."""
        return {item.step: item.request for item in self.asked if item.kind in (kinds or CALLS)}


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
"""The contents of the files that jobs write, by file name."""
