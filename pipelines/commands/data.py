"""`mammopipe data check`: checks a site's own table and images."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mammopipe.pipelines.commands.arguments import Subparsers, as_json, command
from mammopipe.processing.errors import ConfigError

if TYPE_CHECKING:
    from mammopipe.pipelines.data.check import DatasetCheck

NOTES = {
    "densities": " (as the table writes them; MIAS: F fatty, G fatty-glandular, D dense-glandular; BI-RADS: A almost "
    "entirely fatty, B scattered, C heterogeneously dense, D extremely dense)",
    "findings": " (as the table writes them)",
}
"""Explanation behind the counts of words with two meanings: the D of MIAS is not the D of BI-RADS."""
SHOWN = 10
"""Number of refused images to print; --json has all."""


def add(subparsers: Subparsers) -> None:
    """Add the parser of `data`."""
    text = (
        "check a table and its images: counts, what is missing, what will be refused; exit code 1 if a run would fail"
    )
    parser = command(subparsers, "data", text, "data check labels.csv --config own.toml --montage montage.png")
    parser.add_argument("action", choices=["check"], help="reads the table and its images; starts nothing")
    parser.add_argument(
        "table", type=Path, metavar="TABLE", help="CSV file, spreadsheet or Parquet file, or the folder that holds one"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with [own], which maps the columns")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assignments",
        help="sets any key of the configuration; may be repeated",
    )
    parser.add_argument("--table-only", action="store_true", help="do not read the images")
    parser.add_argument("--montage", type=Path, metavar="PNG", help="also draw up to 32 of the images")
    as_json(parser)
    parser.set_defaults(command=check)


def check(options: argparse.Namespace) -> int:
    """Print the contents and problems of the dataset; returns 1 if a run could not succeed."""
    from mammopipe.pipelines.config.pipeline import PipelineConfig
    from mammopipe.pipelines.data.check import check_dataset
    from mammopipe.processing.datasets.own import images_of, read_own, unused_columns
    from mammopipe.processing.datasets.own_table import find_table

    if options.montage and options.montage.suffix.lower() != ".png":
        raise ConfigError(f"--montage {options.montage}: is written as PNG; give a name that ends in .png")
    if options.table_only and options.montage:
        raise ConfigError("--montage: needs the images, which --table-only does not read")
    config = PipelineConfig.load(options.config, assignments=options.assignments)
    table = read_own(options.table, config.own)
    images = images_of(find_table(options.table), config.own)
    found = check_dataset(table, images, config, read=not options.table_only)
    if options.montage:
        from mammopipe.processing.jobs.contact_sheets import overview
        from mammopipe.processing.read_config import ReadConfig

        reading = ReadConfig(jpeg_files=True, for_processing=config.data.for_processing)
        overview(table.records, images, options.montage, reading=reading)
    if options.json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        _print(found, unused_columns(options.table, config.own))
    return int(bool(found.problems))


def _print(found: "DatasetCheck", unused: Sequence[str]) -> None:
    print(f"{found.images} images of {found.patients} patients, {found.lesions} lesions" + (
        f"; {found.synthetic} images are synthetic" if found.synthetic else ""
    ))  # fmt: skip
    for name in ("labels", "sides", "views", "splits", "densities", "findings", "missing"):
        counts = getattr(found, name)
        if counts:
            note = NOTES.get(name, "")
            print(f"{name:<10} {', '.join(f'{word} {number}' for word, number in counts.items())}{note}")
    if found.classes:
        print(f"classes    {', '.join(found.classes)}")
    if unused:
        print(f"not used   {', '.join(unused)}")
    for note in found.notes:
        print(f"note       {note}")
    for group in found.duplicates[:SHOWN]:
        print(f"duplicates {', '.join(group)}")
    print(f"refused    {len(found.refused)}")
    for reason in found.refused[:SHOWN]:
        print(f"  {reason}")
    if len(found.refused) > SHOWN:
        print(f"  and {len(found.refused) - SHOWN} more (--json lists all)")
    for problem in found.problems:
        print(f"problem    {problem}")
    print("A run on this table would fail." if found.problems else "A run on this table can start.")
