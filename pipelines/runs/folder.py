"""The folder `runs/`: one folder per run, and `latest`.

    runs/<id>/execution.json     every step's status and seconds, the parameters; rewritten as a whole during the run
    runs/<id>/pipeline.json      the compiled definition
    runs/<id>/logs/<step>.log    what each job printed
    runs/<id>/evaluation.json predictions.csv report.html model.tar.gz model_card.md model_card.json stages/ pictures/
                                 the results of the steps that have run
    runs/<id>/invocation.json    the answer for a test image beside its truth, if an endpoint was created
    runs/latest                  the last run that reached a verdict: it succeeded, or its gate refused the model

An interrupted run keeps its folder for `mammopipe status`, but `latest` does not change: it always points to a complete
run. Three hidden folders are beside them: `.checkpoints/` (unfinished training jobs), `.cache/` (results of steps for
later runs) and `.work/`.
"""

import json
import os
import secrets
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mammopipe.pipelines.backends.processes import is_alive
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_json

LATEST = "latest"
CACHE, WORK = ".cache", ".work"
AGAIN = (
    "start the same command again: training goes on from its last epoch; with --set compute.cache=P30D, finished steps "
    "are reused, too"
)
"""How to go on with a run that was stopped."""


@dataclass(frozen=True)
class RunFolder:
    """One run's folder."""

    root: Path
    id: str

    @property
    def path(self) -> Path:
        """The folder."""
        return self.root / self.id

    @property
    def logs(self) -> Path:
        """The folder of the jobs' logs."""
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints of all runs below this root."""
        return self.root / ".checkpoints"

    def write(self, execution: Mapping[str, Any]) -> None:
        """Replace `execution.json`."""
        write_json(
            self.path / "execution.json", {**execution, "process": {"host": socket.gethostname(), "pid": os.getpid()}}
        )

    def execution(self) -> dict[str, Any]:
        """Return `execution.json`; an executing run whose process no longer exists is shown as stopped."""
        values: dict[str, Any] = self.document("execution.json")
        process = values.get("process", {})
        if (
            values["status"] == Status.EXECUTING
            and process.get("host") == socket.gethostname()
            and not is_alive(process["pid"])
        ):
            values["status"], values["reason"] = str(Status.STOPPED), f"its process was killed; {AGAIN}"
            for step in values["steps"]:
                if step["status"] in (Status.EXECUTING, Status.WAITING):
                    step["status"] = str(Status.STOPPED if step["status"] == Status.EXECUTING else Status.NOT_EXECUTED)
        return values

    def document(self, name: str) -> dict[str, Any]:
        """Return one of the run's JSON files; raises `ConfigError` if it does not exist."""
        file = self.path / name
        if not file.is_file():
            raise ConfigError(f"run {self.id} has no {name}: it ended before that (mammopipe status {self.id})")
        return dict(json.loads(file.read_text(encoding="utf-8")))

    def become_latest(self) -> None:
        """Point `latest` to this run atomically."""
        link = self.root / f".{LATEST}.{self.id}"
        link.symlink_to(self.id, target_is_directory=True)
        os.replace(link, self.root / LATEST)


def new_run(root: Path) -> RunFolder:
    """Return a run with a new id: its UTC time, so that ids sort by time, and four random characters."""
    return RunFolder(root, f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")


def find_run(root: Path, name: str = LATEST) -> RunFolder:
    """Return the run with this id or start of an id, or `latest`; `ConfigError` if none or several match."""
    if name == LATEST:
        if not (root / LATEST).is_dir():
            raise ConfigError(f"{root / LATEST}: no run has finished yet; mammopipe run starts one")
        return RunFolder(root, (root / LATEST).resolve().name)
    found = [run for run in list_runs(root) if run.id.startswith(name)]
    if len(found) != 1:
        raise ConfigError(
            f"run {name!r}: {len(found) or 'no'} runs in {root} have an ID that begins so; mammopipe runs lists them"
        )
    return found[0]


def list_runs(root: Path) -> list[RunFolder]:
    """Return the runs in a folder, oldest first."""
    return [
        RunFolder(root, path.parent.name)
        for path in sorted(root.glob("[!.]*/execution.json"))
        if not path.parent.is_symlink()
    ]


def make_work(root: Path, run: str) -> Path:
    """Return a new folder for a run's jobs; removes the folders that killed runs left."""
    for path in leftovers(root):
        shutil.rmtree(path, ignore_errors=True)
    work = root / WORK / f"{run}-{os.getpid()}"
    work.mkdir(parents=True)
    return work.resolve()


def leftovers(root: Path) -> list[Path]:
    """Return the folders that killed processes left: of jobs, and incomplete or half removed entries of the cache."""
    owners = {path: path.name.rpartition("-")[2] for path in (root / WORK).glob("*")}
    owners |= {path: path.name.removesuffix("-removed").rpartition("-")[2] for path in (root / CACHE).glob(".*-*")}
    return sorted(path for path, owner in owners.items() if owner.isdigit() and not is_alive(int(owner)))
