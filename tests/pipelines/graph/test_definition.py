"""The compiled definition, as AWS would see it; nothing here reaches a network or needs credentials."""

import json
import os
import re
import socket
from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from mammopipe.pipelines import PipelineConfig, build_pipeline
from mammopipe.pipelines.backends.expressions import Scope, references, resolve
from mammopipe.pipelines.backends.supported import all_steps, check
from mammopipe.pipelines.graph.parameters import resolve_parameters
from mammopipe.processing.errors import ConfigError

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


@pytest.fixture(scope="module", autouse=True)
def no_network() -> Iterator[None]:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a connection was tried: {arguments[1:]}")

    patch = pytest.MonkeyPatch()
    for name in list(os.environ):
        if name.startswith("AWS_"):
            patch.delenv(name)
    patch.setenv("HOME", "/nonexistent")
    patch.setattr(socket.socket, "connect", refuse)
    patch.setattr(socket, "getaddrinfo", refuse)
    yield
    patch.undo()


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def compiled(request: pytest.FixtureRequest) -> dict[str, Any]:
    config = PipelineConfig.load(**CONFIGURATIONS[request.param])
    return dict(json.loads(build_pipeline(config).definition()))


def filled(compiled: dict[str, Any]) -> Scope:
    execution = {"PipelineExecutionId": "abcdefghijkl"}
    scope = Scope(resolve_parameters(compiled, {}), execution)
    scope.documents["Evaluate", "EvaluationReport"] = EVALUATION
    return scope


