"""A tuning step: the requests to AWS, what breaks AWS's rules, and how the process backend runs the same definition."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines import PipelineConfig, build_pipeline
from mammopipe.pipelines.backends import jobs
from mammopipe.pipelines.backends.sessions import reset_emulator
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.config.tuning import Objective
from mammopipe.pipelines.data.folder_storage import FolderStorage
from mammopipe.pipelines.data.step_cache import StepCache
from mammopipe.pipelines.experiment import trials
from mammopipe.pipelines.graph import aws_rules
from mammopipe.pipelines.graph.parameters import resolve_parameters
from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import TrainConfig
from tests.pipelines.compiled import CLOSED, KEY, Compiled
from tests.pipelines.conftest import BUCKET, Runner, Scripts, processing, training

RANGES = {
    "learning_rate": "log(1e-5,1e-2)",
    "dropout": "uniform(0,0.5)",
    "epochs": "int(3,6)",
    "sampling": "choice(balanced,weighted)",
}
TUNED = {"cnns": ["alexnet", "resnet50"], "tuning": {"ranges": RANGES, "cnns": ["alexnet"], "trials": 6}}
TRAIN = (
    "import math\n"
    "values = json.loads(paths.hyperparameters.read_text())\n"
    "open({seen!r}, 'a').write(json.dumps(values) + '\\n')\n"
    "rate = float(values['learning_rate'])\n"
    "print('epoch=1 validation_macro_auc=0.99', flush=True)\n"
    "(paths.model / 'model.json').write_text(values['learning_rate'])\n"
    "{more}\n"
    "print(f'best_validation_macro_auc={{1 - abs(math.log10(rate) + 3) / 10:.4f}}', flush=True)\n"
)


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return Compiled({**TUNED, "security": CLOSED, "compute": {"training_instance_type": "ml.p3.2xlarge"}})


def test_a_search_has_what_the_training_jobs_of_the_same_network_have(compiled: Compiled) -> None:
    request = compiled.requests("Tuning")["Tune-alexnet"]
    definition, trained = request["TrainingJobDefinition"], compiled.requests("Training")["Train-resnet50"]
    for member in ("RoleArn", "VpcConfig", "EnableNetworkIsolation", "EnableInterContainerTrafficEncryption"):
        assert definition[member] == trained[member], member
    assert definition["ResourceConfig"]["VolumeKmsKeyId"] == definition["OutputDataConfig"]["KmsKeyId"] == KEY
    assert definition["InputDataConfig"] == trained["InputDataConfig"]
    metrics = definition["AlgorithmSpecification"]["MetricDefinitions"]
    assert metrics == trained["AlgorithmSpecification"]["MetricDefinitions"]
    assert request["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"] == {
        "Type": "Maximize",
        "MetricName": "best_validation_choice",
    }
    assert not definition["StaticHyperParameters"].keys() & RANGES.keys()
    assert definition["StaticHyperParameters"].keys() | RANGES.keys() == trained["HyperParameters"].keys()
    assert "CheckpointConfig" not in definition


def test_every_objective_is_a_metric_that_training_prints(compiled: Compiled) -> None:
    definition = compiled.requests("Tuning")["Tune-alexnet"]["TrainingJobDefinition"]
    assert set(Objective) <= {item["Name"] for item in definition["AlgorithmSpecification"]["MetricDefinitions"]}
    assert Objective.LOSS.direction == "Minimize" and Objective.BEST_MACRO_AUC.direction == "Maximize"


def test_the_best_trial_enters_evaluate_from_the_folder_of_its_own_job(compiled: Compiled) -> None:
    inputs = {item["InputName"]: item for item in compiled.steps["Evaluate"]["Arguments"]["ProcessingInputs"]}
    references = json.dumps(inputs["model-alexnet"])
    assert "Steps.Tune-alexnet.TrainingJobSummaries[0].TrainingJobName" in references
    assert "Steps.Tune-alexnet.TrainingJobDefinition.OutputDataConfig.S3OutputPath" in references
    resolved = {item["InputName"]: item for item in compiled.requests()["Evaluate"]["ProcessingInputs"]}
    assert resolved["model-alexnet"]["S3Input"]["S3Uri"].endswith("-001-abcdef01/output/model.tar.gz")


def test_the_step_cache_sees_other_weights() -> None:
    tuned = Compiled({**TUNED, "pretrained": True})
    static = tuned.steps["Tune-alexnet"]["Arguments"]["TrainingJobDefinition"]["StaticHyperParameters"]
    assert static["mammopipe_weights_digest"] == {"Get": "Parameters.WeightsDigest"}
    TrainConfig.from_hyperparameters({"cnn": "alexnet", "mammopipe_weights_digest": "x"})


def test_compiling_a_search_twice_gives_the_same_bytes() -> None:
    config = PipelineConfig.load(**TUNED)
    assert build_pipeline(config).definition() == build_pipeline(config).definition()


FAULTS: dict[str, tuple[Any, str]] = {
    "trials": (lambda c, d: c["ResourceLimits"].update(MaxNumberOfTrainingJobs=751), "at most 750"),
    "parallel": (lambda c, d: c["ResourceLimits"].update(MaxParallelTrainingJobs=101), "at most 100"),
    "objective": (
        lambda c, d: c["HyperParameterTuningJobObjective"].update(MetricName="test_auc"),
        "'test_auc': not among the metric definitions",
    ),
    "both": (lambda c, d: d["StaticHyperParameters"].update(dropout="0.1"), "dropout is also in ParameterRanges"),
    "checkpoints": (lambda c, d: d.update(CheckpointConfig={"S3Uri": "s3://a/b"}), "share one folder"),
    "none": (lambda c, d: c["ParameterRanges"].clear(), "0 hyperparameters"),
    "values": (
        lambda c, d: c["ParameterRanges"]["CategoricalParameterRanges"][0].update(Values=[f"{n}" for n in range(31)]),
        "at most 30",
    ),
    "strategy": (lambda c, d: c.update(Strategy="Guess"), "SageMaker does not know this value"),
    "image": (lambda c, d: d["AlgorithmSpecification"].update(TrainingImage=""), "must be the name of an image"),
    "runtime": (lambda c, d: d["StoppingCondition"].update(MaxRuntimeInSeconds=2_419_201), "28 days"),
    "alias": (lambda c, d: d["ResourceConfig"].update(VolumeKmsKeyId="alias/key"), "an alias is not allowed"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_aws_would_refuse_of_a_search_is_refused(compiled: Compiled, fault: str) -> None:
    change, message = FAULTS[fault]
    broken = json.loads(compiled.text)
    step = next(step for step in broken["Steps"] if step["Name"] == "Tune-alexnet")
    change(step["Arguments"]["HyperParameterTuningJobConfig"], step["Arguments"]["TrainingJobDefinition"])
    with pytest.raises(ConfigError, match=f"step Tune-alexnet: .*{message}"):
        aws_rules.check(broken, resolve_parameters(broken, {}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ranges": {"dropout": "0.5"}}, "tuning.ranges.dropout = '0.5': must be log"),
        ({"ranges": {"dropout": "uniform(0.5,0)"}}, "LOW must be below HIGH"),
        ({"ranges": {"dropout": "uniform(0,inf)"}}, "LOW must be below HIGH"),
        ({"ranges": {"learning_rate": "log(0,1)"}}, "above 0"),
        ({"ranges": {"sampling": "choice(balanced,balanced)"}}, "each once"),
        (
            {"ranges": {"dropuot": "uniform(0,1)"}},
            "a trial could have dropuot=0: hyperparameter dropuot='0' is unknown",
        ),
        ({"ranges": {"dropout": "uniform(0,2)"}}, "a trial could have dropout=2: .*between 0 and 0.95"),
        ({"ranges": {"batch_size": "uniform(4,8)"}}, "a trial could have batch_size="),
        ({"ranges": {"sampling": "choice(balanced,evenly)"}}, "a trial could have sampling=evenly"),
        ({"ranges": {"head_epochs": "int(1,4)", "epochs": "int(3,9)"}}, "epochs=3.*head_epochs=4|head_epochs"),
        ({"ranges": {"folds": "int(0,5)"}}, "tuning.ranges.folds: is set by training.folds"),
        ({"ranges": {"workers": "int(0,5)"}}, "does not change what is learnt"),
        ({"ranges": RANGES, "parallel": 3, "trials": 2}, "at most tuning.trials=2"),
        ({"ranges": RANGES, "trials": 751}, "between 1 and 750"),
        ({"ranges": RANGES, "cnns": ["vgg16"]}, "vgg16: not among cnns"),
        ({"cnns": ["alexnet"]}, "needs tuning.ranges"),
    ],
)
def test_a_range_from_which_a_trial_could_fail_is_refused_at_once(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PipelineConfig.load(cnns=["alexnet"], tuning=values)


def test_a_batch_that_the_gpus_cannot_share_is_no_trial() -> None:
    with pytest.raises(ConfigError, match="batch_size=9 is not a multiple of the 8 processes"):
        PipelineConfig.load(
            cnns=["alexnet"],
            tuning={"ranges": {"batch_size": "int(8,16)"}},
            compute={"training_instance_type": "ml.p3.16xlarge"},
        )


def search(
    patch: pytest.MonkeyPatch,
    scripts: Scripts,
    seen: Path,
    *,
    trials: int = 5,
    more: str = "",
    strategy: str = "Bayesian",
) -> Any:
    """Return a tuning step whose jobs are scripts: the best learning rate is 1e-3."""
    # A search's jobs have no entry point of their own (HyperParameterAlgorithmSpecification): they run `train`.
    _, script = scripts("tune", TRAIN.format(seen=str(seen), more=more))
    patch.setitem(jobs.ENTRYPOINTS, "train", [sys.executable, script])
    arguments = training("Tune-a", [])["Arguments"]
    static = arguments.pop("HyperParameters")
    del arguments["AlgorithmSpecification"]["ContainerEntrypoint"]
    arguments["AlgorithmSpecification"]["MetricDefinitions"] = [
        {"Name": "best_validation_macro_auc", "Regex": r"\bbest_validation_macro_auc=([0-9.eE+-]+)"}
    ]
    return {
        "Name": "Tune-a",
        "Type": "Tuning",
        "Arguments": {
            "HyperParameterTuningJobConfig": {
                "Strategy": strategy,
                "ResourceLimits": {"MaxNumberOfTrainingJobs": trials, "MaxParallelTrainingJobs": 2},
                "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "best_validation_macro_auc"},
                "ParameterRanges": {
                    "ContinuousParameterRanges": [
                        {"Name": "learning_rate", "MinValue": "1e-6", "MaxValue": "1", "ScalingType": "Logarithmic"}
                    ],
                    "CategoricalParameterRanges": [{"Name": "sampling", "Values": ["balanced", "weighted"]}],
                },
                "TrainingJobEarlyStoppingType": "Off",
                "RandomSeed": 7,
            },
            "TrainingJobDefinition": {**arguments, "StaticHyperParameters": {"cnn": "a", **static}},
        },
        "CacheConfig": {"Enabled": True, "ExpireAfter": "P30D"},
    }


READ = processing(
    "Evaluate",
    ["python"],
    inputs={
        "model": {
            "Std:Join": {
                "On": "/",
                "Values": [
                    {"Get": "Steps.Tune-a.TrainingJobDefinition.OutputDataConfig.S3OutputPath"},
                    {"Get": "Steps.Tune-a.TrainingJobSummaries[0].TrainingJobName"},
                    "output/model.tar.gz",
                ],
            }
        }
    },
)


def seen_by(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_search_runs_its_trials_and_hands_on_the_best(
    run: Runner, scripts: Scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    read = json.loads(json.dumps(READ))
    read["Arguments"]["AppSpecification"]["ContainerEntrypoint"] = scripts(
        "read",
        "import tarfile\nprint(tarfile.open(paths.processing_input('model') / 'model.tar.gz').extractfile('model.json')"
        ".read().decode())\n",
    )
    interpreter = run(search(monkeypatch, scripts, seen), read)
    assert run.status is Status.SUCCEEDED, interpreter.step_statuses.records
    given = seen_by(seen)
    assert len(given) == 5 and len({values["learning_rate"] for values in given}) == 5
    assert all(values["cnn"] == "a" and values["_tuning_objective_metric"] for values in given), "as SageMaker passes"
    best = min(given, key=lambda values: abs(math.log10(float(values["learning_rate"])) + 3))
    assert (run.folder / "logs" / "Evaluate.log").read_text().strip() == best["learning_rate"]
    made = interpreter.scope.steps["Tune-a"]
    assert made["BestTrainingJob"]["TunedHyperParameters"]["learning_rate"] == best["learning_rate"]
    figures = [item["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for item in made["TrainingJobSummaries"]]
    assert figures == sorted(figures, reverse=True) and 0.99 not in figures, "the objective, not the epoch's figure"
    table = trials.rows("a", made["AllTrainingJobSummaries"])
    assert [row["trial"] for row in table] == ["1", "2", "3", "4", "5"]
    assert [row["learning_rate"] for row in table] == [values["learning_rate"] for values in given]


def test_a_trial_that_fails_is_a_row_and_a_search_without_a_figure_fails(
    run: Runner, scripts: Scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = "assert values['sampling'] == 'balanced', 'out of memory'"
    interpreter = run(search(monkeypatch, scripts, tmp_path / "seen", more=some, trials=6))
    made = interpreter.scope.steps["Tune-a"]["AllTrainingJobSummaries"]
    failed = [item for item in made if item["TrainingJobStatus"] == "Failed"]
    assert 0 < len(failed) < len(made) and all("out of memory" in item["FailureReason"] for item in failed)
    assert interpreter.scope.steps["Tune-a"]["TrainingJobSummaries"][-1] in failed
    reset_emulator(run.services.sagemaker.meta.endpoint_url)
    run.services.storage.ensure_bucket(BUCKET)
    run.folder = run.folder / "second"
    none = run(search(monkeypatch, scripts, tmp_path / "none", more="sys.exit(0)", trials=2))
    assert run.status is Status.FAILED
    reason = none.step_statuses.records["Tune-a"].reason
    assert reason == "none of 2 trials ended with a figure; the first: the job printed no best_validation_macro_auc"


@pytest.mark.parametrize("strategy", ["Bayesian", "Random"])
def test_more_trials_run_only_what_is_new(
    run: Runner, scripts: Scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    storage = FolderStorage(run.services.storage.client, root=tmp_path / "s3")
    storage.ensure_bucket(BUCKET)
    run.services, run.cache = replace(run.services, storage=storage), StepCache(tmp_path / "cache", storage, "code")
    seen = tmp_path / "seen"
    first = run(search(monkeypatch, scripts, seen, trials=2, strategy=strategy)).scope.steps["Tune-a"]
    reset_emulator(run.services.sagemaker.meta.endpoint_url)
    second = run(search(monkeypatch, scripts, seen, trials=4, strategy=strategy)).scope.steps["Tune-a"]
    assert len(seen_by(seen)) == 4, "two of the first search, two new ones"
    values = [item["TunedHyperParameters"] for item in second["AllTrainingJobSummaries"]]
    assert values[:2] == [item["TunedHyperParameters"] for item in first["AllTrainingJobSummaries"]]
    assert all("FinalHyperParameterTuningJobObjectiveMetric" in item for item in second["AllTrainingJobSummaries"])


def test_a_step_that_is_not_run_here_is_refused(
    run: Runner, scripts: Scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = search(monkeypatch, scripts, tmp_path / "seen")
    step["Arguments"]["HyperParameterTuningJobConfig"]["Strategy"] = "Hyperband"
    with pytest.raises(ConfigError, match="Strategy=Hyperband cannot be run"):
        run(step)
