"""`mammopipe clean`: removes what a folder of runs no longer needs."""

import argparse
import shutil
from datetime import UTC, datetime
from pathlib import Path

from mammopipe.pipelines.commands.arguments import Subparsers, command, in_runs
from mammopipe.processing.errors import ConfigError


def add(subparsers: Subparsers) -> None:
    """Add the parser of `clean`."""
    text = "remove cached steps that were unused for longest, and what killed runs left; no run and no result"
    parser = command(subparsers, "clean", text, "clean --keep-gigabytes 5 --dry-run")
    parser.add_argument(
        "--keep-gigabytes",
        type=float,
        default=0.0,
        metavar="GB",
        help="size of the step cache that stays, with the steps used last (default: 0, the whole cache is removed)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be removed")
    in_runs(parser)
    parser.set_defaults(command=clean)


def clean(options: argparse.Namespace) -> int:
    """Remove the cached steps and leftovers, and print each with its size."""
    from mammopipe.pipelines.data import cache_entries
    from mammopipe.pipelines.runs.folder import CACHE, leftovers

    root: Path = options.runs
    if not 0 <= options.keep_gigabytes < float("inf"):
        raise ConfigError(f"--keep-gigabytes {options.keep_gigabytes:g}: must be a number of at least 0")
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder of runs")
    removed = cache_entries.limit(root / CACHE, options.keep_gigabytes * 1e9, dry_run=options.dry_run)
    for entry in removed:
        used = datetime.fromtimestamp(entry.used, UTC).strftime("%Y-%m-%d %H:%M")
        print(f"{entry.folder}  {entry.bytes / 1e6:,.1f} MB, last used {used} UTC")
    left = leftovers(root)
    for path in left:
        print(f"{path}  left by a run that was killed")
        if not options.dry_run:
            shutil.rmtree(path, ignore_errors=True)
    kept = [] if options.dry_run else cache_entries.entries(root / CACHE)
    verb = "would be removed" if options.dry_run else "removed"
    size = sum(entry.bytes for entry in removed) / 1e6
    print(
        f"{len(removed)} cached steps ({size:,.1f} MB) and {len(left)} leftovers {verb}"
        + (f"; {len(kept)} cached steps stay" if kept else "")
    )
    return 0
