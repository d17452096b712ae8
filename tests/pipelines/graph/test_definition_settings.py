"""Each setting changes the compiled definition as documented; nothing here reaches a network or needs credentials."""

import json
from typing import Any

import pytest

from mammopipe.pipelines import PipelineConfig, build_pipeline
from mammopipe.processing.errors import ConfigError
from tests.pipelines.graph.local_definitions import CONFIGURATIONS, KEY, requests, steps_of

pytestmark = pytest.mark.usefixtures("no_network")


def test_each_network_is_given_its_own_settings() -> None:
    own = {"learning_rate": 1e-4, "label_smoothing": 0.0}
    definition = json.loads(build_pipeline(PipelineConfig.load(per_cnn={"alexnet": own})).definition())
    given = {
        name: step["Arguments"]["HyperParameters"]
        for name, step in steps_of(definition).items()
        if step["Type"] == "Training"
    }
    shared = PipelineConfig().training
    assert (given["Train-alexnet"]["learning_rate"], given["Train-alexnet"]["label_smoothing"]) == ("0.0001", "0.0")
    for name in ("Train-resnet50", "Train-modified-cnn"):
        assert given[name]["learning_rate"] == str(shared.learning_rate)
        assert given[name]["label_smoothing"] == str(shared.label_smoothing)


def test_keys_walls_spot_and_cache_appear_when_they_are_configured() -> None:
    compiled = json.loads(build_pipeline(PipelineConfig.load(**CONFIGURATIONS["everything"])).definition())
    requested = {step["Name"]: request for step, request in requests(compiled)}
    train, prepare = requested["Train-alexnet"], requested["Prepare"]
    assert train["OutputDataConfig"]["KmsKeyId"] == train["ResourceConfig"]["VolumeKmsKeyId"] == KEY
    assert prepare["ProcessingOutputConfig"]["KmsKeyId"] == KEY
    assert requested["EndpointConfig"]["KmsKeyId"] == KEY
    for vpc in (train["VpcConfig"], prepare["NetworkConfig"]["VpcConfig"], requested["Model"]["VpcConfig"]):
        assert vpc == {"SecurityGroupIds": ["sg-12345678"], "Subnets": ["subnet-12345678"]}
    assert train["EnableManagedSpotTraining"] and train["StoppingCondition"]["MaxWaitTimeInSeconds"] == 36 * 3600
    inputs = {item["InputName"]: item["S3Input"]["S3DataDistributionType"] for item in prepare["ProcessingInputs"]}
    assert inputs["images"] == "ShardedByS3Key"
    assert [channel["ChannelName"] for channel in train["InputDataConfig"]][-1] == "weights"
    assert steps_of(compiled)["Prepare"]["CacheConfig"] == {"Enabled": True, "ExpireAfter": "P30D"}


def test_the_registered_package_carries_what_it_was_held_to() -> None:
    compiled = json.loads(build_pipeline(PipelineConfig.load(profile="full")).definition())
    register = {step["Name"]: request for step, request in requests(compiled)}["Register"]
    facts = register["CustomerMetadataProperties"]
    assert facts["profile"] == "full" and facts["min_macro_auc"] == "0.6"
    assert register["ModelApprovalStatus"] == "PendingManualApproval"
    statistics = register["ModelMetrics"]["ModelQuality"]["Statistics"]
    assert statistics["S3Uri"].endswith("/evaluation/evaluation.json")
    assert facts["model_card"].endswith("/evaluation/model_card.md")
    assert facts["registration"].endswith("/evaluation/registration.json")


@pytest.mark.parametrize(
    ("changes", "protocol", "copied"),
    [
        ({}, "patient", "train"),
        ({"training": {"folds": 3}}, "patient", "development"),
        ({"data": {"protocol": "film"}}, "film", "train"),
        ({"data": {"protocol": "published"}, "training": {"folds": 3}}, "published", "all"),
    ],
)
def test_protocol_and_folds_decide_what_is_divided_and_copied(
    changes: dict[str, Any], protocol: str, copied: str
) -> None:
    config = PipelineConfig.load(cnns=["alexnet"], deploy=False, **changes)
    compiled = json.loads(build_pipeline(config).definition())
    requested = {step["Name"]: request for step, request in requests(compiled)}
    words = {name: requested[name]["AppSpecification"]["ContainerArguments"] for name in ("Prepare", "Augment")}
    assert words["Prepare"][words["Prepare"].index("--protocol") + 1] == protocol
    assert words["Augment"][words["Augment"].index("--copies-of") + 1] == copied
    assert requested["Register"]["CustomerMetadataProperties"]["protocol"] == protocol


