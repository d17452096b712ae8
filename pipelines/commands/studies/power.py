"""`mammopipe power`: what a test set of a given size can show."""

import argparse
import json
from dataclasses import asdict

from mammopipe.pipelines.commands.arguments import Subparsers, as_json, command
from mammopipe.processing.errors import ConfigError

TIMES = (1, 2, 4, 8)
"""Sizes of the test set in the table, as multiples of the requested size."""
MOST_MALIGNANT = 100_000
"""More do not fit into memory, and their interval is narrow."""
OTHERS = 5
"""Default number of other images per malignant one: about that of mini-MIAS (270 to 52)."""


def add(subparsers: Subparsers) -> None:
    """Add the parser of `power`."""
    text = "simulate what a test set can show: the width of the AUC's interval, and how often it excludes another AUC"
    parser = command(subparsers, "power", text, "power --auc 0.75 --malignant 52")
    parser.add_argument("--auc", type=float, required=True, metavar="AUC", help="true AUC, malignant against the rest")
    parser.add_argument("--malignant", type=int, required=True, metavar="N", help="malignant images of the test set")
    parser.add_argument(
        "--others", type=int, metavar="N", help=f"other images of the test set (default: {OTHERS} times as many)"
    )
    parser.add_argument(
        "--against", type=float, default=0.5, metavar="AUC", help="AUC that the interval shall exclude (default: 0.5)"
    )
    parser.add_argument(
        "--draws", type=int, default=1000, metavar="N", help="number of simulated test sets (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the simulation (default: 0)")
    as_json(parser)
    parser.set_defaults(command=power)


def power(options: argparse.Namespace) -> int:
    """Print the table."""
    from mammopipe.pipelines.experiment.power import simulate

    if options.malignant > MOST_MALIGNANT:
        raise ConfigError(f"--malignant {options.malignant}: must be at most {MOST_MALIGNANT}")
    others = OTHERS * options.malignant if options.others is None else options.others
    rows = [
        simulate(
            options.auc,
            options.malignant * times,
            others * times,
            against=options.against,
            draws=options.draws,
            seed=options.seed,
        )
        for times in TIMES
    ]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    print(
        f"{'malignant':>9} {'others':>7}  95 % interval is   9 of 10 sets measure   power against {options.against:g}"
    )
    for row in rows:
        print(
            f"{row.malignant:>9} {row.others:>7}  {row.width:.3f} wide         {row.low:.3f} to {row.high:.3f}"
            f"         {row.power:>6.0%}"
        )
    print("Images count as independent; several images of one patient carry less information. Research use only.")
    return 0
