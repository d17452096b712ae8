"""`mammopipe cost`: tables of estimated and of billed costs."""

import argparse
import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammopipe.pipelines.commands.arguments import Subparsers, as_json, command, configured, in_runs, refuse
from mammopipe.processing.errors import ConfigError

if TYPE_CHECKING:
    from mammopipe.pipelines.costs.estimate import Line
    from mammopipe.pipelines.costs.prices import Prices

COUNTS = ("images", "instances", "training_instances", "batch_images")
PLAN = (*COUNTS, "throughput", "config", "recipe", "profile", "dataset")
"""The options that are valid only for an estimate."""
LEAST_DOWNLOAD_HOURS = 0.1
"""Downloads that take less are not shown."""


def add(subparsers: Subparsers) -> None:
    """Add the parser of `cost`."""
    text = "estimate what a run will cost, step by step; with a run's ID, show what it cost"
    parser = command(subparsers, "cost", text, "cost --dataset rsna --images 10000000 --instances 50")
    parser.set_defaults(command=cost)
    parser.add_argument(
        "id", nargs="?", metavar="ID", help="a run's ID, or latest; without it, a run that has not started is estimated"
    )
    parser.add_argument("--images", type=int, metavar="N", help="images of the dataset (default: all that it has)")
    parser.add_argument(
        "--instances", type=int, metavar="N", help="processing instances (default: the configuration's)"
    )
    parser.add_argument(
        "--training-instances",
        type=int,
        metavar="N",
        help="instances of each candidate's training job (default: the configuration's)",
    )
    parser.add_argument("--batch-images", type=int, metavar="N", help="number of images below transform.input")
    parser.add_argument(
        "--prices", type=Path, metavar="FILE", help="TOML file in the format of pipelines/costs/prices.toml"
    )
    parser.add_argument(
        "--throughput", type=Path, metavar="FILE", help="TOML file in the format of pipelines/costs/throughput.toml"
    )
    configured(parser, "recipe", "config", "profile", "dataset")
    as_json(parser)
    in_runs(parser)


def cost(options: argparse.Namespace) -> int:
    """Show the estimated cost of a new run, or the cost of the run with a given id."""
    from mammopipe.pipelines.costs.prices import Prices

    for name in COUNTS:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if options.id:
        refuse(options, *PLAN, rule=f"only for an estimate; the cost of {options.id} is read from its steps")
    prices = Prices.load(options.prices)
    return _of_run(options, prices) if options.id else _of_plan(options, prices)


