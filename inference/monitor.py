"""The monitor job: compares captured requests with the training data, and writes a report and CloudWatch metrics.

It reads the processing inputs `captures` (data capture's files), `model` (`model.tar.gz`, or a model directory) and
optionally `baseline` (`baseline.json`: distributions that a user has accepted). It writes the processing output
`monitor`: `drift.json`, `drift.html`, and a `baseline.json` of these captures, which a user may accept. The metrics are
log lines in CloudWatch's embedded metric format, so the job needs no network (`mammopipe.inference.server.cloudwatch`).
"""

import argparse
import json
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mammopipe.inference.monitoring.captures import Captures
from mammopipe.inference.monitoring.drift import DriftConfig, GroupDrift, Verdict, accepted, gather, judge
from mammopipe.inference.monitoring.page import render
from mammopipe.inference.server.cloudwatch import Unit
from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.container.arguments import add_arguments, settings_in
from mammopipe.processing.container.job import run
from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes, write_json
from mammopipe.training.model.description import DESCRIPTION_FILE, check_description
from mammopipe.training.model.drift_features import Distributions, from_json, to_json
from mammopipe.training.model.exam_scores import Level

SCHEMA = 1
NAMESPACE = "Mammopipe/Drift"
REQUESTS, INDEX = "Requests", "DriftIndex"
"""Names of two metrics: the number of captured requests read; and the strongest test of the last window, as a share of
its limit, absent if no window could be judged. The alarm of infra/stack.yaml fires at 1."""
UNREADABLE = "UnreadableShare"
"""Name of a metric: the share of captured requests without a readable image."""
UNITS: Mapping[str, Unit] = {REQUESTS: Unit.COUNT, INDEX: Unit.NONE, UNREADABLE: Unit.NONE}
DIMENSION = "Group"
MOST_UNREADABLE = 0.5
"""Share of captured requests without a readable image above which the job fails and judges nothing."""


def main(arguments: Sequence[str]) -> None:
    """Run the job on the container's folders."""
    parser = argparse.ArgumentParser(
        prog="python -m mammopipe.inference.monitor", description=__doc__, allow_abbrev=False
    )
    add_arguments(parser, DriftConfig)
    config = settings_in(parser.parse_args(arguments), DriftConfig)
    paths = ContainerPaths.from_environment()
    description = read_model(paths.processing_input("model"))
    captures = Captures(
        paths.processing_input("captures"),
        PreprocessConfig.from_json(description["preprocess"]),
        config.span,
        description["calibration"].get("prevalence", {}).get(Level.IMAGE),
    )
    report, own = examine(captures, description, _baseline(paths.processing_input("baseline")), config)
    target = paths.processing_output("monitor")
    write_json(target / "baseline.json", own)
    write_bytes(target / "drift.html", render(report).encode())
    write_json(target / "drift.json", report)
    for line in metric_lines(report, time.time()):
        print(json.dumps(line), flush=True)
    print(summary(report), flush=True)


def read_model(folder: Path) -> Mapping[str, Any]:
    """Return the model's description from a directory or from the archive in it; does not unpack the weights."""
    archive, where = folder / "model.tar.gz", folder / DESCRIPTION_FILE
    try:
        if archive.is_file():
            with tarfile.open(archive, "r:gz") as packed:
                member = packed.extractfile(DESCRIPTION_FILE)
                content = member.read() if member else b""
        else:
            content = where.read_bytes()
        description: Mapping[str, Any] = json.loads(content)
    except (OSError, KeyError, ValueError, tarfile.TarError) as error:
        raise ConfigError(f"{folder}: neither model.tar.gz nor {DESCRIPTION_FILE} can be read: {error}") from None
    check_description(description, where)
    return description


