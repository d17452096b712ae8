"""Commands beside the run: what it costs, whether what is served still fits, and the shell's completion."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mammopipe.pipelines.commands.arguments import as_json, command, in_runs
from mammopipe.processing.datasets.manifest import Dataset

if TYPE_CHECKING:
    from mammopipe.pipelines.commands.arguments import Subparsers


def add(subparsers: "Subparsers") -> None:
    """Add the parsers of `cost`, `monitor` and `completion`."""
    for each in (_cost, _monitor, _completion):
        each(subparsers)


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
    parser.add_argument("--dataset", choices=[*map(str, Dataset)])
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
    """Show what a run will cost, or did."""
    from mammopipe.pipelines.commands import cost as cost_command

    return cost_command.run(options)


def monitor(options: argparse.Namespace) -> int:
    """Compare captured requests with what the model learnt."""
    from mammopipe.pipelines.commands import monitor as monitor_command

    return monitor_command.run(options)


def completion(options: argparse.Namespace) -> int:
    """Print the script of a shell."""
    from mammopipe.pipelines.cli import build_parser
    from mammopipe.pipelines.commands.shell_completion import script

    print(script(build_parser(), options.shell), end="")
    return 0