def _of_plan(options: argparse.Namespace, prices: "Prices") -> int:
    from mammopipe.pipelines.config.pipeline import PipelineConfig
    from mammopipe.pipelines.costs import beside, estimate, obstacles
    from mammopipe.pipelines.costs.prices import Throughput

    config = PipelineConfig.load(
        options.config, recipe=options.recipe, profile=options.profile, dataset=options.dataset
    )
    config = estimate.scaled(config, processing=options.instances, training=options.training_instances)
    throughput = Throughput.load(options.throughput)
    images = options.images or throughput.size(str(config.dataset)).images
    if options.batch_images and not config.transform.input:
        raise ConfigError(f"--batch-images {options.batch_images}: transform.input names no folder")
    lines = estimate.estimate(config, prices, throughput, images=images, batch=options.batch_images)
    size = estimate.Size.of(config, throughput, images)
    found = obstacles.obstacles(config, lines, size, throughput)
    waiting, reading = (find(config, size, throughput) for find in (obstacles.downloads, obstacles.reads))
    standing = beside.serving(config, prices, throughput, images)
    facts: dict[str, Any] = {
        "images": images,
        "dataset": str(config.dataset),
        "profile": str(config.profile),
        "prices": {"dated": prices.dated, "region": prices.region, "source": prices.source},
        "throughput_dated": throughput.dated,
        "job_overhead_seconds": throughput.job.overhead_seconds,
        "steps": [line.as_dict() for line in lines],
        "hours": round(estimate.within(lines, training_jobs=config.compute.training_jobs), 3),
        "instance_hours": round(sum(line.instance_hours for line in lines), 3),
        "usd": round(sum(line.usd for line in lines), 2),
        "obstacles": found,
        "downloads": [{"what": what, "hours": round(hours, 3)} for what, hours in waiting],
        "reads": [{"what": what, "hours": round(hours, 3)} for what, hours in reading],
        "beside": [{"what": what, "usd": round(usd, 2)} for what, usd in standing],
    }
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    _show(lines)
    print(
        f"\n{images:,} images of {config.dataset}, profile {config.profile}: {_hours(facts['hours'])} from start to "
        f"end,\n{facts['instance_hours']:,.2f} instance hours, {_usd(facts['usd'])}. The candidates train side by "
        "side."
    )
    for obstacle in found:
        print("\n".join(textwrap.wrap(f"! {obstacle}", 98, subsequent_indent="  ")))
    for what, hours in waiting:
        if hours > LEAST_DOWNLOAD_HOURS:
            print(f"  downloaded first, not counted: {what}, {hours:.1f} hours")
    for what, hours in reading:
        print(f"  read from S3 while it computes (FastFile): {what}, {hours:.1f} hours")
    for what, usd in standing:
        print(f"  {what}: {_usd(usd)}")
    print(
        f"Prices of {prices.dated}, {prices.region}: {prices.source}.\n"
        f"Work as measured {throughput.dated}; * holds an assumption, such as a GPU's speed. Every job also has "
        f"{throughput.job.overhead_seconds:.0f} s\nof start, assumed."
    )
    return 0


def _of_run(options: argparse.Namespace, prices: "Prices") -> int:
    from mammopipe.pipelines.commands.runs import aws_clients
    from mammopipe.pipelines.costs import billed
    from mammopipe.pipelines.runs.folder import find_run

    folder = find_run(options.runs, options.id)
    execution = folder.execution()
    if execution.get("backend") == "aws":
        steps = billed.billed(aws_clients(execution["region"]).sagemaker, execution["steps"])
        execution = {**execution, "steps": steps}
    lines = billed.measured(execution, prices)
    total = sum(line.usd for line in lines)
    if options.json:
        print(
            json.dumps(
                {
                    "id": folder.id,
                    "backend": execution.get("backend", "process"),
                    "steps": [line.as_dict() for line in lines],
                    "usd": round(total, 4),
                },
                indent=2,
            )
        )
        return 0
    _show(lines)
    if execution.get("backend") == "aws":
        print(
            f"\n{folder.id}: {_usd(total)} for what its jobs were billed, at prices of {prices.dated}; endpoint and "
            "storage are billed as long as they stand"
        )
    else:
        hours = sum(line.instance_hours for line in lines)
        print(f"\n{folder.id} ran on this machine: {hours:.3f} hours of jobs, measured; nothing was billed")
    return 0


def _show(lines: "list[Line]") -> None:
    """Print the steps within 100 columns."""
    from rich.table import Column, Table

    from mammopipe.pipelines.runs.progress import console

    right: dict[str, Any] = {"justify": "right", "no_wrap": True}
    table = Table(
        "step",
        Column("units", **right),
        Column("s each", **right),
        Column("instances", no_wrap=True),
        Column("hours", **right),
        Column("inst. h", **right),
        Column("USD", **right),
        "",
        box=None,
        pad_edge=False,
    )
    for line in lines:
        table.add_row(
            line.step,
            f"{line.units:,.0f}" if line.units else "",
            f"{line.core_seconds:.3g}" if line.core_seconds else "",
            f"{line.instances} x {line.instance_type}",
            f"{line.hours:,.3f}",
            f"{line.instance_hours:,.3f}",
            f"{line.usd:,.2f}",
            "" if line.measured else "*",
        )
    console().print(table)


def _hours(value: float) -> str:
    return f"{value:,.2f} hours" if value < 48 else f"{value:,.0f} hours ({value / 24:,.1f} days)"


def _usd(value: float) -> str:
    return f"{value:,.2f} USD"
