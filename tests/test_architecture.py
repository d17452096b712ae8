"""The direction of the imports, the names of the modules, and what loads without the heavy packages."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import mammopipe

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "processing": {"processing"},
    "training": {"training", "processing"},
    "inference": {"inference", "training", "processing"},
    "pipelines": {"pipelines", "inference", "training", "processing"},
}
TORCH = ("torch", "torchvision")
ANSWERS = ("inference/contract", "inference/client")
"""The rooms of the two ends of a request; the client reads what the contract says without pydantic."""
MOST_FILES, MOST_LINES, MOST_LINES_OF_A_FUNCTION = 15, 350, 60


def modules() -> list[Path]:
    found = [path for folder in ALLOWED for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(found) > 30
    return found


def name_of(path: Path) -> str:
    parts = ["mammopipe", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(source: Path | ast.AST) -> tuple[str, ...]:
    """Return what a module or another node imports: modules, and names that may be modules."""
    return tuple(_imports(source, tree_of(source) if isinstance(source, Path) else source))


def _imports(source: Path | ast.AST, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative imports hide the direction"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        parts = name.split(".")
        assert parts[0] not in ALLOWED, f"{path} imports {name}: the package is mammopipe"
        if parts[0] == "mammopipe" and len(parts) > 1 and parts[1] in ALLOWED:
            assert parts[1] in ALLOWED[folder], f"{path} imports {name}"
            if folder == "inference" and parts[1] == "training" and len(parts) > 2:
                allowed = {"model", "networks"} if path.name == "torch.py" else {"model"}
                assert parts[2] in allowed, f"{path} imports {name}"
        assert parts[0] != "sagemaker" or folder == "pipelines", f"{path} imports sagemaker"
        if parts[0] in TORCH:
            assert folder in ("training", "inference"), f"{path} imports {name}"
            assert not path.is_relative_to(ROOT / "training" / "model"), f"{path} imports {name}: serving needs it"


def at_import(path: Path) -> set[str]:
    """Return the imports at the top of a module, including the packages above; without those inside functions."""
    nodes: list[ast.AST] = [tree_of(path)]
    found: set[str] = set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {*imports(node)}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ):
            nodes += ast.iter_child_nodes(node)
    return found | {name.rpartition(".")[0] for name in found}


def test_pipelines_need_no_torch() -> None:
    graph = {name_of(path): at_import(path) for path in modules()}
    heavy: set[str] = {name for name, needed in graph.items() if any(other.split(".")[0] in TORCH for other in needed)}
    assert "mammopipe.training.train" in heavy
    while more := {name for name, needed in graph.items() if needed & heavy} - heavy:
        heavy |= more
    for path in modules():
        if path.is_relative_to(ROOT / "pipelines"):
            assert not {*imports(path)} & heavy, path


def test_no_module_imports_itself_in_a_circle() -> None:
    names = {name_of(path) for path in modules()}
    graph = {name_of(path): {name for name in imports(path) if name in names} for path in modules()}
    done: set[str] = set()

    def follow(name: str, way: list[str]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                follow(other, [*way, name])
            done.add(name)

    for name in sorted(graph):
        follow(name, [])


def test_a_folder_has_one_subject_that_a_stranger_finds() -> None:
    for folder in {path.parent for path in modules()}:
        assert len([path for path in folder.iterdir() if path.is_file()]) <= MOST_FILES, folder
        assert ast.get_docstring(tree_of(folder / "__init__.py")), folder
    assert not [path for path in modules() if path.stem in ("utils", "util", "common", "helpers", "misc")]


def test_a_file_has_one_subject_and_a_function_fits_a_screen() -> None:
    too_long = []
    for path in modules():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        too_long += [f"{path}: {lines} lines"] if lines > MOST_LINES else []
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                too_long += [f"{path}: {node.name}, {lines} lines"] if lines > MOST_LINES_OF_A_FUNCTION else []
    assert not too_long


def test_a_name_means_one_thing() -> None:
    """No public class has the name of another one, except an answer as the server writes it and the client reads it."""
    places: dict[str, set[str]] = {}
    for path in modules():
        room = path.relative_to(ROOT).parent.as_posix()
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, set()).add("the answer" if room in ANSWERS else path.as_posix())
    assert {name: sorted(found) for name, found in places.items() if len(found) > 1} == {}


def run(code: str, folder: Path, **environment: str) -> str:
    """Return the output of a new Python process that runs the code in `folder`, with more in its environment."""
    command, given = [sys.executable, "-c", code], {**os.environ, **environment}
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("checkout", [True, False])
def test_a_module_has_one_name(checkout: bool, tmp_path: Path) -> None:
    code = """
import importlib
for name in ("processing", "training", "inference", "pipelines"):
    importlib.import_module(f"mammopipe.{name}")
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    print(name)
"""
    assert run(code, ROOT if checkout else tmp_path) == ""


def test_the_light_parts_work_where_torch_is_not_installed(tmp_path: Path) -> None:
    code = """
import sys
for name in ("torch", "torchvision"):
    sys.modules[name] = None
import mammopipe.inference.client
import mammopipe.pipelines.cli
from mammopipe import MammographyClient, PipelineConfig, Run, __version__, build_pipeline, start
print(len(build_pipeline(PipelineConfig()).definition()) > 1000)
"""
    assert run(code, tmp_path, HOME="/nonexistent") == "True"


def test_the_command_line_starts_without_the_heavy_packages(tmp_path: Path) -> None:
    heavy = ("sagemaker", "torch", "cv2", "pandas", "sklearn")
    code = f"import sys, mammopipe.pipelines.cli; print([name for name in {heavy} if name in sys.modules])"
    assert run(code, tmp_path) == "[]"


def test_a_job_imports_at_its_start_what_every_job_needs(tmp_path: Path) -> None:
    jobs = "mammopipe.training.train, mammopipe.training.evaluate"
    late = ("torchvision", "sklearn", "captum", "pandas", "matplotlib", "timm", "openvino", "torch._dynamo")
    code = f"import sys, {jobs}; print([name for name in {late} if name in sys.modules])"
    assert run(code, tmp_path) == "[]"


def test_augmentation_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys, mammopipe.processing.jobs.augment; print([name for name in ('torch',) if name in sys.modules])"
    assert run(code, tmp_path) == "[]"


def test_the_public_names_are_there() -> None:
    for name in mammopipe.__all__:
        assert getattr(mammopipe, name) is not None
    assert set(mammopipe.__all__) == {
        *("read_mammogram", "Predictor", "MammographyClient", "PipelineConfig", "build_pipeline", "start", "Run"),
        "__version__",
    }
