"""The interpreter on small definitions whose jobs are Python scripts."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.data.folder_storage import FolderStorage
from mammopipe.processing.errors import ConfigError
from tests.pipelines.conftest import BUCKET, OUT, Runner, Scripts, definition, output, processing, training

WRITE = "folder = paths.processing_output('o'); (folder / 'a.txt').write_text(' '.join(arguments))\n"


def statuses(interpreter: Any) -> dict[str, str]:
    return {name: str(record.status) for name, record in interpreter.step_statuses.records.items()}


def condition(name: str, left: Any, right: Any, if_steps: list[Any], else_steps: list[Any]) -> dict[str, Any]:
    conditions = [{"Type": "GreaterThanOrEqualTo", "LeftValue": left, "RightValue": right}]
    return {
        "Name": name,
        "Type": "Condition",
        "Arguments": {"Conditions": conditions, "IfSteps": if_steps, "ElseSteps": else_steps},
    }


def report(step: str, path: str) -> dict[str, Any]:
    return {"Std:JsonGet": {"PropertyFile": {"Get": f"Steps.{step}.PropertyFiles.Report"}, "Path": path}}


def test_arguments_carry_parameters_and_execution_variables(run: Runner, scripts: Scripts) -> None:
    arguments = ["x", {"Get": "Parameters.P"}, {"Get": "Execution.PipelineExecutionId"}]
    step = processing("Make", scripts("make", WRITE), arguments=arguments, outputs=["o"])
    interpreter = run(step, parameters=[{"Name": "P", "Type": "String", "DefaultValue": "d"}], P="given")
    assert statuses(interpreter) == {"Make": "Succeeded"}
    assert run.text(f"{OUT}/Make/o/a.txt") == "x given run-1"
    assert not (run.folder / "work" / "Make").exists()


def test_outputs_become_inputs_by_their_property(run: Runner, scripts: Scripts) -> None:
    copy = "for path in sorted(paths.processing_input('i').rglob('*')):\n    print(path.read_text())\n"
    first = processing("Make", scripts("make", WRITE), arguments=["films"], outputs=["o"])
    second = processing("Read", scripts("read", copy), inputs={"i": output("Make", "o")})
    interpreter = run(second, first)
    assert statuses(interpreter) == {"Read": "Succeeded", "Make": "Succeeded"}
    assert (run.folder / "logs" / "Read.log").read_text() == "films\n"


@pytest.mark.parametrize("instances", [1, 3])
def test_sharded_inputs_are_shared_out_and_others_are_not(run: Runner, scripts: Scripts, instances: int) -> None:
    for number in range(7):
        path = run.folder / "raw" / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(number))
        run.services.storage.put(path, f"s3://{BUCKET}/raw/{number}.txt")
    body = (
        "host, hosts = paths.hosts()\n"
        "names = lambda key: sorted(path.name for path in paths.processing_input(key).iterdir())\n"
        "facts = {'hosts': hosts, 'whole': names('whole'), 'shard': names('shard')}\n"
        "(paths.processing_output('o') / f'{host}.json').write_text(json.dumps(facts))\n"
    )
    uri = f"s3://{BUCKET}/raw/"
    step = processing(
        "Split",
        scripts("split", body),
        inputs={"whole": uri, "shard": uri},
        sharded=["shard"],
        outputs=["o"],
        instances=instances,
    )
    run(step)
    names = [f"{number}.txt" for number in range(7)]
    facts = [json.loads(run.text(f"{OUT}/Split/o/algo-{host}.json")) for host in range(1, instances + 1)]
    assert sorted(name for fact in facts for name in fact["shard"]) == names
    assert all(fact["whole"] == names and len(fact["hosts"]) == instances for fact in facts)
    assert max(len(fact["shard"]) for fact in facts) <= -(-7 // instances)


def test_a_training_job_finds_the_folders_of_a_training_container(run: Runner, scripts: Scripts) -> None:
    body = (
        "facts = json.loads(paths.hyperparameters.read_text()) | {\n"
        "    'film': (paths.channel('train') / 'a.txt').read_text(),\n"
        "    'channels': sorted(json.loads(paths.hyperparameters.with_name('inputdataconfig.json').read_text())),\n"
        "    'hosts': paths.hosts(), 'job': os.environ['TRAINING_JOB_NAME'],\n"
        "    'aws': [name for name in os.environ if 'AWS' in name]}\n"
        "(paths.model / 'model.json').write_text(json.dumps(facts))\n"
    )
    make = processing("Make", scripts("make", WRITE), arguments=["film"], outputs=["o"])
    step = training(
        "Train", scripts("train", body), inputs={"train": output("Make", "o")}, hyperparameters={"epochs": "3"}
    )
    interpreter = run(make, step)
    uri = interpreter.scope.steps["Train"]["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == f"{OUT}/models/pipelines-run-1-Train/output/model.tar.gz"
    run.services.storage.download(uri, run.folder / "model")
    with tarfile.open(run.folder / "model" / "model.tar.gz") as tar:
        stream = tar.extractfile("model.json")
        assert stream is not None
        facts = json.load(stream)
    assert facts == {
        "epochs": "3",
        "film": "film",
        "channels": ["train"],
        "hosts": ["algo-1", ["algo-1"]],
        "job": "pipelines-run-1-Train",
        "aws": [],
    }


@pytest.mark.parametrize("mode", ["File", "FastFile"])
def test_a_fast_file_channel_shows_the_stored_files_without_a_copy(
    run: Runner, scripts: Scripts, tmp_path: Path, mode: str
) -> None:
    run.services = replace(run.services, storage=FolderStorage(run.services.storage.client, root=tmp_path / "s3"))
    run.services.storage.ensure_bucket(BUCKET)
    body = (
        "folder = paths.channel('train')\n"
        "facts = json.loads(paths.hyperparameters.with_name('inputdataconfig.json').read_text())['train']\n"
        "facts |= {'text': (folder / 'a.txt').read_text(), 'link': (folder / 'a.txt').is_symlink()}\n"
        "facts |= {'stored': str((folder / 'a.txt').resolve()), 'writable': bool(folder.stat().st_mode & 0o200)}\n"
        "(paths.model / 'model.json').write_text(json.dumps(facts))\n"
    )
    make = processing("Make", scripts("make", WRITE), arguments=["film"], outputs=["o"])
    step = training("Train", scripts("train", body), inputs={"train": output("Make", "o")})
    step["Arguments"]["InputDataConfig"][0]["InputMode"] = mode
    interpreter = run(make, step)
    uri = interpreter.scope.steps["Train"]["ModelArtifacts"]["S3ModelArtifacts"]
    run.services.storage.download(uri, run.folder / "model")
    with tarfile.open(run.folder / "model" / "model.tar.gz") as tar:
        stream = tar.extractfile("model.json")
        assert stream is not None
        facts = json.load(stream)
    fast = mode == "FastFile"
    assert (facts["text"], facts["TrainingInputMode"], facts["link"], facts["writable"]) == (
        "film",
        mode,
        fast,
        not fast,
    )
    assert facts["stored"].startswith(str(tmp_path / "s3")) is fast
    assert (tmp_path / "s3").is_dir() and not list((run.folder / "work").iterdir()), "the job's folders are removed"


def test_independent_steps_run_side_by_side_and_share_the_cores(run: Runner, scripts: Scripts) -> None:
    # Each of the two waits until the other has started, so they end only if they run in parallel.
    meet = (
        "here, other = (Path(name) for name in arguments)\n"
        "os.mkfifo(here) if not here.exists() else None\n"
        "print(os.environ['OMP_NUM_THREADS'])\n"
    )
    pipes = [run.folder / name for name in "ab"]
    for pipe in pipes:
        __import__("os").mkfifo(pipe)
    give = meet + "open(here, 'w').write('x')\nopen(other).read()\n"
    take = meet + "open(other).read()\nopen(here, 'w').write('x')\n"
    steps = [
        processing("A", scripts("a", give), arguments=[str(pipes[0]), str(pipes[1])]),
        processing("B", scripts("b", take), arguments=[str(pipes[1]), str(pipes[0])]),
    ]
    interpreter = run(*steps, cores=4)
    assert set(statuses(interpreter).values()) == {"Succeeded"}
    assert (run.folder / "logs" / "A.log").read_text() == "2\n"


def test_no_more_jobs_run_at_a_time_than_there_are_cores(run: Runner, scripts: Scripts) -> None:
    steps = [processing(name, scripts("quick", "")) for name in "ABC"]
    run(*steps, cores=1)
    most = max(sum(record["status"] is Status.EXECUTING for record in change) for change in run.snapshots)
    assert most == 1


@pytest.mark.parametrize(("auc", "outcome"), [(0.7, "Succeeded"), (0.5, "Failed")])
def test_a_condition_chooses_its_branch(run: Runner, scripts: Scripts, auc: float, outcome: str) -> None:
    body = "(paths.processing_output('o') / 'r.json').write_text(json.dumps({'auc': float(arguments[0])}))\n"
    measure = processing("Measure", scripts("measure", body), arguments=[str(auc)], outputs=["o"])
    measure["PropertyFiles"] = [{"PropertyFileName": "Report", "OutputName": "o", "FilePath": "r.json"}]
    message = {"Std:Join": {"On": "", "Values": ["auc ", report("Measure", "auc"), " < ", {"Get": "Parameters.Limit"}]}}
    fail = {"Name": "Fail", "Type": "Fail", "Arguments": {"ErrorMessage": message}}
    good = processing("Good", scripts("good", ""))
    gate = condition("Gate", report("Measure", "auc"), {"Get": "Parameters.Limit"}, [good], [fail])
    interpreter = run(gate, measure, parameters=[{"Name": "Limit", "Type": "Float", "DefaultValue": 0.6}])
    passed = auc >= 0.6
    assert statuses(interpreter) == {
        "Measure": "Succeeded",
        "Gate": "Succeeded",
        "Good": "Succeeded" if passed else "NotExecuted",
        "Fail": "NotExecuted" if passed else "Failed",
    }
    assert interpreter.step_statuses.records["Fail"].reason == ("" if passed else "auc 0.5 < 0.6")
    assert (Status.FAILED if outcome == "Failed" else Status.SUCCEEDED) is run.status


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("folder = paths.output\n(folder / 'message').write_text('Info.txt, line 3:\\n  no such label')\nsys.exit(1)\n",
         "Info.txt, line 3: no such label"),
        ("print('first')\nprint('the last words', file=sys.stderr)\nsys.exit(3)\n",
         "exit code 3; its last line: the last words"),
        ("import signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "killed by signal 9, without output"),
        ("raise ValueError('no')\n", "exit code 1; its last line: ValueError: no"),
    ],
)  # fmt: skip
def test_a_failed_job_gives_its_reason(run: Runner, scripts: Scripts, body: str, reason: str) -> None:
    interpreter = run(
        processing("Break", scripts("break", body)), processing("After", scripts("ok", ""), DependsOn=["Break"])
    )
    assert run.status is Status.FAILED
    assert interpreter.step_statuses.records["Break"].reason == reason
    assert statuses(interpreter) == {"Break": "Failed", "After": "NotExecuted"}


def test_a_training_job_is_read_from_its_failure_file(run: Runner, scripts: Scripts) -> None:
    body = "(paths.output / 'failure').write_text('hyperparameter x=1 is unknown')\nsys.exit(1)\n"
    interpreter = run(training("Train", scripts("train", body)))
    assert interpreter.step_statuses.records["Train"].reason == "hyperparameter x=1 is unknown"


def test_a_training_job_that_leaves_no_model_failed(run: Runner, scripts: Scripts) -> None:
    interpreter = run(training("Train", scripts("train", "")))
    assert "wrote no file to the model folder" in interpreter.step_statuses.records["Train"].reason


def test_an_input_without_objects_fails_the_step(run: Runner, scripts: Scripts) -> None:
    interpreter = run(processing("Read", scripts("read", ""), inputs={"i": f"s3://{BUCKET}/nothing/"}))
    assert (
        interpreter.step_statuses.records["Read"].reason == f"input i: there is no object under s3://{BUCKET}/nothing/"
    )


def test_a_job_past_its_time_limit_is_stopped(run: Runner, scripts: Scripts) -> None:
    step = processing("Hang", scripts("hang", "import signal\nsignal.pause()\n"))
    step["Arguments"]["StoppingCondition"] = {"MaxRuntimeInSeconds": 1}
    assert run(step).step_statuses.records["Hang"].reason == "stopped after MaxRuntimeInSeconds=1"


def test_when_a_step_fails_the_others_are_stopped(run: Runner, scripts: Scripts) -> None:
    pipe = run.folder / "started"
    __import__("os").mkfifo(pipe)
    hang = scripts("hang", "import signal\nopen(arguments[0], 'w').write('x')\nsignal.pause()\n")
    crash = scripts("crash", "open(arguments[0]).read()\nsys.exit(1)\n")
    interpreter = run(
        processing("Hang", hang, arguments=[str(pipe)]), processing("Crash", crash, arguments=[str(pipe)]), cores=2
    )
    assert statuses(interpreter) == {"Hang": "Stopped", "Crash": "Failed"}


def test_one_instance_that_fails_stops_the_others(run: Runner, scripts: Scripts) -> None:
    body = (
        "import signal\n"
        "if paths.hosts()[0] == 'algo-1': signal.pause()\n"
        "(paths.output / 'message').write_text('algo-2 broke'); sys.exit(1)\n"
    )
    assert (
        run(processing("Pair", scripts("pair", body), instances=2)).step_statuses.records["Pair"].reason
        == "algo-2 broke"
    )


def test_a_request_that_the_service_would_refuse_fails_its_step(run: Runner, scripts: Scripts) -> None:
    step = processing("Make", scripts("make", ""))
    step["Arguments"]["RoleArn"] = 7
    reason = run(step).step_statuses.records["Make"].reason
    assert reason.startswith("SageMaker would refuse the request: ") and "RoleArn" in reason and "\n" not in reason


def test_registering_makes_the_group_and_a_version_with_its_metadata(run: Runner) -> None:
    arguments = {
        "ModelPackageGroupName": "films",
        "ModelApprovalStatus": "PendingManualApproval",
        "CustomerMetadataProperties": {"profile": "quick"},
        "InferenceSpecification": {
            "Containers": [{"Image": "image", "ModelDataUrl": "s3://b/model.tar.gz"}],
            "SupportedContentTypes": ["image/png"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    }
    interpreter = run({"Name": "Register", "Type": "RegisterModel", "Arguments": arguments})
    arn = interpreter.scope.steps["Register"]["ModelPackageArn"]
    package = run.services.sagemaker.describe_model_package(ModelPackageName=arn)
    assert package["ModelPackageVersion"] == 1
    assert package["CustomerMetadataProperties"] == {"profile": "quick"}
    assert package["ModelApprovalStatus"] == "PendingManualApproval"


def test_checkpoints_of_a_failed_job_stay_and_those_of_a_finished_one_go(run: Runner, scripts: Scripts) -> None:
    body = (
        "file = paths.checkpoints / 'epoch'\n"
        "epoch = int(file.read_text()) if file.exists() else 0\n"
        "file.write_text(str(epoch + 1))\n"
        "(paths.model / 'epoch').write_text(str(epoch + 1))\n"
        "sys.exit(epoch == 0)\n"
    )
    step = training("Train", scripts("train", body), checkpoints=f"s3://{BUCKET}/checkpoints/alexnet")
    run(step)
    (kept,) = (run.folder / "checkpoints").glob("*/epoch")
    assert run.status is Status.FAILED and kept.read_text() == "1"
    run(step)
    assert run.status is Status.SUCCEEDED and not kept.parent.exists()


def test_interrupting_stops_the_jobs_and_says_so(run: Runner, scripts: Scripts) -> None:
    hang = processing("Hang", scripts("hang", "import signal\nsignal.pause()\n"))
    interpreter = run.interpreter(definition(hang))

    def interrupt(records: Any) -> None:
        raise KeyboardInterrupt

    interpreter.step_statuses.changed = interrupt
    with pytest.raises(KeyboardInterrupt):
        interpreter.run()
    assert interpreter.context.processes.stopping.is_set()


def test_nothing_starts_when_one_step_cannot_be_run(run: Runner, scripts: Scripts) -> None:
    good = processing("Good", scripts("good", WRITE), outputs=["o"])
    with pytest.raises(ConfigError, match="step Search: the process backend cannot run a step of type AutoML"):
        run(good, {"Name": "Search", "Type": "AutoML", "Arguments": {}})
    assert run.services.storage.list(f"{OUT}/Good") == []
    assert not Path(run.folder, "logs").exists()
