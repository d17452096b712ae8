"""`mammopipe monitor`: runs the monitor job (`mammopipe.inference.monitor`) on local captures or captures on S3."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any

from mammopipe.pipelines.commands.arguments import Subparsers, command, in_runs
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes

if TYPE_CHECKING:
    from mammopipe.inference.monitoring.windows import Windows
    from mammopipe.pipelines.backends.processes import SupervisedProcess
    from mammopipe.pipelines.data.s3 import Storage
    from mammopipe.pipelines.runs.folder import RunFolder
    from mammopipe.processing.container.paths import ContainerPaths

NAMESPACE, REQUESTS, INDEX = "Mammopipe/Drift", "Requests", "DriftIndex"
"""Copied from `mammopipe.inference.monitor`, which cannot be imported if only a client is installed."""
OUTPUTS = ("drift.json", "drift.html", "baseline.json")
QUIET_SECONDS = 2
"""Seconds after which progress is shown."""


def add(subparsers: Subparsers) -> None:
    """Add the parser of `monitor`."""
    text = "compare captured requests with the model's training data; exit code 1 if they have drifted"
    parser = command(subparsers, "monitor", text, "monitor latest --captures s3://BUCKET/mammopipe/capture/mammopipe")
    parser.set_defaults(command=monitor)
    parser.add_argument(
        "id", nargs="?", default="latest", metavar="ID", help="the run whose model is served (default: latest)"
    )
    parser.add_argument(
        "--captures", required=True, metavar="FOLDER|s3://...", help="the folder into which data capture writes"
    )
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE", help="baseline.json of images accepted as the reference"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("monitor"),
        metavar="FOLDER",
        help="folder of the results (default: monitor)",
    )
    parser.add_argument("--window-days", type=int, metavar="N", help="days of a window (default: 7)")
    parser.add_argument("--windows", type=int, metavar="N", help="number of newest windows to judge (default: 26)")
    parser.add_argument(
        "--least-exams", type=int, metavar="N", help="least requests of a window that is judged (default: 20)"
    )
    parser.add_argument("--put-metric", action="store_true", help="also write the metric to CloudWatch")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file with the AWS region of captures and metric"
    )
    parser.add_argument("--json", action="store_true", help="print drift.json instead of the summary")
    in_runs(parser)


def monitor(options: argparse.Namespace) -> int:
    """Run the job on this machine and return 1 if there is an alarm."""
    from mammopipe.pipelines.backends import sessions
    from mammopipe.pipelines.config.pipeline import PipelineConfig
    from mammopipe.pipelines.runs.folder import find_run
    from mammopipe.processing.container.paths import ContainerPaths

    folder = find_run(options.runs, options.id)
    with tempfile.TemporaryDirectory() as name:
        paths = ContainerPaths(Path(name))
        _bring_inputs(folder, options, paths)
        summary = _job(options, paths)
        for each in OUTPUTS:
            write_bytes(options.output / each, (paths.processing_output("monitor") / each).read_bytes())
    report: dict[str, Any] = json.loads((options.output / "drift.json").read_text(encoding="utf-8"))
    if options.put_metric:
        with sessions.aws_errors():
            put_metric(report, sessions.caller_session(PipelineConfig.load(options.config)).client("cloudwatch"))
    print(json.dumps(report, indent=2) if options.json else summary)
    if not options.json:
        print(
            f"{options.output / 'drift.html'}\nTo accept these images as the reference: --baseline "
            f"{options.output / 'baseline.json'}"
            if report["alarms"]
            else options.output / "drift.html"
        )
    return int(bool(report["alarms"]))


def _bring_inputs(folder: "RunFolder", options: argparse.Namespace, paths: "ContainerPaths") -> None:
    from mammopipe.pipelines.backends import sessions
    from mammopipe.pipelines.config.pipeline import PipelineConfig

    archive = folder.path / "model.tar.gz"
    if not archive.is_file():
        raise ConfigError(f"run {folder.id} has no model.tar.gz: it ended before that (mammopipe status {folder.id})")
    model = paths.processing_input("model")
    model.mkdir(parents=True)
    (model / archive.name).symlink_to(archive.resolve())
    captures = paths.processing_input("captures")
    if options.captures.startswith("s3://"):
        storage = sessions.caller_storage(PipelineConfig.load(options.config))
        fetch(storage, options.captures.rstrip("/") + "/", captures, _windows(options))
    elif not Path(options.captures).is_dir():
        raise ConfigError(f"--captures {options.captures}: no such folder")
    else:
        captures.symlink_to(Path(options.captures).resolve(), target_is_directory=True)
    if options.baseline is not None:
        if not options.baseline.is_file():
            raise ConfigError(f"--baseline {options.baseline}: no such file")
        paths.processing_input("baseline").mkdir()
        shutil.copyfile(options.baseline, paths.processing_input("baseline") / "baseline.json")


def _windows(options: argparse.Namespace) -> "Windows":
    from mammopipe.inference.monitoring.windows import Windows

    return Windows(options.window_days or Windows.days, options.windows or Windows.number)


def fetch(storage: "Storage", uri: str, folder: Path, windows: "Windows") -> None:
    """Download the captures below `uri` that the windows need; raises `StorageError`, or `ConfigError` for none."""
    from tqdm import tqdm

    from mammopipe.inference.monitoring.windows import SUFFIX

    found = {item.key: item for item in storage.list(uri) if item.key.endswith(SUFFIX)}
    if not found:
        raise ConfigError(f"--captures {uri}: no *{SUFFIX} here, which is what data capture writes")
    needed = [found[key] for key in windows.needed(list(found))]
    total = sum(item.size for item in needed)
    with tqdm(total=total, desc="captures", unit="B", unit_scale=True, delay=QUIET_SECONDS, disable=None) as bar:
        storage.download(uri, folder, needed, lambda item: bar.update(item.size))
    print(f"{len(needed)} of {len(found)} files of captures fetched, {total / 1e6:.1f} MB", file=sys.stderr)


def _job(options: argparse.Namespace, paths: "ContainerPaths") -> str:
    """Run the job as its container would, and return its summary; raises `ConfigError` with the job's reason."""
    from mammopipe.inference.monitoring.windows import PROGRESS
    from mammopipe.pipelines.backends.processes import SupervisedProcess, job_environment
    from mammopipe.processing.container.job import cores

    given = {"--window-days": options.window_days, "--windows": options.windows, "--least-exams": options.least_exams}
    arguments = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    log = paths.base / "log"
    process = SupervisedProcess.start(
        [sys.executable, "-m", "mammopipe.inference.monitor", *arguments],
        folder=paths.base,
        log=log,
        environment=job_environment(paths.base, cores(), {}),
    )
    try:
        code = _wait(process, log)
    except BaseException:
        process.stop()
        raise
    if code:
        file = paths.output / "message"
        reason = file.read_text(encoding="utf-8") if file.is_file() else f"the monitor ended with exit code {code}"
        # The message names the job's temporary folders by their places in a container.
        raise ConfigError(reason.replace(str(paths.base), "/opt/ml"))
    # The other lines are for machines: metrics as JSON objects, and progress.
    lines = log.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith(("{", PROGRESS)))


