"""The direction of the imports and the public names: what keeps the folders apart."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "processing": {"processing"},
    "training": {"training", "processing"},
    "inference": {"inference", "training", "processing"},
    "pipelines": {"pipelines", "inference", "training", "processing"},
}
LIGHT = (
    "processing",
    "mammopipe.training.config",
    "mammopipe.training.metrics.classification",
    "mammopipe.training.metrics.bootstrap",
    "mammopipe.training.model.predictions",
    "mammopipe.inference.client.client",
    "mammopipe.inference.monitoring.windows",
)
"""What pipelines may take from the other folders: dataset adapters, phantoms, hyperparameters, measures, the client."""


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            assert node.module is not None
            yield node.module


def modules() -> list[Path]:
    found = [path for folder in ALLOWED for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(found) > 30
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        root = name.split(".")[0]
        if root in ALLOWED:
            assert root in ALLOWED[folder], f"{path} imports {name}"
        if folder == "pipelines" and root in ("training", "inference", "processing"):
            assert name.startswith(LIGHT), f"{path} imports {name}, which is not light"
        assert root != "sagemaker" or folder == "pipelines", f"{path} imports sagemaker"
        assert root not in ("torch", "torchvision") or folder in ("training", "inference"), f"{path} imports {name}"


@pytest.mark.parametrize(
    "module",
    [
        "pipelines",
        "mammopipe.pipelines.cli",
        "mammopipe.pipelines.graph.definition",
        "mammopipe.pipelines.runs.paired_comparison",
        "mammopipe.inference.client.client",
    ],
)
def test_the_light_parts_work_where_torch_is_not_installed(module: str) -> None:
    code = f"import sys\nfor name in ('torch', 'torchvision'): sys.modules[name] = None\nimport {module}\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_line_starts_without_the_sdk() -> None:
    code = "import sys, mammopipe.pipelines.cli; print([name for name in ('sagemaker', 'torch', 'cv2') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_folder_is_called_a_drawer() -> None:
    assert not [path for path in modules() if path.stem in ("utils", "util", "common", "helpers", "misc")]
