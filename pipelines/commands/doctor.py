"""`mammopipe doctor`: checks this machine, or an AWS account, before a run."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from mammopipe.pipelines.commands.arguments import (
    Subparsers,
    as_json,
    command,
    configuration,
    configured,
    in_runs,
    refuse,
)


def add(subparsers: Subparsers) -> None:
    """Add the parser of `doctor`."""
    parser = command(
        subparsers,
        "doctor",
        "check this machine, or an AWS account, before a run; exit code 1 when something blocks it",
        "doctor --aws",
    )
    parser.add_argument(
        "--aws", action="store_true", help="check the account of the credentials in use, instead of this machine"
    )
    as_json(parser)
    in_runs(parser)
    configured(parser)
    parser.set_defaults(command=doctor, runs=None)


def doctor(options: argparse.Namespace) -> int:
    """Report problems that would make a run fail, on this machine or on AWS."""
    from mammopipe.pipelines.backends import sessions
    from mammopipe.pipelines.doctor import machine
    from mammopipe.pipelines.doctor.aws import examine
    from mammopipe.pipelines.doctor.findings import Severity
    from mammopipe.pipelines.runs.progress import waiting

    config = configuration(options)
    if options.aws:
        refuse(options, "runs", rule="names a folder of this machine, but --aws checks an account")
        with waiting("asking AWS"):
            found = examine(config, sessions.caller_session(config))
    else:
        found = machine.examine(options.runs or Path("runs"))
    if options.json:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        machine.show(found)
    return int(any(finding.verdict is Severity.BLOCKS for finding in found))