def requests(compiled: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield every step with its request, each reference resolved from the requests of the steps before."""
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


def test_two_compiles_give_the_same_bytes() -> None:
    config = PipelineConfig()
    assert build_pipeline(config).definition() == build_pipeline(config).definition()


def test_every_request_is_what_the_service_takes(compiled: dict[str, Any]) -> None:
    model = botocore.session.Session().get_service_model("sagemaker")
    seen = set()
    for step, request in requests(compiled):
        if step["Type"] in OPERATIONS:
            shape = model.operation_model(OPERATIONS[step["Type"]][0]).input_shape
            report = ParamValidator().validate(request, shape)
            assert not report.has_errors(), f"{step['Name']}: {report.generate_report()}"
            seen.add(step["Type"])
    assert seen >= {"Processing", "Training", "RegisterModel"}


def test_nothing_but_strings_reaches_a_container(compiled: dict[str, Any]) -> None:
    for _, request in requests(compiled):
        words = request.get("AppSpecification", {}).get("ContainerArguments", [])
        assert all(type(word) is str for word in [*words, *request.get("HyperParameters", {}).values()])


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


def test_the_process_backend_runs_every_step(compiled: dict[str, Any]) -> None:
    check(compiled, filled(compiled))


def test_every_reference_leads_to_a_step_and_there_is_no_cycle(compiled: dict[str, Any]) -> None:
    steps, done = steps_of(compiled), set[str]()
    for name, step in steps.items():
        own = {key: value for key, value in step["Arguments"].items() if key not in ("IfSteps", "ElseSteps")}
        assert references(own) | set(step.get("DependsOn", [])) <= done, f"{name} needs a step that comes later"
        done.add(name)


def test_training_depends_on_segment_alone_and_never_sees_the_test_split(compiled: dict[str, Any]) -> None:
    trainings = [step for step in steps_of(compiled).values() if step["Type"] == "Training"]
    assert trainings
    for step in trainings:
        assert references(step["Arguments"]) == {"Segment"}
        assert all(name.startswith("Train-") for name in step.get("DependsOn", [])), "only jobs over the limit wait"
        text = json.dumps(step["Arguments"])
        assert "images/train/" in text and "images/validation/" in text
        assert "images/test" not in text


def test_each_candidate_is_evaluated() -> None:
    compiled = json.loads(build_pipeline(PipelineConfig()).definition())
    names = {name for name in steps_of(compiled) if name.startswith("Train-")}
    assert names == {"Train-modified-cnn", "Train-alexnet", "Train-resnet50"}
    assert references(steps_of(compiled)["Evaluate"]["Arguments"]) == {"Segment", *names}


def test_outputs_lie_under_the_execution_and_checkpoints_do_not(compiled: dict[str, Any]) -> None:
    for _, request in requests(compiled):
        for output in request.get("ProcessingOutputConfig", {}).get("Outputs", []):
            if output["OutputName"] == "test-reads":
                assert output["S3Output"]["S3Uri"].endswith(("/test-reads/mias", "/test-reads/rsna")), (
                    "the register outlives the execution"
                )
                continue
            assert "/executions/abcdefghijkl/" in output["S3Output"]["S3Uri"]
        if "OutputDataConfig" in request:
            assert "/executions/abcdefghijkl/models/" in request["OutputDataConfig"]["S3OutputPath"]
            # Under what they belong to: settings, and the job that made the images.
            place = request["CheckpointConfig"]["S3Uri"]
            assert re.fullmatch(
                r"s3://[\w/-]+/checkpoints/\w+/[0-9a-f]{12}-\d+-\d+-ml\.[\w.]+-\d+(-\w+)?/[\w-]+", place
            ), place


def test_prepare_reads_the_weights_first_so_that_missing_ones_fail_before_anything_is_paid() -> None:
    for values in ({"pretrained": True}, {"init": "s3://bucket/executions/a/model/model.tar.gz"}, {}):
        compiled = json.loads(build_pipeline(PipelineConfig.load(cnns=["alexnet"], **values)).definition())
        found = {step["Name"]: request for step, request in requests(compiled)}
        prepared = {item["InputName"]: item["S3Input"] for item in found["Prepare"]["ProcessingInputs"]}
        trained = {
            item["ChannelName"]: item["DataSource"]["S3DataSource"]["S3Uri"]
            for item in found["Train-alexnet"]["InputDataConfig"]
        }
        assert ("weights" in prepared) is ("weights" in trained) is bool(values)
        if values:
            assert prepared["weights"]["S3Uri"] == trained["weights"]
            assert prepared["weights"]["S3DataDistributionType"] == "FullyReplicated", "each instance looks"


def test_prepare_opens_the_register_that_evaluate_reads(compiled: dict[str, Any]) -> None:
    steps = {step["Name"]: request for step, request in requests(compiled)}
    outputs = {item["OutputName"]: item["S3Output"] for item in steps["Prepare"]["ProcessingOutputConfig"]["Outputs"]}
    inputs = {item["InputName"]: item["S3Input"] for item in steps["Evaluate"]["ProcessingInputs"]}
    assert inputs["test-reads"]["S3Uri"] == f"{outputs['test-reads']['S3Uri']}/", "whoever starts the pipeline"
    assert outputs["test-reads"]["LocalPath"] == "/opt/ml/processing/output/test-reads"


def test_every_job_is_isolated_limited_tagged_and_retried(compiled: dict[str, Any]) -> None:
    for step, request in requests(compiled):
        if step["Type"] not in ("Processing", "Training"):
            continue
        assert request["StoppingCondition"]["MaxRuntimeInSeconds"] > 0
        assert request["Tags"] and step["RetryPolicies"]
        walls = request.get("NetworkConfig", request)
        assert walls["EnableNetworkIsolation"] and walls["EnableInterContainerTrafficEncryption"]


def test_keys_walls_spot_and_cache_appear_when_they_are_configured() -> None:
    compiled = json.loads(build_pipeline(PipelineConfig.load(**CONFIGURATIONS["everything"])).definition())
    requested = {step["Name"]: request for step, request in requests(compiled)}
    train, prepare = requested["Train-alexnet"], requested["Prepare"]
    assert train["OutputDataConfig"]["KmsKeyId"] == train["ResourceConfig"]["VolumeKmsKeyId"] == KEY
    assert prepare["ProcessingOutputConfig"]["KmsKeyId"] == KEY
    assert requested["EndpointConfig"]["KmsKeyId"] == KEY
    for walls in (train["VpcConfig"], prepare["NetworkConfig"]["VpcConfig"], requested["Model"]["VpcConfig"]):
        assert walls == {"SecurityGroupIds": ["sg-12345678"], "Subnets": ["subnet-12345678"]}
    assert train["EnableManagedSpotTraining"] and train["StoppingCondition"]["MaxWaitTimeInSeconds"] == 36 * 3600
    inputs = {item["InputName"]: item["S3Input"]["S3DataDistributionType"] for item in prepare["ProcessingInputs"]}
    assert inputs["images"] == "ShardedByS3Key"
    assert [channel["ChannelName"] for channel in train["InputDataConfig"]][-1] == "weights"
    assert steps_of(compiled)["Prepare"]["CacheConfig"] == {"Enabled": True, "ExpireAfter": "P30D"}


def test_without_an_endpoint_the_run_ends_at_the_registry() -> None:
    compiled = json.loads(build_pipeline(PipelineConfig.load(**CONFIGURATIONS["no endpoint"])).definition())
    gate = steps_of(compiled)["Gate"]["Arguments"]
    assert [step["Name"] for step in gate["IfSteps"]] == ["Register"]
    assert [step["Name"] for step in gate["ElseSteps"]] == ["Fail"]


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


def test_the_metric_definitions_read_the_line_that_train_prints() -> None:
    line = (
        "epoch=1 train_loss=1.0873 validation_loss=1.0512 validation_macro_auc=0.5731 "
        "validation_balanced_accuracy=0.3910 validation_choice=0.6120 learning_rate=0.00030 seconds=12.3"
    )
    compiled = json.loads(build_pipeline(PipelineConfig()).definition())
    definitions = steps_of(compiled)["Train-alexnet"]["Arguments"]["AlgorithmSpecification"]["MetricDefinitions"]
    found = {item["Name"]: re.findall(item["Regex"], line) for item in definitions}
    assert found == {
        "train_loss": ["1.0873"],
        "validation_loss": ["1.0512"],
        "validation_macro_auc": ["0.5731"],
        "validation_balanced_accuracy": ["0.3910"],
        "validation_choice": ["0.6120"],
        "learning_rate": ["0.00030"],
        "seconds": ["12.3"],
        "best_validation_macro_auc": [],
        "best_validation_choice": [],
    }
    last = "best_epoch=1 best_validation_macro_auc=0.5731 best_validation_choice=0.61 model=/opt/ml/model"
    read = {item["Name"]: re.findall(item["Regex"], last) for item in definitions}
    assert {name: values for name, values in read.items() if values} == {
        "best_validation_macro_auc": ["0.5731"],
        "best_validation_choice": ["0.61"],
    }


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
