"""Draws the demo page with an exam of phantoms into docs/images/: `make pictures MODEL=DIRECTORY`.

Run `python -m tests.page_pictures MODEL [FOLDER]` with the directory of an evaluated model. The page is served by the
real server and shown by Chromium, light, dark and in a narrow window. The exam has four views of one phantom patient.
"""

import argparse
import shutil
import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pydicom
from playwright.sync_api import sync_playwright

from mammopipe.processing.phantoms.mias_tree import write_rsna_tree
from tests.inference.conftest import poll, start
from tests.inference.demo.browser_page import Visit

FOLDER = Path("docs", "images")
SETTINGS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1440, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1440, "height": 900}},
    "narrow": {"color_scheme": "light", "viewport": {"width": 420, "height": 1400}},
}
"""The size of each picture; its file name ends with the key."""


def phantom_exam(folder: Path) -> list[bytes]:
    """Return the DICOM files of a phantom patient with four views: LCC, LMLO, RCC, RMLO."""
    write_rsna_tree(folder, patients=1, height=1000)
    files = []
    for number, path in enumerate(sorted(folder.rglob("*.dcm"))):
        dataset, stream = pydicom.dcmread(path), BytesIO()
        dataset.ViewPosition = ("CC", "MLO")[number % 2]
        dataset.save_as(stream)
        files.append(stream.getvalue())
    return files


def main() -> None:
    """Write `page-light.png`, `page-dark.png` and `page-narrow.png`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="directory of an evaluated model")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        base = Path(name)
        (base / "model").symlink_to(arguments.model.resolve())
        files = phantom_exam(base / "exam")
        server = start(base, base, MAMMOPIPE_DEMO="true")
        try:
            poll(lambda: server.ping() == 200)
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                for key, settings in SETTINGS.items():
                    visit = Visit(browser, server.url, **settings)
                    visit.drop(*files, name="image.dcm")
                    visit.page.screenshot(path=arguments.folder / f"page-{key}.png")
                    assert not visit.messages, visit.messages
                browser.close()
        finally:
            server.process.kill()
            server.process.wait()


if __name__ == "__main__":
    sys.exit(main())
