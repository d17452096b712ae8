"""`mammopipe evaluate MODEL DATASET`: evaluates a model on a labelled dataset that it has never seen."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mammopipe.pipelines.commands.arguments import Subparsers, command, in_runs
from mammopipe.pipelines.commands.models.predict import model_directory
from mammopipe.processing.datasets.manifest import Split
from mammopipe.processing.datasets.registry import EVALUATED, dataset_in

if TYPE_CHECKING:
    from mammopipe.processing.datasets.definition import Dataset


def add(subparsers: Subparsers) -> None:
    """Add the command's parser."""
    parser = command(
        subparsers,
        "evaluate",
        "evaluate a model on a labelled dataset that it has never seen: figures, calibration, drift, one report",
        "evaluate runs/latest/model.tar.gz INbreast/ -o inbreast-evaluation",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a run's ID, model.tar.gz, the model directory, or a model package's ARN"
    )
    parser.add_argument(
        "dataset", type=Path, metavar="DATASET", help="folder of the dataset as released, or a site's own table"
    )
    parser.add_argument(
        "--as", dest="name", choices=[*EVALUATED], help="name of the dataset (default: recognised by its label table)"
    )
    parser.add_argument(
        "--split", type=Split, choices=list(Split), help="evaluate only this split of the released table (default: all)"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file with [own], which maps the columns of a site's table"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("external"),
        metavar="DIR",
        help="folder of the results (default: external)",
    )
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="bootstrap samples of each interval (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the bootstrap samples (default: 0)")
    in_runs(parser)
    again = "start the same command again: images that are already judged are skipped"
    parser.set_defaults(command=evaluate, again=again)


def evaluate(options: argparse.Namespace) -> int:
    """Write `external.json`, `predictions.csv`, `refused.csv` and `report.html`; return 0."""
    # Imported here: the model needs the packages of the extra `inference`; the other commands do not.
    from mammopipe.pipelines.external_evaluation.run import evaluate_model

    with model_directory(options.model, options.runs) as model, _dataset(options) as (dataset, folder):
        found = evaluate_model(
            model,
            dataset,
            folder,
            options.output,
            bootstrap=options.bootstrap,
            seed=options.seed,
            split=options.split,
        )
    print(found)
    return 0


@contextmanager
def _dataset(options: argparse.Namespace) -> "Iterator[tuple[Dataset, Path]]":
    """Yield the dataset and its folder; for a site's own table, a scratch folder with links to its images."""
    from mammopipe.pipelines.config.pipeline import PipelineConfig
    from mammopipe.processing.datasets.own import DATASET, NAME, arrange

    source = options.dataset
    if not source.is_file() and (options.name != NAME or (source / DATASET.label_table).is_file()):
        yield dataset_in(source, options.name)
        return
    with TemporaryDirectory() as scratch:
        table = arrange(source, Path(scratch), PipelineConfig.load(options.config).own)
        for _, reason in table.refused:
            print(f"left out: {reason}", file=sys.stderr)
        yield dataset_in(Path(scratch), NAME)
