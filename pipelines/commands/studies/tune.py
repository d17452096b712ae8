"""`mammopipe tune`: search over configuration keys."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mammopipe.pipelines.commands.arguments import (
    Subparsers,
    command,
    configuration,
    configured,
    phantoms_argument,
    phantoms_of,
)
from mammopipe.processing.phantoms import PHANTOMS

if TYPE_CHECKING:
    from mammopipe.pipelines.config.pipeline import PipelineConfig


def add(subparsers: Subparsers) -> None:
    """Add the parser of `tune`."""
    text = "search for the best values of configuration keys on validation, one run per trial; resumes a stopped search"
    example = "tune --set 'training.learning_rate=log(1e-5,1e-2)' --set training.epochs=5 --trials 20"
    parser = command(subparsers, "tune", text, example)
    parser.add_argument(
        "--trials", type=int, default=20, metavar="N", help="trials, those of a stopped search included (default: 20)"
    )
    parser.add_argument(
        "--source",
        default="",
        metavar="PATH|phantoms",
        help="folder, tarball or table of the images (default: phantoms, synthetic images)",
    )
    phantoms_argument(parser)
    parser.add_argument("--weights", default="", metavar="PATH", help="pretrained weights to start from")
    parser.add_argument("--out", type=Path, default=Path("tune"), metavar="DIR", help="folder of the study, its runs, "
                        "trials.csv and trials.png (default: tune)")  # fmt: skip
    configured(parser)
    again = "start the same command again: finished trials are kept, and the search continues"
    parser.set_defaults(command=tune, again=again)


def tune(options: argparse.Namespace) -> int:
    """Run the missing trials and print which one is best."""
    from mammopipe.pipelines.experiment import tune as search

    spaces = [space for space in map(search.space_of, options.assignments) if space is not None]
    fixed = [text for text in options.assignments if search.space_of(text) is None]
    phantoms_of(options, made=options.source in ("", PHANTOMS))

    def configure(assignments: Sequence[str]) -> "PipelineConfig":
        return configuration(argparse.Namespace(**{**vars(options), "assignments": [*fixed, *assignments]}))

    study = search.run(
        search.Search(configure, spaces, options.trials, options.out, options.source, options.phantoms, options.weights)
    )
    best = search.rows(study)[0]
    print(f"\nBest: trial {best['trial']}, run {best['run']}: {best[f'validation_{search.MEASURE}']:.3f}")
    for key, value in study.best_params.items():
        print(f"  --set {key}={value}")
    print(
        f"All trials: {options.out / search.TABLE} and {options.out / search.PICTURE}. Only validation chose the best."
    )
    return 0
