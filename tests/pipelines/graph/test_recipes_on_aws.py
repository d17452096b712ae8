"""Each shipped recipe on AWS: its requests are valid by the service's model, and the doctor checks its quotas."""

from typing import Any

import pytest
from botocore.validate import ParamValidator

from mammopipe.pipelines.config.recipes import recipes
from mammopipe.pipelines.doctor.findings import Account, Severity
from mammopipe.pipelines.doctor.quotas import _instances_needed, check_quotas
from mammopipe.pipelines.graph.requests import service_model
from tests.pipelines.compiled import CLOSED, Compiled

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module", params=[recipe.name for recipe in recipes()])
def recipe(request: pytest.FixtureRequest, no_network: None) -> Compiled:
    return Compiled({"recipe": request.param, "security": CLOSED})


def test_every_request_is_what_the_service_takes(recipe: Compiled) -> None:
    for asked in recipe.asked:
        shape = service_model().operation_model(asked.operation).input_shape
        report = ParamValidator().validate(asked.request, shape)
        assert not report.has_errors(), f"{asked.step}: {report.generate_report()}"
    assert {asked.kind for asked in recipe.asked} >= {"Processing", "Training", "RegisterModel", "Endpoint"}


def test_the_jobs_run_where_and_as_long_as_the_recipe_says(recipe: Compiled) -> None:
    compute = recipe.config.compute
    for request in recipe.requests("Training").values():
        where = request["ResourceConfig"]
        assert (where["InstanceType"], where["InstanceCount"], where["VolumeSizeInGB"]) == (
            compute.training_instance_type, compute.training_instance_count, compute.training_volume_gb
        )  # fmt: skip
        assert request["StoppingCondition"]["MaxRuntimeInSeconds"] == compute.training_max_runtime_seconds
        modes = {item["ChannelName"]: item.get("InputMode", "File") for item in request["InputDataConfig"]}
        assert modes["train"] == modes["validation"] == compute.input_mode
    for request in recipe.requests("Processing").values():
        where = request["ProcessingResources"]["ClusterConfig"]
        assert (where["InstanceType"], where["VolumeSizeInGB"]) == (
            compute.processing_instance_type, compute.processing_volume_gb
        )  # fmt: skip
        assert request["StoppingCondition"]["MaxRuntimeInSeconds"] == compute.processing_max_runtime_seconds


class Quotas:
    """A session of an account with these quotas."""

    region_name = "us-east-1"

    def __init__(self, quotas: dict[str, float]) -> None:
        self.quotas = quotas

    def client(self, service: str, **options: Any) -> "Quotas":
        assert service == "service-quotas"
        return self

    def get_paginator(self, operation: str) -> "Quotas":
        return self

    def paginate(self, **request: str) -> list[dict[str, Any]]:
        return [{"Quotas": [{"QuotaName": name, "Value": value} for name, value in self.quotas.items()]}]


def test_the_doctor_asks_for_the_instances_of_the_recipe_and_blocks_where_one_is_missing(recipe: Compiled) -> None:
    most = {name: float(count) for name, (_, count) in _instances_needed(recipe.config).items()}
    compute = recipe.config.compute
    assert most[f"{compute.training_instance_type} for training job usage"] == len(recipe.requests("Training"))

    def verdicts(quotas: dict[str, float]) -> dict[str, Severity]:
        account = Account(recipe.config, Quotas(quotas), "123456789012")
        return {finding.subject: finding.verdict for finding in check_quotas(account)}

    assert set(verdicts(most).values()) == {Severity.GOOD}
    for name in most:
        found = verdicts({**most, name: 0.0})
        assert found.pop(name) is Severity.BLOCKS and set(found.values()) == {Severity.GOOD}
