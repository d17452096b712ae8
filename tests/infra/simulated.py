"""A simulated SageMaker for the state machine: endpoints that move from status to status, and AWS's refusals.

Sources: UpdateEndpoint and CreateEndpoint (API reference), "Update a serverless endpoint" and "Update endpoints that
use automatic scaling" (SageMaker Developer Guide).
"""

from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from .states_language import Machine


def mode_of(config: dict[str, Any]) -> str:
    """Return the mode of an endpoint configuration."""
    if "ServerlessConfig" in config["ProductionVariants"][0]:
        return "serverless"
    return "async" if "AsyncInferenceConfig" in config else "realtime"


@dataclass
class SageMaker:
    """An account's models and endpoints."""

    packages: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    endpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    policies: list[dict[str, Any]] = field(default_factory=list)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    scaling: dict[str, Any] = field(default_factory=dict)
    """The state machine that registers an endpoint for autoscaling."""
    jobs: list[dict[str, Any]] = field(default_factory=list)
    lasts: int = 1
    """Number of status requests during which an endpoint is still being changed."""

    def add(self, package: str, status: str = "Approved", modified: str = "") -> str:
        """Register a package and return its ARN."""
        fields = {"ModelApprovalStatus": status, **({"LastModifiedTime": modified} if modified else {})}
        self.packages[package] = fields
        return package

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a call, or raise what SageMaker raises."""
        self.calls.append(operation)
        return dict(getattr(self, f"_{operation}")(given) or {})

    def serves(self, endpoint: str) -> list[str]:
        """Deliver the event that an endpoint is in service; return the states that the scaling machine entered."""
        machine = Machine(lambda service, operation, given: self.answer(operation, given))
        machine.run(self.scaling, {"endpoint": endpoint})
        return machine.entered

    def _StartExecution(self, given: dict[str, Any]) -> None:
        assert given["StateMachineArn"].endswith(":mammopipe-scale"), given
        self.serves(given["Input"]["endpoint"])

    def _CreateProcessingJob(self, given: dict[str, Any]) -> None:
        self.jobs.append(given)

    def _DescribeModelPackage(self, given: dict[str, Any]) -> dict[str, Any]:
        return self.packages[given["ModelPackageName"]]

    def _CreateModel(self, given: dict[str, Any]) -> None:
        _new(self.models, given["ModelName"], given, "model")

    def _DescribeModel(self, given: dict[str, Any]) -> dict[str, Any]:
        return self.models[given["ModelName"]]

    def _CreateEndpointConfig(self, given: dict[str, Any]) -> None:
        serverless = mode_of(given) == "serverless"
        if serverless and (
            given.get("KmsKeyId") or self.models[given["ProductionVariants"][0]["ModelName"]].get("VpcConfig")
        ):
            raise refusal("CreateEndpointConfig", "serverless takes neither a key nor a VPC")
        _new(self.configs, given["EndpointConfigName"], given, "endpoint configuration")

    def _DescribeEndpointConfig(self, given: dict[str, Any]) -> dict[str, Any]:
        return self.configs[given["EndpointConfigName"]]

    def _CreateEndpoint(self, given: dict[str, Any]) -> None:
        new = {"EndpointStatus": "Creating", "EndpointConfigName": given["EndpointConfigName"], "left": self.lasts}
        _new(self.endpoints, given["EndpointName"], new, "endpoint")

    def _DescribeEndpoint(self, given: dict[str, Any]) -> dict[str, Any]:
        found = self.endpoints.get(given["EndpointName"])
        if found is None:
            raise refusal("DescribeEndpoint", f'Could not find endpoint "{given["EndpointName"]}"')
        if found["EndpointStatus"].endswith("ing"):
            found["left"] -= 1
            if found["left"] < 0:
                found |= {
                    "EndpointStatus": "InService",
                    "EndpointConfigName": found.get("next", found["EndpointConfigName"]),
                }
        return {key: value for key, value in found.items() if key in ("EndpointStatus", "EndpointConfigName")}

    def _UpdateEndpoint(self, given: dict[str, Any]) -> None:
        endpoint = self.endpoints[given["EndpointName"]]
        before, after = (self.configs[name] for name in (endpoint["EndpointConfigName"], given["EndpointConfigName"]))
        if endpoint["EndpointStatus"] != "InService":
            raise refusal("UpdateEndpoint", "Cannot update in-progress endpoint")
        if mode_of(before) != mode_of(after):
            raise refusal("UpdateEndpoint", f"{mode_of(before)} to {mode_of(after)} is not supported")
        if mode_of(after) == "serverless" and "DeploymentConfig" in given:
            raise refusal("UpdateEndpoint", "guardrails apply to real-time and asynchronous endpoints")
        types = {config["ProductionVariants"][0].get("InstanceType") for config in (before, after)}
        if len(types) > 1 and f"endpoint/{given['EndpointName']}/variant/AllTraffic" in self.targets:
            raise refusal("UpdateEndpoint", "the variant is a target of autoscaling")
        self.updates.append(given)
        endpoint |= {"EndpointStatus": "Updating", "next": given["EndpointConfigName"], "left": self.lasts}

    def _RegisterScalableTarget(self, given: dict[str, Any]) -> None:
        self.targets[given["ResourceId"]] = given

    def _DeregisterScalableTarget(self, given: dict[str, Any]) -> None:
        if given["ResourceId"] not in self.targets:
            raise refusal("DeregisterScalableTarget", "No scalable target found")
        del self.targets[given["ResourceId"]]

    def _PutScalingPolicy(self, given: dict[str, Any]) -> dict[str, Any]:
        self.policies.append(given)
        return {"PolicyARN": f"arn:{given['PolicyName']}"}

    def _PutMetricAlarm(self, given: dict[str, Any]) -> None:
        self.alarms.append(given)


def refusal(operation: str, message: str) -> ClientError:
    """Return the error that SageMaker raises for any wrong request."""
    answer = {"Code": "ValidationException", "Message": message}
    return ClientError({"Error": answer, "ResponseMetadata": {"HTTPStatusCode": 400, "RequestId": "1"}}, operation)


def _new(kept: dict[str, Any], name: str, what: dict[str, Any], kind: str) -> None:
    if name in kept:
        raise refusal("Create", f"Cannot create already existing {kind}")
    kept[name] = what
