"""The local server with its demo page, an exam of phantoms, and a browser."""

import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest

from mammopipe.processing.phantoms.mias_tree import write_rsna_tree
from tests.inference.conftest import Server, poll, start
from tests.inference.demo.browser_page import PERSON, Visit


@pytest.fixture(scope="package")
def local(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start(exported, tmp_path_factory.mktemp("demo"), MAMMOPIPE_DEMO="true", MAMMOPIPE_WORKERS="1")
    poll(lambda: server.ping() == 200)
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="package")
def exam(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The DICOMs of a phantom's exam, with a name in them: LCC, LMLO, RCC, RMLO."""
    folder = tmp_path_factory.mktemp("exam")
    write_rsna_tree(folder, patients=1, height=400)
    images = []
    for path in sorted(folder.rglob("*.dcm")):
        dataset, stream = pydicom.dcmread(path), BytesIO()
        dataset.PatientName = PERSON
        dataset.ViewPosition = ("CC", "MLO")[len(images) % 2]
        dataset.save_as(stream)
        images.append(stream.getvalue())
    return images


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on the PATH: the page is tried in a real browser only")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, local: Server) -> Iterator[Callable[..., Visit]]:
    """Return a function that opens the page; afterwards, that it asked its own server only and stored nothing."""
    visits: list[Visit] = []

    def opened(**settings: Any) -> Visit:
        visits.append(Visit(browser, local.url, **settings))
        return visits[-1]

    yield opened
    for one in visits:
        assert not [
            request.url for request in one.requests if not request.url.startswith((local.url, "blob:", "data:"))
        ]
        assert one.context.storage_state() == {"cookies": [], "origins": []}
        one.context.close()
