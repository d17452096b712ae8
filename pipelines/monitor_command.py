"""`mammopipe monitor`: the monitor job (`inference.monitor`) over captures of this machine or of S3."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.processes import SupervisedProcess, job_environment
from pipelines.runs import RunFolder, find_run
from processing.errors import ConfigError
from processing.files import write_bytes
from processing.job import cores
from processing.paths import ContainerPaths

NAMESPACE, INDEX = "Mammopipe/Drift", "DriftIndex"
"""Those of `inference.monitor`, which cannot be imported where only a client is installed."""
OUTPUTS = ("drift.json", "drift.html", "baseline.json")


def run(options: argparse.Namespace) -> int:
    """Run the job on this machine and return 1 where the alarm is on."""
    folder = find_run(options.runs, options.id)
    with tempfile.TemporaryDirectory() as name:
        paths = ContainerPaths(Path(name))
        _bring_inputs(folder, options, paths)
        said = _job(options, paths)
        for each in OUTPUTS:
            write_bytes(options.output / each, (paths.processing_output("monitor") / each).read_bytes())
    report: dict[str, Any] = json.loads((options.output / "drift.json").read_text(encoding="utf-8"))
    if options.put_metric:
        put_metric(report)
    print(json.dumps(report, indent=2) if options.json else said)
    if not options.json:
        print(f"{options.output / 'drift.html'}\nTo accept these films as usual: --baseline "
              f"{options.output / 'baseline.json'}" if report["alarms"] else options.output / "drift.html")
    return int(report["drift_index"] >= 1)


def _bring_inputs(folder: RunFolder, options: argparse.Namespace, paths: ContainerPaths) -> None:
    archive = folder.path / "model.tar.gz"
    if not archive.is_file():
        raise ConfigError(
            f"run {folder.id} has no model.tar.gz: it did not come that far (mammopipe status {folder.id})"
        )
    model = paths.processing_input("model")
    model.mkdir(parents=True)
    (model / archive.name).symlink_to(archive.resolve())
    captures = paths.processing_input("captures")
    if options.captures.startswith("s3://"):
        from pipelines import sessions
        from pipelines.config import PipelineConfig

        sessions.caller_storage(PipelineConfig()).download(options.captures.rstrip("/") + "/", captures)
    elif not Path(options.captures).is_dir():
        raise ConfigError(f"--captures {options.captures}: no such folder")
    else:
        captures.symlink_to(Path(options.captures).resolve(), target_is_directory=True)
    if options.baseline is not None:
        if not options.baseline.is_file():
            raise ConfigError(f"--baseline {options.baseline}: no such file")
        paths.processing_input("baseline").mkdir()
        shutil.copyfile(options.baseline, paths.processing_input("baseline") / "baseline.json")


def _job(options: argparse.Namespace, paths: ContainerPaths) -> str:
    """Run the job as its container would, and return what it said for people; raises `ConfigError` with its reason."""
    given = {"--window-days": options.window_days, "--least-exams": options.least_exams}
    words = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    log = paths.base / "log"
    process = SupervisedProcess.start([sys.executable, "-m", "inference.monitor", *words], folder=paths.base, log=log,
                                      environment=job_environment(paths.base, cores(), {}))
    try:
        code = process.wait()
    except BaseException:
        process.stop()
        raise
    said = log.read_text(encoding="utf-8")
    if code:
        reason = paths.output / "message"
        words_ = reason.read_text(encoding="utf-8") if reason.is_file() else f"the monitor ended with exit code {code}"
        raise ConfigError(words_.replace(str(paths.base), "/opt/ml"))
    return "\n".join(line for line in said.splitlines() if not line.startswith("{"))


def put_metric(report: Mapping[str, Any], cloudwatch: Any = None) -> None:
    """Write the drift index to CloudWatch, where the job's own log lines do not go there."""
    import boto3

    from pipelines.sessions import aws_errors

    with aws_errors():
        client = cloudwatch or boto3.client("cloudwatch")
        values = [{"MetricName": INDEX, "Value": report["drift_index"], "Unit": "None"}]
        values += [{"MetricName": INDEX, "Value": group["strength"], "Unit": "None",
                    "Dimensions": [{"Name": "Group", "Value": name}]} for name, group in report["groups"].items()]
        client.put_metric_data(Namespace=NAMESPACE, MetricData=values)
