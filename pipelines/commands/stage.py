"""`mammopipe stage`: uploads a dataset or pretrained weights to S3."""

import argparse
from pathlib import Path

from mammopipe.pipelines.commands.arguments import Subparsers, command
from mammopipe.processing.datasets.registry import DATASETS


def add(subparsers: Subparsers) -> None:
    """Add the parser of `stage`."""
    parser = command(
        subparsers,
        "stage",
        "check a dataset or pretrained weights, and upload the files that S3 lacks",
        "stage mias all-mias.tar.gz --to s3://BUCKET/mammopipe/raw/mias",
    )
    parser.add_argument("what", choices=[*DATASETS, "weights"], help="the dataset, or pretrained weights")
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="mias: tarball or folder; weights: file or folder; the other datasets: folder as released",
    )
    parser.add_argument(
        "--to", metavar="s3://...", help="target folder (default: the one that the configuration's pipeline reads)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file; mammopipe config show prints all keys")
    again = "start the same command again: it uploads what is missing"
    parser.set_defaults(command=stage, again=again)


def stage(options: argparse.Namespace) -> int:
    """Upload a dataset or weights."""
    from mammopipe.pipelines.backends import sessions
    from mammopipe.pipelines.config.pipeline import PipelineConfig
    from mammopipe.pipelines.data import staging

    config = PipelineConfig.load(options.config)
    storage = sessions.caller_storage(config)
    if options.what == "weights":
        staged = staging.stage_weights(options.source, options.to or config.storage.uri("weights"), storage)
    else:
        from mammopipe.pipelines.runs.sources import stage_source

        uri = options.to or config.storage.uri("raw", options.what)
        staged = stage_source(config.replace(dataset=options.what), options.source, uri, storage)
    print(f"Staged {staged}" + (" (synthetic images)" if staged.synthetic else ""))
    return 0