def _baseline(folder: Path) -> Distributions:
    file = folder / "baseline.json"
    if not file.is_file():
        return {}
    try:
        return from_json(json.loads(file.read_text(encoding="utf-8"))["distributions"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: not a baseline of this version: {error}") from None


def examine(
    captures: Captures, description: Mapping[str, Any], baseline: Distributions, config: DriftConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `drift.json` and `baseline.json` of the captures; raises `ConfigError` if most are unreadable."""
    groups = gather(captures.exams(), config)
    unreadable = sum(captures.unreadable.values())
    exams = sum(window.exams for window in groups.get("all", ()))
    if unreadable > MOST_UNREADABLE * (exams + unreadable):
        reason, times = captures.unreadable.most_common(1)[0]
        raise ConfigError(
            f"{captures.folder}: {unreadable} of {exams + unreadable} captured requests have no readable image, "
            f"{times} of them: {reason}"
        )
    of_training = from_json(description.get("reference", {}).get("distributions", {}))
    judged = judge(groups, of_training, baseline, config)
    strength = max((group.strength for group in judged if group.strength is not None), default=None)
    report = {
        "schema": SCHEMA,
        "verdict": Verdict.of(strength),
        "model": f"{description['architecture']}-{description['weights_sha256'][:12]}",
        "window_days": config.window_days,
        "least_exams": config.least_exams,
        "false_alarm_windows": config.false_alarm_windows,
        "exams": exams,
        "unreadable": dict(captures.unreadable),
        "unreadable_share": round(unreadable / max(1, exams + unreadable), 4),
        "drift_index": None if strength is None else round(strength, 4),
        "alarms": _alarms(judged),
        "groups": {group.name: group.as_dict() for group in judged},
    }
    return report, {"schema": SCHEMA, "model": report["model"], "distributions": to_json(accepted(groups, config))}


def _alarms(groups: Sequence[GroupDrift]) -> list[dict[str, Any]]:
    """Return the firing alarms, the strongest first: each with its group, its reference and its test."""
    found = []
    for group in groups:
        for name in group.alarms():
            figure = group.figures[name]
            # The test that is stronger, each as a share of its limit.
            by_index = figure.index[-1] / figure.index_limit[-1] >= figure.cusum[-1] / figure.cusum_limit
            found.append(
                {
                    "group": group.name,
                    "known": group.known,
                    "figure": name,
                    "test": "stability index" if by_index else "cusum",
                    "strength": round(figure.strength[-1], 3),
                }
            )
    return sorted(found, key=lambda alarm: -float(alarm["strength"]))


def metric_lines(report: Mapping[str, Any], time_s: float) -> list[dict[str, Any]]:
    """Return the log lines that CloudWatch turns into metrics: one for all groups and one for each group."""
    whole = {REQUESTS: report["exams"], INDEX: report["drift_index"], UNREADABLE: report["unreadable_share"]}
    lines = [_embedded(whole, {}, time_s)]
    return lines + [
        _embedded(
            {REQUESTS: sum(window["exams"] for window in group["weeks"]), INDEX: group["strength"]},
            {DIMENSION: name},
            time_s,
        )
        for name, group in report["groups"].items()
    ]


def _embedded(found: Mapping[str, float | None], dimensions: Mapping[str, str], time_s: float) -> dict[str, Any]:
    values = {name: value for name, value in found.items() if value is not None}
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": name, "Unit": str(UNITS[name])} for name in values],
    }
    return {"_aws": {"Timestamp": int(time_s * 1000), "CloudWatchMetrics": [directive]}, **dimensions, **values}


def summary(report: Mapping[str, Any]) -> str:
    """Return the verdict as lines of text."""
    over = f"{report['exams']} requests in {len(report['groups'])} groups"
    if report["drift_index"] is None:
        lines = [
            f"{report['verdict']}: {over}, but no window of {report['window_days']} days has "
            f"{report['least_exams']} of them, the minimum for a test"
        ]
    else:
        lines = [f"{report['verdict']}: drift index {report['drift_index']:.2f} (alarm at 1) over {over}"]
    for alarm in report["alarms"]:
        lines.append(
            f"  {alarm['group']:<24} {alarm['figure']:<20} {alarm['test']:<16} {alarm['strength']:.2f} times "
            f"its limit, against {alarm['known']}"
        )
    if report["unreadable"]:
        lines += [
            f"  {times} requests have no readable image: {reason}" for reason, times in report["unreadable"].items()
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(main, "message"))
