"""Small copies of the public collections in their released layouts, made once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mammopipe.processing.phantoms.trees import write_phantoms

COLLECTIONS = ("inbreast", "cbis-ddsm", "cmmd", "vindr-mammo")
WOMEN = 5


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folder of each collection; no test may change it."""
    folders = {name: tmp_path_factory.mktemp(name) for name in COLLECTIONS}
    for name, folder in folders.items():
        write_phantoms(name, folder, 4 * WOMEN)
    return folders


@pytest.fixture
def tree(trees: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a copy of a tree that a test may change."""
    return lambda name: Path(shutil.copytree(trees[name], tmp_path / name))
