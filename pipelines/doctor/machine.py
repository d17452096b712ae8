"""`mammopipe doctor`: finds problems on this machine that would make a run fail. It changes and starts nothing."""

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mammopipe.pipelines.doctor.findings import CheckResult, Severity
from mammopipe.processing.container.job import cores

LEAST_GIGABYTES, LEAST_MEMORY, OLDEST_PYTHON = 5.0, 4.0, (3, 11)
"""Minimum disk and memory, in GB, for a quick run on mini-MIAS; minimum version of Python."""
NEEDED = ("torch", "opencv-python-headless", "albumentations", "sagemaker", "moto", "openvino")
"""The packages that a local run imports."""
DATA = {"MAMMOPIPE_MIAS": "mini-MIAS (tarball or folder)", "MAMMOPIPE_RSNA": "RSNA (folder with train.csv)"}
_GIGABYTE = 1e9


def examine(runs: Path) -> list[CheckResult]:
    """Return the findings about this machine; `runs` is the folder for results."""
    checks = (_python(), _packages(), _cores(), _memory(), _runs_folder(runs), _ports(), _s3(), _data())
    return [result for check in checks for result in check]


def show(findings: Sequence[CheckResult]) -> None:
    """Print findings, one line each; in colour on a terminal."""
    from rich.table import Column, Table
    from rich.text import Text

    from mammopipe.pipelines.runs.progress import console

    styles = {Severity.GOOD: "green", Severity.WARNING: "yellow", Severity.BLOCKS: "bold red"}
    screen = console()
    if not screen.is_terminal:
        print("\n".join(map(str, findings)))
        return
    table = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 1, 0, 0))
    for finding in findings:
        table.add_row(Text(str(finding.verdict), styles[finding.verdict]), Text(f"{finding.subject}: {finding.text}"))
    screen.print(table)


def _python() -> Iterator[CheckResult]:
    good = sys.version_info[:2] >= OLDEST_PYTHON
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield CheckResult(
        Severity.GOOD if good else Severity.BLOCKS, "python", text if good else f"{text}; must be 3.11 or later"
    )


def _packages() -> Iterator[CheckResult]:
    missing, found = [], []
    for name in NEEDED:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        text = f"{', '.join(missing)} missing; make venv installs everything"
        yield CheckResult(Severity.BLOCKS, "packages", text)
    else:
        yield CheckResult(Severity.GOOD, "packages", ", ".join(found))


def _cores() -> Iterator[CheckResult]:
    number = cores()
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if number < 2:
        yield CheckResult(Severity.WARNING, "cores", f"{number}; the candidates train one after the other")
    elif busy > 1.5 * number:
        yield CheckResult(Severity.WARNING, "cores", f"{number}, but the load is {busy:.1f}; a run will be slow")
    else:
        yield CheckResult(Severity.GOOD, "cores", f"{number}, load {busy:.1f}")


def _memory() -> Iterator[CheckResult]:
    info = Path("/proc/meminfo")
    if not info.is_file():
        yield CheckResult(Severity.WARNING, "memory", "not known on this system; a run needs about 4 GB")
        return
    lines = dict(line.split(":", 1) for line in info.read_text(encoding="ascii").splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024 / _GIGABYTE
    text = f"{free:.1f} GB available"
    good = free >= LEAST_MEMORY
    yield CheckResult(
        Severity.GOOD if good else Severity.WARNING,
        "memory",
        text if good else f"{text}; a run needs about {LEAST_MEMORY:.0f} GB, so close other programs",
    )


def _runs_folder(runs: Path) -> Iterator[CheckResult]:
    # The folder need not exist yet; a run creates it in the nearest existing folder above.
    place = next(path for path in [runs.resolve(), *runs.resolve().parents] if path.exists())
    free = shutil.disk_usage(place).free / _GIGABYTE
    text = f"{free:.1f} GB free at {runs}"
    if free < LEAST_GIGABYTES:
        text += f"; a run needs {LEAST_GIGABYTES:.0f} GB, so free some space or give --runs DIR"
    yield CheckResult(Severity.GOOD if free >= LEAST_GIGABYTES else Severity.BLOCKS, "disk", text)
    good = place.is_dir() and os.access(place, os.W_OK)
    text = f"{runs} can be written" if good else f"{place} cannot be written; give --runs DIR"
    yield CheckResult(Severity.GOOD if good else Severity.BLOCKS, "runs", text)


def _ports() -> Iterator[CheckResult]:
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
    except OSError as error:
        text = f"no program can listen on 127.0.0.1: {error.strerror}; a run serves its model there"
        yield CheckResult(Severity.BLOCKS, "ports", text)
        return
    yield CheckResult(Severity.GOOD, "ports", f"127.0.0.1 has free ports, such as {port}; a run uses any of them")
    try:
        socket.create_server(("127.0.0.1", 8080)).close()
    except OSError:
        yield CheckResult(Severity.WARNING, "ports", "8080 is in use; `serve` by itself needs SAGEMAKER_BIND_TO_PORT=0")


def _s3() -> Iterator[CheckResult]:
    url = os.environ.get("AWS_ENDPOINT_URL_S3")
    if not url:
        yield CheckResult(Severity.GOOD, "s3", "each run starts its own replacement, which ends with the run")
        return
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    from mammopipe.pipelines.data.s3 import QUICK

    try:
        boto3.client("s3", endpoint_url=url, config=QUICK).list_buckets()
        yield CheckResult(Severity.GOOD, "s3", f"AWS_ENDPOINT_URL_S3={url} answers")
    except (BotoCoreError, ClientError) as error:
        text = f"AWS_ENDPOINT_URL_S3={url}: {' '.join(str(error).split())}; start it, or unset the variable"
        yield CheckResult(Severity.BLOCKS, "s3", text)


def _data() -> Iterator[CheckResult]:
    for variable, what in DATA.items():
        place = os.environ.get(variable)
        if not place:
            yield CheckResult(Severity.WARNING, "data", f"no {what}; set {variable}, or run on phantoms")
        elif Path(place).exists():
            yield CheckResult(Severity.GOOD, "data", f"{variable}: {what} found")
        else:
            yield CheckResult(Severity.WARNING, "data", f"{variable} names {place}, which does not exist")
