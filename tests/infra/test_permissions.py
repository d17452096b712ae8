"""The stack's roles have the permissions that a compiled pipeline needs, for every combination of options."""

import itertools
import json
from collections import Counter
from typing import Any

import pytest

from mammopipe.pipelines import PipelineConfig, build_pipeline
from mammopipe.pipelines.graph.parameters import resolve_parameters
from mammopipe.pipelines.graph.permissions import AccountAndRegion, Need, needed

from .conftest import REGION, Account
from .policies import allowed

PLACE = AccountAndRegion("123456789012", REGION)


def configuration(account: Account, *parts: dict[str, Any]) -> PipelineConfig:
    """Return a configuration with the stack's outputs and these options."""
    out = account.outputs
    values: dict[str, Any] = {
        "cnns": ["alexnet"],
        "storage": {"bucket": out["Bucket"], "prefix": out["Prefix"]},
        "security": {
            "role": out["PipelineRole"],
            "processing_role": out["ProcessingRole"],
            "training_role": out["TrainingRole"],
            "serving_role": out["ServingRole"],
            "kms_key": out["KmsKey"],
            "subnets": out["Subnets"].split(","),
            "security_groups": [out["SecurityGroup"]],
        },
        "images": {name: f"{out[f'{name.title()}Image']}:tag" for name in ("processing", "training", "serving")},
        "registry": {"group": out["PackageGroup"]},
        "endpoint": {"name": out["EndpointName"]},
    }
    for part in parts:
        for key, value in part.items():
            values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return PipelineConfig.load(**values)


EARLIER = "s3://mammopipe-123456789012-eu-central-1/mammopipe/executions/abcdefghijkl"
BATCH = {"input": "s3://mammopipe-123456789012-eu-central-1/mammopipe/batch/today"}
OPTIONS: list[list[dict[str, Any]]] = [
    [{"endpoint": {"mode": mode}} for mode in ("realtime", "async", "both", "serverless")] + [{"deploy": False}],
    [
        {"pretrained": True},
        {"data": {"patient_salt": "0123456789abcdef"}, "init": f"{EARLIER}/models/alexnet/job/output/model.tar.gz"},
    ],
    [
        {"compute": {"cache": "P30D"}},
        {"compute": {"spot": True, "training_instance_type": "ml.p3.2xlarge"}},
        {"compute": {"processing_instance_count": 2, "distribution": "ShardedByS3Key", "training_instance_count": 2}},
    ],
    [
        {"dataset": "mias"},
        {
            "dataset": "rsna",
            "tuning": {"ranges": {"dropout": "uniform(0,0.5)"}},
            "transform": BATCH,
            "init": f"{EARLIER}/model/model.tar.gz",
        },
    ],
]
"""The options that change what a job reads, writes or runs, or its network."""


@pytest.fixture(scope="module")
def needs(account: Account) -> dict[tuple[int, ...], set[tuple[Any, ...]]]:
    """The permissions that any combination needs, each once."""
    found = {}
    for numbers in itertools.product(*(range(len(choices)) for choices in OPTIONS)):
        config = configuration(account, *(choices[number] for choices, number in zip(OPTIONS, numbers, strict=True)))
        definition = json.loads(build_pipeline(config).definition())
        values = resolve_parameters(definition, {})
        found[numbers] = {frozen(need) for need in needed(config, definition, values, PLACE)}
    return found


def frozen(need: Need) -> tuple[Any, ...]:
    return need.role, need.action, need.resource, need.why, tuple(sorted(need.context.items()))


def refused(account: Account, needs: set[tuple[Any, ...]]) -> list[str]:
    documents = {duty: account.role_documents(duty) for duty in ("pipeline", "processing", "training", "serving")}
    return [
        f"{role.rpartition('/')[2]}: {action} on {resource} for {why}"
        for role, action, resource, why, context in sorted(needs)
        if not allowed(
            documents[role.rpartition("-")[2]],
            action,
            resource,
            **{key.replace(":", "__"): value for key, value in context},
        )
    ]


def test_the_stacks_roles_may_do_all_that_any_combination_of_options_needs(
    account: Account, needs: dict[tuple[int, ...], set[tuple[Any, ...]]]
) -> None:
    together = set.union(*needs.values())
    assert len(needs) == 60 and len(together) > 150
    assert refused(account, together) == []
    actions = Counter(action.partition(":")[0] for _, action, *_ in together)
    assert actions.keys() >= {"ecr", "s3", "kms", "logs", "ec2", "iam", "sagemaker", "cloudwatch"}


@pytest.mark.parametrize(
    ("duty", "lost", "missed"),
    [
        ("processing", "ecr:BatchGetImage", "ecr:BatchGetImage"),
        ("processing", "s3:PutObject", "s3:PutObject"),
        ("training", "s3:GetObject", "s3:GetObject"),
        ("serving", "s3:ListBucket", "s3:ListBucket"),
        ("pipeline", "iam:PassRole", "iam:PassRole"),
        ("training", "ec2:CreateNetworkInterface", "ec2:CreateNetworkInterface"),
        ("processing", "kms:CreateGrant", "kms:CreateGrant"),
        ("pipeline", "sagemaker:CreateEndpoint", "sagemaker:CreateEndpoint"),
        (
            "pipeline",
            "sagemaker:CreateHyperParameterTuningJob",
            "sagemaker:CreateHyperParameterTuningJob",
        ),
        ("pipeline", "sagemaker:CreateTransformJob", "sagemaker:CreateTransformJob"),
        ("serving", "s3:PutObject", "s3:PutObject"),
    ],
)
def test_a_permission_that_is_taken_away_is_missed(
    account: Account, needs: dict[tuple[int, ...], set[tuple[Any, ...]]], duty: str, lost: str, missed: str
) -> None:
    ours = [item for item in set.union(*needs.values()) if item[0].endswith(f"-{duty}") and item[1] == missed]
    assert ours, "nobody asks for it"
    documents = account.role_documents(duty)
    deny = {"Statement": [{"Effect": "Deny", "Action": lost, "Resource": "*"}]}
    assert not allowed([*documents, deny], missed, ours[0][2], **{k.replace(":", "__"): v for k, v in ours[0][4]})


def test_a_run_never_needs_the_clinics_endpoint(needs: dict[tuple[int, ...], set[tuple[Any, ...]]]) -> None:
    touched = {resource for item in needs.values() for _, action, resource, *_ in item if ":endpoint/" in resource}
    assert touched and all(":endpoint/mammopipe-candidate" in resource for resource in touched)