def test_the_figure_that_chooses_reaches_training_evaluation_and_gate() -> None:
    chosen = {"choose_by": "pf1", "choose_level": "breast", "min_choice": 0.3}
    config = PipelineConfig.load(cnns=["alexnet"], deploy=False, evaluation=chosen)
    compiled = json.loads(build_pipeline(config).definition())
    requested = {step["Name"]: request for step, request in requests(compiled)}
    hyperparameters = requested["Train-alexnet"]["HyperParameters"]
    assert (hyperparameters["choose_by"], hyperparameters["choose_level"]) == ("pf1", "breast")
    words = requested["Evaluate"]["AppSpecification"]["ContainerArguments"]
    assert words[words.index("--choose-by") + 1] == "pf1" and words[words.index("--min-choice") + 1] == "0.3"
    gate = steps_of(compiled)["Gate"]["Arguments"]["Conditions"]
    assert gate[-1]["RightValue"] == 0.3
    assert gate[-1]["LeftValue"]["Std:JsonGet"]["Path"] == "selected.choice.value"
    assert "a probabilistic F1 by breast of at least 0.3" in json.dumps(steps_of(compiled)["Fail"])
    with pytest.raises(ConfigError, match=r"training.choose_by is set by evaluation.choose_by"):
        PipelineConfig.load(training={"choose_by": "pf1"})


def test_each_fold_is_a_training_job_and_only_so_many_run_at_once() -> None:
    config = PipelineConfig.load(**CONFIGURATIONS["fold jobs"])
    compiled = json.loads(build_pipeline(config).definition())
    steps, requested = steps_of(compiled), {step["Name"]: request for step, request in requests(compiled)}
    trained = [f"Train-{cnn}-fold-{fold}" for cnn in ("resnet50", "modified-cnn") for fold in range(4)]
    assert [name for name in steps if name.startswith("Train-")] == trained
    assert [steps[name].get("DependsOn", []) for name in trained] == [[]] * 3 + [[name] for name in trained[:5]]
    assert [requested[name]["HyperParameters"]["fold"] for name in trained] == [str(fold) for fold in range(4)] * 2
    folders = {item["InputName"]: item["S3Input"]["LocalPath"] for item in requested["Evaluate"]["ProcessingInputs"]}
    assert folders["model-modified_cnn-fold-3"] == "/opt/ml/processing/input/models/modified_cnn/fold-3"
    for changes, message in (
        ({"compute": {"fold_jobs": True}}, "needs training.folds of at least 2"),
        ({"compute": {"fold_jobs": True}, "training": {"folds": 3}}, "are 9 models, and Evaluate reads at most 8"),
        ({"compute": {"fold_jobs": True}, "training": {"folds": 3}, "cnns": ["alexnet"]}, "cannot be part of"),
    ):
        with pytest.raises(ConfigError, match=message):
            PipelineConfig.load(**changes)


