"""The wheel contains one complete package, changes no other package's files, and has types for a client's mypy."""

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("mammopipe", "processing", "training", "inference", "pipelines")
STAND_IN = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "inference"
version = "1.0"
[tool.setuptools]
packages = ["inference"]
"""
CLIENT = """
from pathlib import Path

from mammopipe import MammographyClient, read_mammogram

mammogram = read_mammogram(Path("image.dcm"))
reveal_type(mammogram)
client = MammographyClient("mammopipe")
read_mammogram(3)
"""


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)


def build(source: Path, folder: Path) -> Path:
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(source))
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A copy: setuptools leaves build/ and *.egg-info beside what it builds.
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *FOLDERS, "*.toml", "setup.py"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in [*listed.stdout.split("\n"), "README.md", "LICENSE"]:
        if name and (ROOT / name).is_file():
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    return build(folder / "source", folder)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the package folder of an environment with the wheel beside a package called `inference`."""
    folder = tmp_path_factory.mktemp("environment")
    stranger = folder / "stranger"
    (stranger / "inference").mkdir(parents=True)
    (stranger / "pyproject.toml").write_text(STAND_IN)
    (stranger / "inference" / "__init__.py").write_text("WHOSE = 'a stranger'\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = str(folder / "venv" / "bin" / "python")
    for file in (build(stranger, folder), wheel):
        pip("--python", python, "install", "--no-deps", "--no-index", str(file))
    yield next((folder / "venv" / "lib").glob("python3*")) / "site-packages"


def test_the_wheel_holds_one_package_with_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"mammopipe"}
    assert "mammopipe/py.typed" in names
    tracked = subprocess.run(["git", "ls-files", "--", *FOLDERS], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in tracked.stdout.split():
        assert (name if name.startswith("mammopipe/") else f"mammopipe/{name}") in names


def test_a_client_s_types_are_checked_against_the_wheel(installed: Path, tmp_path: Path) -> None:
    program = tmp_path / "client.py"
    program.write_text(CLIENT)
    python = installed.parents[2] / "bin" / "python"
    words = ["--strict", "--python-executable", str(python), "--cache-dir", str(tmp_path / "cache"), str(program)]
    done = subprocess.run([sys.executable, "-m", "mypy", *words], cwd=tmp_path, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert [line.split(":")[1] for line in found if "[arg-type]" in line] == ["9"], done.stdout
    assert "mammopipe.processing.images.mammogram.Mammogram" in done.stdout


def test_a_package_called_inference_survives_ours(installed: Path) -> None:
    theirs = installed / "inference" / "__init__.py"
    assert theirs.read_text() == "WHOSE = 'a stranger'\n"
    pip("--python", str(installed.parents[2] / "bin" / "python"), "uninstall", "--yes", "mammopipe")
    assert theirs.read_text() == "WHOSE = 'a stranger'\n"
    assert not (installed / "mammopipe").exists()
