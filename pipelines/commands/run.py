"""`mammopipe run` and `compile`: run the pipeline, or write its definition."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from mammopipe.pipelines.commands.arguments import (
    Subparsers,
    command,
    configuration,
    configured,
    in_runs,
    parameters_of,
    phantoms_argument,
    phantoms_of,
    refuse,
)
from mammopipe.pipelines.runs.folder import AGAIN
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import DISK
from mammopipe.processing.phantoms import PHANTOMS

_RESULTS: Mapping[str, str] = {
    "report.html": "figures, plots and example images",
    "evaluation.json": "the same figures for programs",
    "predictions.csv": "every network's prediction for every evaluated image",
    "model_card.md": "what the model is, for whom, and what it is not for",
    "model.tar.gz": "the chosen model",
    "invocation.json": "the endpoint's answer to a test image",
    "invocation-async.json": "the async endpoint's answer to it",
    "execution.json": "every step's status and seconds",
    "pipeline.json": "the compiled definition",
    "tensorboard": "the learning curves; tensorboard --logdir shows them",
    "pictures": "augmented images, montage of the segmentation",
    "logs": "what each job printed",
    "endpoint.json": "the endpoint that was kept; mammopipe delete stops it",
    "endpoint-async.json": "the async endpoint that was kept",
}


def add(subparsers: Subparsers) -> None:
    """Add the parser of `run`."""
    parser = command(
        subparsers, "run", "run the whole pipeline", "run --dataset mias --source all-mias.tar.gz --profile quick"
    )
    parser.add_argument(
        "--backend",
        choices=["process", "docker", "aws"],
        default="process",
        help="process: local processes (the default); docker: local containers; aws: SageMaker",
    )
    parser.add_argument(
        "--source",
        default="",
        metavar="PATH|s3://...|phantoms",
        help="default: phantoms, synthetic images; on AWS the folder where the configuration's dataset is staged",
    )
    phantoms_argument(parser)
    parser.add_argument("--weights", default="", metavar="PATH|s3://...", help="pretrained weights to start from")
    parser.add_argument(
        "--keep-endpoint", action="store_true", help="leave the endpoint running; mammopipe delete ID stops it"
    )
    parser.add_argument("--detach", action="store_true", help="on AWS: start the run and return at once")
    configured(parser)
    in_runs(parser)
    parser.set_defaults(command=run, again=AGAIN)


def add_compile(subparsers: Subparsers) -> None:
    """Add the parser of `compile`."""
    parser = command(
        subparsers,
        "compile",
        "write the pipeline's definition, the JSON that SageMaker takes",
        "compile -o pipeline.json",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("pipeline.json"),
        metavar="FILE",
        help="the file to write (default: pipeline.json)",
    )
    parser.add_argument(
        "--pretrained", action="store_true", help="give training the channel of staged weights, as pretrained = true"
    )
    configured(parser)
    parser.set_defaults(command=compile_definition)


def run(options: argparse.Namespace) -> int:
    """Run the pipeline and print where the results are."""
    from mammopipe.pipelines.backends.step_status import Status
    from mammopipe.pipelines.commands import runs
    from mammopipe.pipelines.runs.launch import start

    if options.backend != "aws":
        refuse(options, "detach", rule=f"only with --backend aws, not {options.backend}")
    made = options.backend != "aws" and options.source in ("", PHANTOMS)
    config = configuration(options)
    done = start(
        config,
        backend=options.backend,
        source=options.source,
        phantoms=phantoms_of(options, made=made),
        weights=options.weights,
        parameters=parameters_of(options),
        runs=options.runs,
        keep_endpoint=options.keep_endpoint,
    )
    if done.folder is None:
        return runs.follow(options.runs, config, done.arn, detach=options.detach)
    _say_where(options.runs, done.folder)
    failed = done.status is not Status.SUCCEEDED
    if failed:
        print(f"Run {done.id} {str(done.status).lower()}: {done.reason}", flush=True)
    if done.untracked:  # printed last, to be seen
        raise ConfigError(done.untracked)
    full = any(os.strerror(number) in done.reason for number in DISK)
    return 2 if full else int(failed)


def _say_where(root: Path, folder: Path) -> None:
    shown = root / "latest" if (root / "latest").resolve() == folder.resolve() else folder
    print(f"\nResults in {shown}/ ({folder.name}):")
    for name, what in _RESULTS.items():
        if (folder / name).exists():
            print(f"  {shown / name!s:<40} {what}")


def compile_definition(options: argparse.Namespace) -> int:
    """Write the compiled definition."""
    from mammopipe.pipelines.runs.progress import waiting
    from mammopipe.processing.files import write_bytes

    config = configuration(options, pretrained=options.pretrained or None)
    with waiting("compiling"):
        from mammopipe.pipelines.graph.definition import build_pipeline

        definition = build_pipeline(config.on_aws()).definition()
    write_bytes(options.output, definition.encode())
    print(f"Compiled {options.output} ({len(definition)} bytes)")
    return 0
