"""From an approval to an endpoint: the rule's pattern, and the state machine, run on an emulated SageMaker."""

import json
import re
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import botocore.session
import pytest
from botocore.validate import ParamValidator
from moto.core.config import default_user_config

from .conftest import Account, definition
from .simulated import SageMaker
from .states_language import Machine

GROUP = "mammopipe"
ENDPOINT = "endpoint/mammopipe/variant/AllTraffic"


@pytest.fixture(scope="module")
def package(account: Account) -> str:
    sagemaker = account.client("sagemaker")
    if not sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"]:
        sagemaker.create_model_package_group(ModelPackageGroupName=GROUP)
    container = {"Image": "image", "ModelDataUrl": "s3://bucket/model.tar.gz"}
    made = sagemaker.create_model_package(
        ModelPackageGroupName=GROUP,
        ModelApprovalStatus="Approved",
        InferenceSpecification={
            "Containers": [container],
            "SupportedContentTypes": ["application/dicom"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    )
    return str(made["ModelPackageArn"])


def tasks(machine: dict[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield name, service, action and parameters of each call to AWS, also inside maps."""
    for name, state in machine["States"].items():
        if state["Type"] == "Map":
            yield from tasks(state["ItemProcessor"])
        if state["Type"] == "Task":
            match = re.fullmatch(r"arn:aws:states:::(?:aws-sdk:)?(\w+):(\w+)", state["Resource"])
            assert match is not None, state["Resource"]
            yield name, match[1], match[2], state["Parameters"]


@pytest.mark.parametrize("mode", ["realtime", "async", "both", "serverless"])
@pytest.mark.parametrize("logical", ["Deployment", "Scaling", "Expiry", "MonitorStart"])
def test_every_call_of_the_state_machines_fits_its_services_model(account: Account, mode: str, logical: str) -> None:
    services = {"applicationautoscaling": "application-autoscaling", "states": "stepfunctions"}
    given = {"Mode": mode, "CapturePercent": 10, "MonitorSchedule": "rate(7 days)"}
    names = {"MonitorRole.Arn": "arn:aws:iam::123456789012:role/mammopipe-monitor", **account.template.names}
    template = type(account.template)(given, names)
    machine = json.loads(template.resources("AWS::StepFunctions::StateMachine")[logical]["DefinitionString"])
    seen = set()
    for name, service, action, parameters in tasks(machine):
        model = botocore.session.get_session().get_service_model(services.get(service, service))
        operation = model.operation_model(action[0].upper() + action[1:])
        request = filled(parameters)
        if service == "states":  # its own integration takes an object, which it sends as text
            request = {key[0].lower() + key[1:]: value for key, value in request.items()}
            request["input"] = json.dumps(request["input"])
        report = ParamValidator().validate(request, operation.input_shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        seen.add(action)
    expected = {
        "Deployment": {"createModel", "createEndpoint", "updateEndpoint", "deregisterScalableTarget", "startExecution"},
        "Scaling": {"registerScalableTarget", "putScalingPolicy", "putMetricAlarm"},
        "Expiry": {"deregisterScalableTarget", "deleteAlarms", "deleteEndpoint"},
        "MonitorStart": {"describeModelPackage", "createProcessingJob"},
    }
    assert expected[logical] <= seen


LISTS = {"Alarms", "AlarmActions", "AlarmNames"}
"""Members whose value comes from the state and is a list."""


def filled(value: Any) -> Any:
    """Return parameters in which a sample name replaces every path."""
    if isinstance(value, list):
        return [filled(item) for item in value]
    if isinstance(value, dict):
        return {
            key.removesuffix(".$"): sample(key) if key.endswith(".$") else filled(item) for key, item in value.items()
        }
    return value


def sample(key: str) -> Any:
    name = key.removesuffix(".$")
    return ([{"AlarmName": "a"}] if name == "Alarms" else ["arn"]) if name in LISTS else "a-name"


def test_the_models_walls_are_those_of_the_network(account: Account) -> None:
    states = {name: parameters for name, _, _, parameters in tasks(definition(account))}
    model = states["ModelInVpc"]
    assert model["EnableNetworkIsolation"] is True
    vpc = {"Subnets": account.outputs["Subnets"].split(","), "SecurityGroupIds": [account.outputs["SecurityGroup"]]}
    assert model["VpcConfig"] == vpc and model["ExecutionRoleArn"] == account.outputs["ServingRole"]
    assert "VpcConfig" not in states["ModelServerless"], "serverless takes none"


def test_the_emulators_interpreter_agrees_with_ours(account: Account, package: str) -> None:
    machine = for_emulator(definition(account))
    # The emulator would run an execution started by another in parallel, and the test could not know when it ends.
    scale = machine["States"]["Each"]["ItemProcessor"]["States"].pop("Scale")
    assert scale["Parameters"]["Input"] == {"endpoint.$": "$.endpoint"}
    machine["States"]["Each"]["ItemProcessor"]["States"]["Scale"] = {"Type": "Succeed"}
    given = {"package": package, "time": "2026-01-01T00:00:00Z"}
    text = account.template.resources("AWS::StepFunctions::StateMachine")["Scaling"]["DefinitionString"]
    scaling = for_emulator(json.loads(text))
    # The emulator cannot write the dates of this answer as JSON.
    assert scaling["States"]["Config"]["Resource"].endswith(":describeEndpointConfig")
    described = {"variants": [{"InstanceType": "ml.m5.large"}], "queues": []}
    scaling["States"]["Config"] = {"Type": "Pass", "Result": described, "ResultPath": "$.is", "Next": "Kind"}
    cloud = SageMaker(lasts=0)
    cloud.add(package)
    for definition_, input_ in ((machine, given), (scaling, {"endpoint": "mammopipe"})):
        ours = Machine(lambda service, operation, given: cloud.answer(operation, given))
        ours.run(definition_, input_)
        assert execute(account, definition_, input_) == ("SUCCEEDED", ours.entered)
    sagemaker = account.client("sagemaker")
    found = sagemaker.describe_endpoint(EndpointName="mammopipe")
    config = sagemaker.describe_endpoint_config(EndpointConfigName=found["EndpointConfigName"])
    model = sagemaker.describe_model(ModelName=config["ProductionVariants"][0]["ModelName"])
    assert model["PrimaryContainer"]["ModelPackageName"] == package
    assert config["KmsKeyId"] == account.outputs["KmsKey"]
    scaling = account.client("application-autoscaling")
    (target,) = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (target["ResourceId"], target["MinCapacity"], target["MaxCapacity"]) == (ENDPOINT, 1, 4)
    (policy,) = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    assert policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 60


def for_emulator(machine: dict[str, Any]) -> dict[str, Any]:
    """Return a machine without waiting times; the emulator names services as boto3 does, AWS has its own names."""
    text = json.dumps(machine).replace('"Seconds": 60', '"Seconds": 0')
    return dict(json.loads(text.replace(":applicationautoscaling:", ":application-autoscaling:")))


def execute(account: Account, machine: dict[str, Any], given: dict[str, Any]) -> tuple[str, list[str]]:
    """Run a state machine to its end, and return its status and the states that it entered, in order."""
    client = account.client("stepfunctions")
    role = "arn:aws:iam::123456789012:role/mammopipe-deployment"
    # The emulator keeps machines that it can run apart from those created by CloudFormation.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(default_user_config, "stepfunctions", {"execute_state_machine": True})
        made = client.create_state_machine(name=f"run-{uuid4()}", definition=json.dumps(machine), roleArn=role)
        before = set(threading.enumerate())
        started = client.start_execution(stateMachineArn=made["stateMachineArn"], input=json.dumps(given))
        execution = {"executionArn": started["executionArn"]}
        for thread in set(threading.enumerate()) - before:
            thread.join(120)
        while (status := client.describe_execution(**execution)["status"]) == "RUNNING":
            pass
        events = client.get_execution_history(**execution)["events"]
    entered = [event["stateEnteredEventDetails"]["name"] for event in events if "stateEnteredEventDetails" in event]
    return str(status), entered


@pytest.mark.parametrize(
    ("status", "group", "expected"),
    [
        ("Approved", GROUP, True),
        ("Rejected", GROUP, False),
        ("PendingManualApproval", GROUP, False),
        ("Approved", "other", False),
    ],
)
def test_only_an_approval_in_the_group_passes_the_rule(
    account: Account, status: str, group: str, expected: bool
) -> None:
    events, queues = account.client("events"), account.client("sqs")
    pattern = events.describe_rule(Name="mammopipe-approved")["EventPattern"]
    queue = queues.create_queue(QueueName=f"seen-{uuid4()}")["QueueUrl"]
    arn = queues.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    bus = {"EventBusName": f"bus-{uuid4()}"}
    events.create_event_bus(Name=bus["EventBusName"])
    events.put_rule(Name="seen", EventPattern=pattern, **bus)
    events.put_targets(Rule="seen", Targets=[{"Id": "queue", "Arn": arn}], **bus)
    detail = {"ModelPackageGroupName": group, "ModelApprovalStatus": status, "ModelPackageArn": "arn"}
    sent = {"Source": "aws.sagemaker", "DetailType": "SageMaker Model Package State Change"}
    events.put_events(Entries=[sent | bus | {"Detail": json.dumps(detail)}])
    assert ("Messages" in queues.receive_message(QueueUrl=queue)) is expected


def test_the_rule_hands_the_package_to_the_state_machine(account: Account) -> None:
    (target,) = account.client("events").list_targets_by_rule(Rule="mammopipe-approved")["Targets"]
    assert target["Arn"] == account.outputs["Deployment"]
    given = target["InputTransformer"]
    assert given["InputPathsMap"] == {"package": "$.detail.ModelPackageArn", "time": "$.time"}
    template = given["InputTemplate"].replace("<package>", "arn").replace("<time>", "now")
    assert json.loads(template) == {"package": "arn", "time": "now"}
    assert target["DeadLetterConfig"]["Arn"].endswith(":mammopipe-undelivered-approvals")
