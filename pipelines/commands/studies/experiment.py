"""`mammopipe experiment`: every network under every protocol."""

import argparse
from pathlib import Path

from mammopipe.pipelines.commands.arguments import (
    Subparsers,
    command,
    configured,
    one_of,
    phantoms_argument,
    phantoms_of,
)
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.phantoms import PHANTOMS

LEAVE_ONE_OUT = "leave-one-out"


def add(subparsers: Subparsers) -> None:
    """Add the parser of `experiment`."""
    parser = command(
        subparsers,
        "experiment",
        "run every network under every protocol and tabulate the results; resumes an interrupted experiment",
        "experiment mias --source all-mias.tar.gz --profile full --out experiment",
    )
    _add_images(parser)
    configured(parser, "recipe", "config", "set", "profile", "cnns")
    parser.add_argument(
        "--protocols",
        metavar="A,B",
        type=lambda text: text.split(","),
        default=["patient", "film", "published"],
        help="what is divided into splits, separated by commas (default: patient,film,published)",
    )
    parser.add_argument(
        "--noise",
        metavar="CNN|none",
        help="network that is also trained on images of noise, or none (default: the first network)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("experiment"),
        metavar="DIR",
        help="folder of results.csv, results.md, the plots and each cell's files (default: experiment)",
    )
    again = "start the same command again: finished cells are kept"
    parser.set_defaults(command=experiment, again=again)


def _add_images(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the datasets, their images and the pretrained weights."""
    parser.add_argument(
        "dataset",
        choices=["mias", LEAVE_ONE_OUT],
        help="mias: networks and protocols on mini-MIAS; leave-one-out: train on all datasets but one, evaluate on it",
    )
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="NAME=FOLDER",
        help="only with leave-one-out: the datasets, such as inbreast=INbreast",
    )
    parser.add_argument(
        "--source",
        default=PHANTOMS,
        metavar="PATH|phantoms",
        help="only with mias: tarball or folder (default: phantoms, synthetic images)",
    )
    phantoms_argument(parser)
    parser.add_argument("--weights", default="", metavar="PATH", help="pretrained weights to start from")


def _leave_one_out(options: argparse.Namespace) -> int:
    """Train and evaluate once for each dataset, and print the table; return 1 if a run failed."""
    from mammopipe.pipelines.config.pipeline import PipelineConfig
    from mammopipe.pipelines.data.join import sources_of
    from mammopipe.pipelines.experiment.leave_one_out import leave_one_out

    config = PipelineConfig.load(
        options.config,
        recipe=options.recipe,
        assignments=options.assignments,
        profile=options.profile,
        cnns=options.cnns,
    )
    rows = leave_one_out(config, sources_of(options.sources), options.out, weights=options.weights)
    print((options.out / "leave_one_out.md").read_text(encoding="utf-8"))
    return int(any(row["status"] != "measured" for row in rows))


def experiment(options: argparse.Namespace) -> int:
    """Run the unfinished cells of the experiment over networks and protocols, and print where its tables are."""
    from mammopipe.pipelines.config.pipeline import PipelineConfig
    from mammopipe.pipelines.experiment import matrix
    from mammopipe.processing.datasets.manifest import SplitProtocol
    from mammopipe.training.model.architecture import find_architecture

    if options.dataset == LEAVE_ONE_OUT:
        return _leave_one_out(options)
    if options.sources:
        raise ConfigError(f"{options.sources[0]}: only leave-one-out takes datasets as NAME=FOLDER; mias has --source")
    given = {"profile": options.profile, "dataset": options.dataset, "cnns": options.cnns}
    config = PipelineConfig.load(options.config, recipe=options.recipe, assignments=options.assignments, **given)
    protocols = tuple(one_of(SplitProtocol, word, "--protocols") for word in options.protocols)
    noise = find_architecture(options.noise or config.cnns[0]).name if options.noise != "none" else None
    images = phantoms_of(options, made=options.source == PHANTOMS)
    plan = matrix.Experiment(config, protocols, noise, options.source, images, options.weights)
    failures = matrix.run(plan, options.out)
    print(f"\nTables and figures in {options.out}/: results.md, results.csv, *.svg; each cell's report in cells/")
    for failure in failures:
        print(f"Cell {failure}", flush=True)
    return 1 if failures else 0
