"""Console script `mammopipe`: the parser of all commands. Each command is one file of `mammopipe.pipelines.commands`.

Exit codes: 0 success; 1 a run failed, its gate refused the model, or `doctor` or `monitor` found something; 2 the
arguments, the configuration, the data or S3 cannot be used (one line on stderr); 3 an error in this program (with its
traceback); 130 interrupted.
"""

import argparse
import errno
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from mammopipe.pipelines.commands import (
    clean,
    config,
    cost,
    data,
    doctor,
    image_builds,
    join,
    run,
    runs,
    shell_completion,
    stage,
)
from mammopipe.pipelines.commands.arguments import Parser
from mammopipe.pipelines.commands.models import deploy, evaluate, invoke, monitor, predict
from mammopipe.pipelines.commands.studies import experiment, power, tune
from mammopipe.processing.errors import MammopipeError
from mammopipe.processing.files import DISK, disk_fault

EPILOG = """exit codes: 0 done; 1 a run failed or its gate refused the model, or doctor or monitor found something;
2 arguments, configuration, data or S3 cannot be used; 3 a fault of this program; 4 the credentials have expired; a run
on AWS goes on; 130 interrupted.
Research use only: nothing here is a diagnosis."""


PLACES = (
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.ELOOP),
)
"""Errors of a path that the user gave: it cannot be read or written."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = build_parser().parse_args(arguments)
    try:
        signal.signal(signal.SIGTERM, _interrupt)
        code: int = options.command(options)
        sys.stdout.flush()
        return code
    except MammopipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        again = f"; {options.again}" if hasattr(options, "again") else ""
        print(f"error: interrupted; every job was stopped{again}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) closed the pipe; without this, Python reports an error when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in DISK and not (error.errno in PLACES and _is_given(error.filename, options)):
            traceback.print_exc()
            return 3
        _say_disk(options, str(error.filename or ""), str(error.strerror))
        return 2
    except Exception as error:
        if fault := disk_fault(error):
            _say_disk(options, "", fault)
            return 2
        traceback.print_exc()
        return 3


def _say_disk(options: argparse.Namespace, place: str, fault: str) -> None:
    """Print what is wrong with which disk, and how to go on; an error while writing names no file."""
    place = place or " or ".join(str(path) for path in (getattr(options, "runs", ""), tempfile.gettempdir()) if path)
    again = f"; make room, then {options.again}" if hasattr(options, "again") else ""
    print(f"error: {place}: {fault}{again}", file=sys.stderr)


def _is_given(name: object, options: argparse.Namespace) -> bool:
    """Return whether an error names a path among the arguments, or a folder above one."""
    given = [value for value in vars(options).values() if isinstance(value, Path)]
    path = Path(str(name)).absolute()
    return any(path == other.absolute() or path in other.absolute().parents for other in given)


def console() -> None:
    """Run the command in the process's arguments and exit with its code."""
    sys.exit(main())


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="mammopipe", description="From mammograms to a model on an endpoint, offline or on AWS.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"mammopipe {version('mammopipe')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        stage.add,
        run.add_compile,
        run.add,
        experiment.add,
        runs.add,
        runs.add_status,
        runs.add_report,
        runs.add_compare,
        deploy.add,
        invoke.add,
        evaluate.add,
        deploy.add_delete,
        doctor.add,
        clean.add,
        image_builds.add,
        cost.add,
        monitor.add,
        partial(shell_completion.add, whole=parser),
        config.add,
        data.add,
        join.add,
        power.add,
        predict.add,
        tune.add,
    ):
        add(subparsers)
    return parser


if __name__ == "__main__":
    console()
