"""`mammopipe runs`, `status`, `report` and `compare`: local runs and runs on AWS, as tables or JSON."""

import argparse
import json
import os
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammopipe.pipelines.commands.arguments import Subparsers, as_json, command, identified, in_runs, refuse
from mammopipe.pipelines.runs import comparison
from mammopipe.processing.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mammopipe.pipelines.runs.folder import RunFolder

WIDTH = 100
"""Maximum width of a table in columns."""
_FIGURE_COLUMNS = 22
"""Width of `0.123 (0.123-0.123)` with the space between columns."""


def add(subparsers: Subparsers) -> None:
    """Add the parser of `runs`."""
    parser = command(subparsers, "runs", "list the runs", "runs")
    parser.add_argument(
        "--aws",
        nargs="?",
        type=int,
        const=20,
        metavar="N",
        help="also the N newest executions of the configuration's pipeline on AWS, whoever started them (default: 20)",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the pipeline's name; for --aws")
    as_json(parser)
    in_runs(parser)
    parser.set_defaults(command=runs)


def add_status(subparsers: Subparsers) -> None:
    """Add the parser of `status`."""
    parser = command(subparsers, "status", "show a run's steps", "status latest")
    parser.add_argument("--watch", action="store_true", help="follow a run on AWS to its end")
    as_json(parser)
    identified(parser)
    parser.set_defaults(command=status)


def add_report(subparsers: Subparsers) -> None:
    """Add the parser of `report`."""
    parser = command(subparsers, "report", "show a run's figures and where its report lies", "report latest --open")
    identified(parser)
    parser.add_argument("--open", action="store_true", help="open the report in the browser")
    as_json(parser)
    parser.set_defaults(command=report)


def add_compare(subparsers: Subparsers) -> None:
    """Add the parser of `compare`."""
    parser = command(
        subparsers, "compare", "show the figures of two or more runs side by side", "compare 20260102 latest"
    )
    parser.add_argument("ids", nargs="+", metavar="ID", help="two runs or more; the others are compared with the first")
    parser.add_argument("--roc", type=Path, metavar="FILE", help="also draw their ROC curves together, as SVG")
    as_json(parser)
    in_runs(parser)
    parser.set_defaults(command=compare)


def runs(options: argparse.Namespace) -> int:
    """List the runs; with `--aws`, also the newest ones of the pipeline in the account."""
    from rich.table import Column, Table

    from mammopipe.pipelines.runs.folder import list_runs
    from mammopipe.pipelines.runs.progress import console, duration

    if options.aws is None:
        refuse(options, "config", rule="only with --aws, whose pipeline it names")
    else:
        _adopt(options)
    if options.runs.exists() and not options.runs.is_dir():
        raise ConfigError(f"{options.runs}: is a file; --runs names the folder of all runs")
    found = [_row(folder) for folder in list_runs(options.runs)]
    if options.json:
        return _print_json(found)
    names = ("status", "where", "profile, data", "time", "best", "val. AUC")
    columns = [Column(name, overflow="fold") for name in names]
    table = Table(Column("id", overflow="fold", min_width=20), *columns, box=None, pad_edge=False)
    for row in found:
        auc = row["validation_macro_auc"]
        table.add_row(
            row["id"],
            row["status"],
            row["backend"],
            f"{row['profile']}, {row['dataset']}",
            duration(row["seconds"]),
            row["best"],
            "" if auc is None else f"{auc:.3f}",
        )
    console().print(table)
    return 0


def _row(folder: "RunFolder") -> dict[str, Any]:
    execution, best = _up_to_date(folder), _selected(folder)
    return {
        **{name: execution[name] for name in ("id", "status", "reason", "profile", "dataset", "seconds")},
        "backend": execution.get("backend", "process"),
        "started": execution["started"],
        "best": best.get("cnn", ""),
        "validation_macro_auc": (best.get("validation", {}).get("macro_auc") or {}).get("value"),
    }


def status(options: argparse.Namespace) -> int:
    """Show a run's steps, updated from AWS if it runs there; `--watch` follows it until it ends."""
    from mammopipe.pipelines.runs.aws_watch import records_of
    from mammopipe.pipelines.runs.folder import find_run
    from mammopipe.pipelines.runs.progress import console, duration, steps_table

    folder = find_run(options.runs, options.id)
    if options.watch:
        return _watch(folder)
    execution = _up_to_date(folder)
    if options.json:
        return _print_json(execution)
    console().print(steps_table(records_of(execution)))
    print(
        f"\n{execution['id']} {execution['status']} after {duration(execution['seconds'])}; "
        f"started {execution['started']}" + (f"\n{execution['reason']}" if execution["reason"] else "")
    )
    if execution.get("backend") == "aws":
        from mammopipe.pipelines.runs.aws import links

        print("\n".join(f"  {name}: {page}" for name, page in links(execution)))
    return 0


def report(options: argparse.Namespace) -> int:
    """Show a run's figures and its report."""
    from mammopipe.pipelines.runs.folder import find_run

    folder = find_run(options.runs, options.id)
    _up_to_date(folder)
    page = (folder.path / "report.html").resolve()
    if options.json:
        return _print_json({**_facts([folder])[0], "report": str(page)})
    _print_figures([folder])
    print(f"\n{page}")
    if options.open and not webbrowser.open(page.as_uri()):
        raise ConfigError(f"{page}: no browser could be opened here")
    return 0


def compare(options: argparse.Namespace) -> int:
    """Show the figures of several runs side by side; with `--roc`, also write their ROC curves in one picture."""
    from mammopipe.pipelines.runs.folder import find_run

    if len(options.ids) < 2:
        raise ConfigError(f"compare {options.ids[0]}: give two runs or more; mammopipe report shows one")
    folders = [find_run(options.runs, name) for name in options.ids]
    for folder in folders:
        _up_to_date(folder)
    if options.roc:
        from mammopipe.pipelines.notebook.roc_picture import draw
        from mammopipe.processing.files import write_bytes

        pairs = [(folder.id, folder.document("evaluation.json")) for folder in folders]
        write_bytes(options.roc, draw(pairs).encode())
    if options.json:
        return _print_json(_facts(folders))
    _print_figures(folders)
    if options.roc:
        print(f"\n{options.roc}")
    return 0


def _facts(folders: "Sequence[RunFolder]") -> list[dict[str, Any]]:
    """Return the facts of runs; all but the first also have their differences to the first."""
    from mammopipe.pipelines.runs import paired_comparison

    first, *others = [(folder, comparison.facts(folder)) for folder in folders]
    return [
        first[1],
        *(
            {**other, "against": comparison.against(first[1], other, paired_comparison.differences(first[0], folder))}
            for folder, other in others
        ),
    ]


def _print_figures(folders: "Sequence[RunFolder]") -> None:
    """Print the figures and differing settings; runs that do not fit the width go in further tables below."""
    found, screen = _facts(folders), _screen()
    figures, settings = comparison.rows(found), comparison.other_settings(found)
    label = max(len(name) for name, _ in [*figures, *settings]) + 4
    at_once = max(1, (WIDTH - label) // _FIGURE_COLUMNS)
    for start in range(0, len(found), at_once):
        shown = slice(start, start + at_once)
        table = _table(label, *(item["id"] for item in found[shown]))
        for name, cells in figures:
            table.add_row(name, *cells[shown], style="bold" if name in comparison.SPLITS else "")
        if settings:
            table.add_row("settings that differ", style="bold")
        for name, cells in settings:
            table.add_row(f"  {name}", *cells[shown])
        screen.print(table)
    for item in found[1:]:
        _print_difference(found[0], item)
    if found[1:]:
        screen.print(comparison.ADVICE, style="dim")


def _print_difference(first: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    compared = other["against"]
    table = _table(26, *comparison.heads(compared))
    for name, cells in comparison.difference_rows(compared):
        table.add_row(f"  {name}", *cells)
    screen = _screen()
    screen.print(f"\n{other['id']} less {first['id']}", style="bold")
    screen.print(table)
    screen.print(comparison.verdict(compared, first["id"], other["id"]))


def _table(label: int, *heads: str) -> "Table":
    from rich.table import Column, Table

    columns = [Column(head, overflow="fold", min_width=len(head)) for head in heads]
    return Table(Column("", width=label - 1, overflow="fold"), *columns, box=None, pad_edge=False)


def _screen() -> "Console":
    from mammopipe.pipelines.runs.progress import console

    screen = console()
    screen.width = min(screen.width, WIDTH)
    return screen


def _print_json(value: Any) -> int:
    print(json.dumps(value, indent=2, ensure_ascii=False))
    return 0


def _selected(folder: "RunFolder") -> dict[str, Any]:
    if not (folder.path / "evaluation.json").is_file():
        return {}
    return dict(folder.document("evaluation.json")["selected"])


def _up_to_date(folder: "RunFolder") -> dict[str, Any]:
    """Return a run's `execution.json`; an unfinished run on AWS is first updated and its results are downloaded."""
    execution = folder.execution()
    if execution.get("backend") != "aws":
        return execution
    from mammopipe.pipelines.backends.step_status import Status
    from mammopipe.pipelines.runs import aws

    if execution.get("fetched"):
        return execution
    clients = aws_clients(execution["region"])
    if execution["status"] == Status.EXECUTING:
        execution = aws.refresh(folder, clients.sagemaker, execution)
    if execution["status"] != Status.EXECUTING:
        aws.fetch_results(folder, clients.storage)
        return folder.execution()
    return execution


def _watch(folder: "RunFolder") -> int:
    from mammopipe.pipelines.backends.step_status import Status
    from mammopipe.pipelines.runs.aws_watch import terminal_question, watch
    from mammopipe.pipelines.runs.progress import RunProgress
    from mammopipe.pipelines.runs.tracking import mlflow

    execution = folder.execution()
    if execution.get("backend") != "aws":
        raise ConfigError(f"run {folder.id} ran on this machine; --watch follows runs on AWS only")
    show = mlflow.showing(RunProgress)
    ended = watch(folder, aws_clients(execution["region"]), show, print, ask=terminal_question())
    if ended["status"] != Status.EXECUTING:
        mlflow.track_if_asked(folder.path)
    return int(ended["status"] in (Status.FAILED, Status.STOPPED))


def _adopt(options: argparse.Namespace) -> None:
    from mammopipe.pipelines.config.pipeline import PipelineConfig
    from mammopipe.pipelines.runs import aws

    if options.aws < 1:
        raise ConfigError(f"--aws {options.aws}: must be at least 1")
    from mammopipe.pipelines.runs.progress import waiting

    config = PipelineConfig.load(options.config)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or config.region
    with waiting("asking AWS"):
        aws.adopt(
            options.runs,
            config,
            aws_clients(region).sagemaker,
            region,
            limit=options.aws,
            say=partial(print, file=sys.stderr),
        )


def aws_clients(region: str) -> Any:
    """Return clients for a region of the caller's account."""
    import boto3

    from mammopipe.pipelines.data.s3 import QUICK, Storage, s3_client
    from mammopipe.pipelines.runs.aws_watch import Clients

    session = boto3.Session(region_name=region)
    return Clients(
        session.client("sagemaker", config=QUICK), session.client("logs", config=QUICK), Storage(s3_client(session))
    )


def follow(root: Path, config: Any, arn: str, *, detach: bool) -> int:
    """Create the folder of an execution just started on AWS, and show it until it ends unless `detach`."""
    from mammopipe.pipelines.runs import aws

    region = arn.split(":")[3]
    folder = aws.record(root, config, arn, region)
    if detach:
        print(f"mammopipe status {folder.id} --watch shows it")
        return 0
    return _watch(folder)
