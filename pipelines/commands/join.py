"""`mammopipe join`: several datasets in one folder for training."""

import argparse
from pathlib import Path

from mammopipe.pipelines.commands.arguments import Subparsers, command


def add(subparsers: Subparsers) -> None:
    """Add the parser of `join`."""
    parser = command(
        subparsers,
        "join",
        "join several datasets into one folder for `run --dataset own`, with the dataset of each image recorded",
        "join joined mias=all-mias inbreast=INbreast",
    )
    parser.add_argument("output", type=Path, metavar="DIR", help="new folder, which gets a manifest and links")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="NAME=FOLDER",
        help="a dataset and its folder as released, such as inbreast=INbreast",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file; [data] divides datasets without a released split"
    )
    parser.set_defaults(command=join)


def join(options: argparse.Namespace) -> int:
    """Write the joined datasets and print their counts; return 0."""
    from collections import Counter

    from mammopipe.pipelines.config.pipeline import PipelineConfig
    from mammopipe.pipelines.data import join as joining

    config = PipelineConfig.load(options.config)
    table = joining.join(joining.sources_of(options.sources), options.output, config.data.split)
    for name, count in sorted(Counter(record.dataset for record in table.records).items()):
        labels = Counter(str(record.label) for record in table.records if record.dataset == name)
        print(f"{name:<12} {count} images: " + ", ".join(f"{label} {labels[label]}" for label in sorted(labels)))
    print(f"refused      {len(table.refused)}")
    print(f"without row  {len(table.unlabelled)}")
    print(f"Train on them: mammopipe run --dataset own --source {options.output}")
    return 0