def deployed(name: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    compiled = json.loads(build_pipeline(PipelineConfig.load(**CONFIGURATIONS[name])).definition())
    return compiled, {step["Name"]: request for step, request in requests(compiled)}


def test_an_async_endpoint_takes_exams_from_s3_without_a_network_of_its_own() -> None:
    _, requested = deployed("async")
    model, settings = requested["Model-async"], requested["EndpointConfig-async"]
    assert model["EnableNetworkIsolation"] is True
    assert model["PrimaryContainer"]["Environment"] == {
        "MAMMOPIPE_MAX_BYTES": "1073741824",
        "MAMMOPIPE_MAX_SECONDS": "600",
        "MAMMOPIPE_MAX_WAITING": "12",
    }
    assert settings["AsyncInferenceConfig"] == {
        "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 12},
        "OutputConfig": {
            "S3OutputPath": "s3://mammopipe/mammopipe/async/mammopipe-candidate/output",
            "S3FailurePath": "s3://mammopipe/mammopipe/async/mammopipe-candidate/failures",
            "NotificationConfig": {"SuccessTopic": "arn:aws:sns:eu-west-1:123456789012:films-done"},
            "KmsKeyId": KEY,
        },
    }
    assert requested["Endpoint-async"]["EndpointName"] == "mammopipe-candidate"
    assert "Endpoint" not in requested and "Model" not in requested


def test_both_are_two_endpoints_of_one_artefact() -> None:
    compiled, requested = deployed("both")
    assert (requested["Endpoint"]["EndpointName"], requested["Endpoint-async"]["EndpointName"]) == (
        "films-candidate",
        "films-candidate-async",
    )
    assert "AsyncInferenceConfig" not in requested["EndpointConfig"]
    output = requested["EndpointConfig-async"]["AsyncInferenceConfig"]["OutputConfig"]
    assert output["S3OutputPath"] == "s3://mammopipe/mammopipe/async/films-candidate-async/output"
    containers = [requested[name]["PrimaryContainer"] for name in ("Model", "Model-async")]
    assert containers[0]["ModelDataUrl"] == containers[1]["ModelDataUrl"]
    assert "MAMMOPIPE_MAX_BYTES" not in containers[0].get("Environment", {})
    for name in ("EndpointConfig", "EndpointConfig-async"):
        model = steps_of(compiled)[name]["Arguments"]["ProductionVariants"][0]["ModelName"]
        assert model == {"Get": f"Steps.{name.replace('EndpointConfig', 'Model')}.ModelName"}


def test_real_time_is_the_default_and_compiles_no_queue() -> None:
    _, requested = deployed("defaults")
    assert {name for name in requested if name.endswith("-async")} == set()
    assert requested["Model"]["PrimaryContainer"].get("Environment", {}) == {}


def test_only_the_images_of_training_are_read_as_they_are_used() -> None:
    config = PipelineConfig.load(compute={"input_mode": "FastFile"}, segmentation={"shard_megabytes": 100})
    steps = {step["Name"]: step["Arguments"] for step in json.loads(build_pipeline(config).definition())["Steps"]}
    words = steps["Segment"]["AppSpecification"]["ContainerArguments"]
    assert words[words.index("--shard-megabytes") + 1] == "100.0"
    for name, request in steps.items():
        if name.startswith("Train-"):
            modes = {channel["ChannelName"]: channel["InputMode"] for channel in request["InputDataConfig"]}
            assert modes == {"train": "FastFile", "validation": "FastFile", "manifest": "File", "stage": "File"}


def test_copies_of_the_rarer_classes_alone_are_asked_of_augment() -> None:
    definition = json.loads(build_pipeline(PipelineConfig.load(augmentation={"rarer_only": True})).definition())
    (augment,) = (step for step in definition["Steps"] if step["Name"] == "Augment")
    words = augment["Arguments"]["AppSpecification"]["ContainerArguments"]
    assert words[words.index("--rarer-only") + 1] == "true"


def test_the_question_is_asked_of_every_network_and_of_the_balance_of_copies() -> None:
    def steps(**changes: Any) -> dict[str, Any]:
        definition = json.loads(build_pipeline(PipelineConfig.load(**changes)).definition())
        return {step["Name"]: step["Arguments"] for step in definition["Steps"]}

    plain, binary = steps(), steps(training={"question": "binary"})
    arguments = binary["Augment"]["AppSpecification"]["ContainerArguments"]
    assert arguments[arguments.index("--question") + 1] == "binary"
    assert "--question" not in plain["Augment"]["AppSpecification"]["ContainerArguments"]
    asked = [step["HyperParameters"]["question"] for name, step in binary.items() if name.startswith("Train-")]
    assert len(asked) == 3 and set(asked) == {"binary"}
    with pytest.raises(ConfigError, match="per_cnn.alexnet.question is set by training.question"):
        PipelineConfig.load(per_cnn={"alexnet": {"question": "binary"}})