def _wait(process: "SupervisedProcess", log: Path) -> int:
    """Return the job's exit code; on a terminal, show its last line of output after a while."""
    from rich.console import Console

    from mammopipe.pipelines.backends.jobs import last_line

    try:
        return process.wait(QUIET_SECONDS)
    except TimeoutExpired:
        with Console(stderr=True).status("judging") as status:
            while process.poll() is None:
                with suppress(TimeoutExpired):
                    process.supervisor.wait(QUIET_SECONDS)
                status.update(last_line(log) or "judging")
    return process.wait()


def put_metric(report: Mapping[str, Any], cloudwatch: Any) -> None:
    """Write the number of requests and the drift index to CloudWatch, when the job's log lines do not reach it.

    An undefined index is not written; otherwise an alarm for missing data would never fire.
    """
    values = _values(report["exams"], report["drift_index"], [])
    for name, group in report["groups"].items():
        exams = sum(week["exams"] for week in group["weeks"])
        values += _values(exams, group["strength"], [{"Name": "Group", "Value": name}])
    cloudwatch.put_metric_data(Namespace=NAMESPACE, MetricData=values)


def _values(exams: int, index: float | None, dimensions: list[dict[str, str]]) -> list[dict[str, Any]]:
    found = [(REQUESTS, exams, "Count"), (INDEX, index, "None")]
    return [
        {"MetricName": name, "Value": value, "Unit": unit, "Dimensions": dimensions}
        for name, value, unit in found
        if value is not None
    ]
