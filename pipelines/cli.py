"""Console script `mammopipe`: the arguments of every command. `mammopipe.pipelines.commands` does the work.

Exit codes: 0 success; 1 a run failed, its gate refused the model, or `doctor` or `monitor` found something; 2 the
arguments, the configuration, the data or S3 cannot be used (one line on stderr); 3 an error in this program (with its
traceback); 130 interrupted.
"""

import argparse
import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from mammopipe.pipelines.commands import config, data, evaluate, power, predict, run, runs, tune
from mammopipe.pipelines.commands.arguments import Parser, as_json, command, configured, in_runs
from mammopipe.processing.datasets.registry import DATASETS
from mammopipe.processing.errors import MammopipeError
from mammopipe.processing.phantoms import FILMS, PHANTOMS

if TYPE_CHECKING:
    from mammopipe.pipelines.commands.arguments import Subparsers

EPILOG = """exit codes: 0 done; 1 a run failed or its gate refused the model, or doctor or monitor found something;
2 arguments, configuration, data or S3 cannot be used; 3 a fault of this program; 4 the credentials have expired while a
run on AWS goes on; 130 interrupted.
Research use only: nothing here is a diagnosis."""


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of the disk, not of this program: full, over quota, read-only."""


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
        print("error: interrupted; every job was stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) closed the pipe; without this, Python reports an error when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in DISK:
            traceback.print_exc()
            return 3
        print(f"error: {error.filename or 'disk'}: {error.strerror}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 3


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
        _stage,
        _compile,
        _run,
        _experiment,
        _runs,
        _status,
        _report,
        _compare,
        _deploy,
        _invoke,
        evaluate.add,
        _delete,
        _doctor,
        _images,
        _cost,
        _monitor,
        _completion,
        config.add,
        data.add,
        power.add,
        predict.add,
        tune.add,
    ):
        add(subparsers)
    return parser


def _stage(subparsers: "Subparsers") -> None:
    parser = command(
        subparsers,
        "stage",
        "check a dataset, or pretrained weights, and upload what S3 lacks of it",
        "stage mias all-mias.tar.gz --to s3://BUCKET/mammopipe/raw/mias",
    )
    parser.add_argument("what", choices=[*DATASETS, "weights"])
    parser.add_argument(
        "source", type=Path, help="mias: tarball or folder; rsna: folder with train.csv; weights: file or folder"
    )
    parser.add_argument("--to", metavar="s3://...", help="default: the place that the configuration's pipeline reads")
    parser.add_argument("--config", type=Path, metavar="FILE")
    parser.set_defaults(command=run.stage)


def _compile(subparsers: "Subparsers") -> None:
    parser = command(
        subparsers,
        "compile",
        "write the pipeline's definition, the JSON that SageMaker takes",
        "compile -o pipeline.json",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("pipeline.json"), metavar="FILE")
    parser.add_argument("--pretrained", action="store_true", help="with the channel of staged weights")
    configured(parser)
    parser.set_defaults(command=run.compile_definition)


def _run(subparsers: "Subparsers") -> None:
    parser = command(
        subparsers, "run", "run the whole pipeline", "run --dataset mias --source all-mias.tar.gz --profile quick"
    )
    parser.add_argument("--backend", choices=["process", "docker", "aws"], default="process")
    parser.add_argument(
        "--source",
        default="",
        metavar="PATH|s3://...|phantoms",
        help="default: phantoms, synthetic films; on AWS the folder where the configuration's dataset is staged",
    )
    parser.add_argument("--films", type=int, help=f"how many phantoms (default: {FILMS})")
    parser.add_argument("--weights", default="", metavar="PATH|s3://...", help="pretrained weights to start from")
    parser.add_argument(
        "--keep-endpoint", action="store_true", help="leave the endpoint running; mammopipe delete ID ends it"
    )
    parser.add_argument("--detach", action="store_true", help="on AWS: start it and come back at once")
    configured(parser)
    in_runs(parser)
    parser.set_defaults(command=run.run)


def _experiment(subparsers: "Subparsers") -> None:
    parser = command(
        subparsers,
        "experiment",
        "run every network under every protocol, and tabulate what each figure is made of; goes on where it stopped",
        "experiment mias --source all-mias.tar.gz --profile full --out experiment",
    )
    parser.add_argument("dataset", choices=["mias"])
    parser.add_argument(
        "--source", default=PHANTOMS, metavar="PATH|phantoms", help="default: phantoms, synthetic films"
    )
    parser.add_argument("--films", type=int, help=f"how many phantoms (default: {FILMS})")
    parser.add_argument("--weights", default="", metavar="PATH", help="pretrained weights to start from")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file; data.seed is the seed of every cell")
    parser.add_argument("--profile", choices=["quick", "full"])
    parser.add_argument("--cnns", metavar="A,B", type=lambda text: text.split(","), help="default: the configuration's")
    parser.add_argument(
        "--protocols",
        metavar="A,B",
        type=lambda text: text.split(","),
        default=["patient", "film", "published"],
        help="default: patient,film,published",
    )
    parser.add_argument(
        "--noise", metavar="CNN|none", help="network of the noise controls, or none of them (default: the first CNN)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("experiment"),
        metavar="DIR",
        help="folder of results.csv, results.md, the figures, and of what each cell measured (default: experiment)",
    )
    parser.set_defaults(command=run.experiment)


def _runs(subparsers: "Subparsers") -> None:
    parser = command(subparsers, "runs", "list the runs", "runs")
    parser.add_argument(
        "--aws",
        nargs="?",
        type=int,
        const=20,
        metavar="N",
        help="also the N newest executions of the configuration's pipeline on AWS, whoever started them (default: 20)",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the pipeline's name; for --aws")
    as_json(parser)
    in_runs(parser)
    parser.set_defaults(command=runs.runs)


def _status(subparsers: "Subparsers") -> None:
    parser = command(subparsers, "status", "show a run's steps", "status latest")
    parser.add_argument("--watch", action="store_true", help="follow a run on AWS to its end")
    as_json(parser)
    _identified(parser)
    parser.set_defaults(command=runs.status)


def _report(subparsers: "Subparsers") -> None:
    parser = command(subparsers, "report", "show a run's figures and where its report lies", "report latest --open")
    _identified(parser)
    parser.add_argument("--open", action="store_true", help="open the report in the browser")
    as_json(parser)
    parser.set_defaults(command=runs.report)


def _compare(subparsers: "Subparsers") -> None:
    parser = command(
        subparsers, "compare", "show the figures of two or more runs side by side", "compare 20260102 latest"
    )
    parser.add_argument("ids", nargs="+", metavar="ID")
    parser.add_argument("--roc", type=Path, metavar="FILE", help="also draw their ROC curves together, as SVG")
    as_json(parser)
    in_runs(parser)
    parser.set_defaults(command=runs.compare)


def _deploy(subparsers: "Subparsers") -> None:
    parser = command(
        subparsers,
        "deploy",
        "serve a run's model on this machine until it is deleted, or a registered package on AWS",
        "deploy latest",
    )
    parser.add_argument(
        "--capture",
        action="store_true",
        help="keep requests and answers in the run's folder, the newest 5 GB of 90 days, for mammopipe monitor",
    )
    _identified(parser, default=None)
    aws = parser.add_mutually_exclusive_group()
    aws.add_argument("--package", metavar="ARN", help="serve this approved package on AWS, without down time")
    aws.add_argument("--rollback", action="store_true", help="serve the approved package before the one on AWS now")
    parser.add_argument("--no-wait", action="store_true", help="with --package or --rollback: do not wait for the end")
    configured(parser)
    parser.set_defaults(command=run.deploy)


def _images(subparsers: "Subparsers") -> None:
    parser = command(
        subparsers, "images", "build the container images, or push them to ECR", "images build --base-image python:3.11"
    )
    parser.add_argument(
        "action",
        choices=["build", "push", "tag"],
        help="tag prints what names them; push and tag take the options that they were built with",
    )
    parser.add_argument("--root", type=Path, default=Path(), metavar="DIR", help="the checkout (default: this folder)")
    parser.add_argument("--client", metavar="COMMAND", help="the Docker client (default: docker)")
    parser.add_argument("--base-image", default="", metavar="IMAGE", help="another base than the Dockerfile's")
    parser.add_argument("--torch-index", default="", metavar="URL", help="an index with other builds of torch")
    parser.add_argument("--serving-extra", default="", choices=["serving", "inference"], help="inference brings torch")
    parser.add_argument("--certificates", type=Path, metavar="FILE", help="what a proxy before the index needs")
    parser.set_defaults(command=run.images)


def _invoke(subparsers: "Subparsers") -> None:
    parser = command(
        subparsers,
        "invoke",
        "ask an endpoint about one image, or about the images of one exam",
        "invoke lcc.dcm lmlo.dcm --endpoint http://127.0.0.1:8080 --output answers",
    )
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="PGM, PNG or DICOM; several are one exam")
    parser.add_argument("--dicomweb", metavar="URL", help="ask about a study of this DICOMweb server instead of files")
    parser.add_argument("--study", metavar="UID", help="Study Instance UID, with --dicomweb")
    parser.add_argument("--store", action="store_true", help="store all DICOM results in the study, with --dicomweb")
    parser.add_argument("--endpoint", metavar="NAME|URL", help="default: the endpoint that the run ID keeps")
    parser.add_argument("--id", default="latest", help="the run whose endpoint is asked (default: latest)")
    per_file = "where the files do not say it: one for all, or one for each, as {}; an empty one says nothing"
    parser.add_argument("--laterality", metavar="L|R[,...]", help=per_file.format("L,L,R,R"))
    parser.add_argument("--view", metavar="CC|MLO[,...]", help=per_file.format("CC,MLO,CC,MLO"))
    parser.add_argument("--operating-point", choices=["sensitivity", "specificity"], help="default: sensitivity")
    parser.add_argument("--json", action="store_true", help="print the answer's JSON instead of tables")
    parser.add_argument(
        "--output", type=Path, default=Path(), metavar="FOLDER", help="where the overlays go (default: this folder)"
    )
    parser.add_argument(
        "--dicom", action="store_true", help="save a structured report and each overlay as DICOM, too; of DICOM files"
    )
    _asynchronously(parser)
    in_runs(parser)
    parser.set_defaults(command=run.invoke)


def _asynchronously(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--uploads", metavar="s3://...", help="S3 folder for what exceeds a real-time call (6 MB) and is asked async"
    )
    parser.add_argument("--async-endpoint", metavar="NAME", help="default: the endpoint's name with -async")
    parser.add_argument("--async", action="store_true", dest="asynchronous", help="ask async whatever the size")


def _delete(subparsers: "Subparsers") -> None:
    parser = command(subparsers, "delete", "stop the endpoint that a run keeps", "delete latest")
    _identified(parser)
    parser.set_defaults(command=run.delete)


def _doctor(subparsers: "Subparsers") -> None:
    parser = command(
        subparsers,
        "doctor",
        "check this machine, or an AWS account, before a run; exit code 1 when something blocks it",
        "doctor --aws",
    )
    parser.add_argument("--aws", action="store_true", help="the account of the credentials in use, not this machine")
    as_json(parser)
    in_runs(parser)
    configured(parser)
    parser.set_defaults(command=run.doctor, runs=None)


def _identified(parser: argparse.ArgumentParser, *, default: str | None = "latest") -> None:
    parser.add_argument(
        "id", nargs="?", default=default, metavar="ID", help="a run's id, the beginning of one, or latest (the default)"
    )
    in_runs(parser)


def _cost(subparsers: "Subparsers") -> None:
    text = "show what a run will cost, step by step; or, of a run's ID, what it did cost"
    parser = command(subparsers, "cost", text, "cost --dataset rsna --images 10000000 --instances 50")
    parser.set_defaults(command=cost)
    parser.add_argument("id", nargs="?", metavar="ID", help="a run, or latest; without it, the run that would start")
    parser.add_argument("--images", type=int, metavar="N", help="images of the dataset (default: all that it has)")
    parser.add_argument("--instances", type=int, metavar="N", help="processing instances, over the configuration's")
    parser.add_argument("--training-instances", type=int, metavar="N", help="of each candidate's training job")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="TOML file as pipelines/costs/prices.toml")
    parser.add_argument("--throughput", type=Path, metavar="FILE", help="TOML file as pipelines/costs/throughput.toml")
    parser.add_argument("--config", type=Path, metavar="FILE")
    parser.add_argument("--profile", choices=["quick", "full"])
    parser.add_argument("--dataset", choices=[*DATASETS])
    as_json(parser)
    in_runs(parser)


def _monitor(subparsers: "Subparsers") -> None:
    text = "compare captured requests with what the model learnt; exit code 1 when they have drifted"
    parser = command(subparsers, "monitor", text, "monitor latest --captures s3://BUCKET/mammopipe/capture/mammopipe")
    parser.set_defaults(command=monitor)
    parser.add_argument("id", nargs="?", default="latest", metavar="ID", help="the run whose model is served")
    parser.add_argument("--captures", required=True, metavar="FOLDER|s3://...", help="what data capture wrote")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="baseline.json of films that were accepted")
    parser.add_argument("--output", type=Path, default=Path("monitor"), metavar="FOLDER", help="default: monitor")
    parser.add_argument("--window-days", type=int, metavar="N", help="days of one window (default: 7)")
    parser.add_argument("--windows", type=int, metavar="N", help="newest windows that are looked at (default: 26)")
    parser.add_argument("--least-exams", type=int, metavar="N", help="requests that a window needs (default: 20)")
    parser.add_argument("--put-metric", action="store_true", help="also write the metric to CloudWatch")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the region of s3:// and metric")
    parser.add_argument("--json", action="store_true", help="print drift.json instead of the summary")
    in_runs(parser)


def _completion(subparsers: "Subparsers") -> None:
    text = "print the script by which a shell completes commands and options"
    parser = command(subparsers, "completion", text, "completion bash >> ~/.bashrc")
    parser.set_defaults(command=completion)
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])


def cost(options: argparse.Namespace) -> int:
    """Show the estimated cost of a run, or the cost of a finished one."""
    from mammopipe.pipelines.commands import cost as cost_command

    return cost_command.run(options)


def monitor(options: argparse.Namespace) -> int:
    """Compare captured requests with the data that the model was trained on."""
    from mammopipe.pipelines.commands import monitor as monitor_command

    return monitor_command.run(options)


def completion(options: argparse.Namespace) -> int:
    """Print a shell's completion script."""
    import shtab

    print(shtab.complete(build_parser(), shell=options.shell))
    return 0


if __name__ == "__main__":
    console()
