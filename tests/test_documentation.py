"""The examples of the documents run; their links, files and modules exist."""

import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from mammopipe.processing.container.paths import BASE_VARIABLE
from mammopipe.processing.datasets.manifest import Label, Split, write_manifest
from mammopipe.processing.datasets.registry import DATASETS, read_labels
from mammopipe.processing.errors import LabelError
from mammopipe.processing.files import write_bytes

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])

FOLDERS = ("processing", "training", "inference", "pipelines")
OF_OTHERS = ("tests/integ/sagemaker/workflow/test_fail_steps.py", "training/networks/NAME.py")
"""Files of another repository, and of the reader's own network package."""


def example(name: str) -> ModuleType:
    """Return an example of CONTRIBUTING.md as a module."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = text.split(f"<!-- example: {name} -->\n```python\n")[1].split("```")[0]
    module = ModuleType(f"example_{name}")
    exec(compile(code, f"CONTRIBUTING.md: {name}", "exec"), module.__dict__)
    return module


def test_the_dataset_of_the_example_reads_its_table(tmp_path: Path) -> None:
    dataset = example("dataset").DATASET
    assert dataset.name not in DATASETS
    table = tmp_path / "labels.csv"
    write_bytes(table, b"image,patient,side,view,label\nb,p2,R,CC,malignant\na,p1,L,MLO,normal\n")
    records = read_labels(dataset, tmp_path)
    assert [(record.image_id, record.label, record.path) for record in records] == [
        ("a", Label.NORMAL, "a.dcm"),
        ("b", Label.MALIGNANT, "b.dcm"),
    ]
    write_bytes(table, b"image,patient,side,view,label\na,p1,X,MLO,normal\n")
    with pytest.raises(LabelError, match="line 2"):
        read_labels(dataset, tmp_path)


def test_the_job_of_the_example_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = example("step")
    table = tmp_path / "labels.csv"
    write_bytes(table, b"image,patient,side,view,label\na,p1,L,MLO,normal\nb,p2,R,CC,malignant\n")
    records = [replace(record, split=Split.TEST) for record in read_labels(example("dataset").DATASET, tmp_path)]
    folder = tmp_path / "processing" / "input" / "manifest"
    folder.mkdir(parents=True)
    write_manifest(records, folder / "manifest.csv")
    monkeypatch.setenv(BASE_VARIABLE, str(tmp_path))
    job.main([])
    counted = (tmp_path / "processing" / "output" / "census" / "census.json").read_text()
    assert '"test malignant": 1' in counted and '"test normal": 1' in counted


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_file_and_module_that_the_repository_names_exists() -> None:
    files = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "infra" / "stack.yaml"]
    files += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    wrong = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        for name in re.findall(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)}|tests|infra|docs)/[\w/.-]+\.\w+)", text):
            if not (ROOT / name).exists() and name not in OF_OTHERS:
                wrong.append(f"{file.relative_to(ROOT)}: {name}")
        for name in re.findall(rf"mammopipe\.((?:{'|'.join(FOLDERS)})(?:\.\w+)+)", text):
            if not named(name.split(".")):
                wrong.append(f"{file.relative_to(ROOT)}: mammopipe.{name}")
    assert not wrong


def named(parts: list[str]) -> bool:
    """Return whether these parts name a module, or a name that occurs in a module's text."""
    for end in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:end])
        for source in (place.with_suffix(".py"), place / "__init__.py"):
            if source.exists():
                return end == len(parts) or parts[end] in source.read_text(encoding="utf-8")
    return False


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_words_of_the_label_tables_are_explained_as_the_code_explains_them() -> None:
    page = (ROOT / "docs" / "reference" / "files.md").read_text()
    for dataset in ("mias", "rsna"):
        for words in DATASETS[dataset].meanings.values():
            for word, meaning in words.items():
                assert f"{word} {meaning}" in page, (dataset, word)
