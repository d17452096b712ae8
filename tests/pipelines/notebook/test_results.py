"""The results of a run as a notebook shows them: curves, worst mistakes first, a browser, the report in the page."""

import base64
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.pipelines.runs.run import Run
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.images.mammogram import write_png
from mammopipe.processing.images.shards import pack
from mammopipe.processing.phantoms.own_tree import write_own_tree

pytest.importorskip("IPython")
view = pytest.importorskip("mammopipe.pipelines.notebook")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
EPOCH = {"epoch": 1, "train_loss": 1.1, "validation_loss": 1.2, "validation_macro_auc": 0.6, "seconds": 2.0}
ROWS = [("p000-L", "malignant", 0.1), ("p000-R", "normal", 0.3), ("p001-L", "benign", 0.2), ("p001-R", "normal", 0.8)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    write_own_tree(folder, images=4, height=160, width=130)
    return folder / "images"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = RunFolder(tmp_path, "20260101-000000-aaaa")
    folder.write({"id": folder.id, "status": "Succeeded", "reason": "", "seconds": 1.0, "steps": [], "started": "now"})
    document = {"selected": {"cnn": "alexnet"}, "candidates": {"alexnet": {"history": [EPOCH, {**EPOCH, "epoch": 2}]}}}
    (folder.path / "evaluation.json").write_text(json.dumps(document))
    lines = [f"alexnet,validation,{name},{label},{1 - share},0,{share}" for name, label, share in ROWS]
    head = "network,split,image_id,label,normal,benign,malignant"
    (folder.path / "predictions.csv").write_text("\n".join([head, *lines]) + "\n")
    (folder.path / "report.html").write_text('<p title="a">report</p>')
    return Run.open(folder.id, tmp_path)


def test_curves_are_pictures_with_their_names(run: Run) -> None:
    for shown, name in ((view.curves(run), "learning curves"), (view.roc_and_pr(run), "ROC and precision-recall")):
        assert shown.data.count("data:image/png;base64,") == 1 and name in shown.data


def test_the_worst_mistakes_come_first_with_truth_split_and_probabilities(run: Run, images: Path) -> None:
    shown = view.mistakes(run, images, count=3).data
    order = [name for name, _, _ in ROWS if name in shown]
    assert sorted(order, key=shown.index) == ["p001-L", "p000-L", "p001-R"]
    assert "p000-L (validation): malignant; normal 0.90, benign 0.00, malignant 0.10" in shown
    assert view.mistakes(run, images.parent, count=3).data.count("<img") == 3, "below the folder, too"
    (images.parent / "copy").mkdir()
    for name in ("p000-L.png", "p001-L.png"):
        (images.parent / "copy" / name).touch()
    with pytest.raises(ConfigError, match="no image p001-L"):  # two files have the name
        view.mistakes(run, images.parent, count=3)
    with pytest.raises(ConfigError, match="no image p0"):
        view.mistakes(run, images / "none")


def test_images_in_shards_are_shown_as_single_files_are(run: Run, images: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in images.glob("*.png"))
    packed = tmp_path / "packed"
    packed.mkdir()
    for name in names:
        (packed / name).write_bytes((images / name).read_bytes())
    pack(packed, names, megabytes=0.05)
    assert not list(packed.glob("*.png"))
    assert view.images(packed, count=3).data == view.images(images, count=3).data
    assert view.images(packed, count=3).data.count("<img") == 3
    assert view.mistakes(run, packed).data == view.mistakes(run, images).data


def test_a_16_bit_image_keeps_its_grey_levels(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 64, dtype=np.uint16)[None].repeat(64, axis=0)
    write_png(tmp_path / "a.png", levels)
    found = re.search('base64,([^"]+)', view.images(tmp_path).data)
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as picture:
        np.testing.assert_array_equal(np.asarray(picture), levels >> 8)


def test_words_of_density_and_finding_stand_with_their_meaning(run: Run, images: Path, tmp_path: Path) -> None:
    assert "density" not in view.mistakes(run, images).data
    head = "image_id,density,finding,patient_id,machine_id,site_id,source_image_id,fold,quality,lesions"
    (run.folder / "stages").mkdir()
    (run.folder / "stages" / "prepared-manifest.csv").write_text(f"{head}\np000-L,D,SPIC,1,,,,0,{{}},[]\n")
    assert "density D; finding SPIC" in view.mistakes(run, images).data
    execution = {**run.document("execution.json"), "dataset": "mias"}
    (run.folder / "execution.json").write_text(json.dumps(execution))
    shown = view.mistakes(run, images).data
    assert "density D, dense-glandular (not the D of BI-RADS); finding SPIC, spiculated mass" in shown


def test_without_widgets_the_browser_is_a_static_page(run: Run, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ipywidgets", None)
    assert view.browse(run, images).data.count("<img") == 4


class Control:
    """Stands in for any widget: its value, its children, and who is called when the value changes."""

    def __init__(self, children: Sequence["Control"] = (), **settings: Any) -> None:
        self.children, self.max, self.changed = children, settings.get("max", 0), []
        self.value = settings.get("options", [settings.get("min", "")])[0]

    def observe(self, function: Callable[[object], None], name: str) -> None:
        self.changed.append(function)

    def choose(self, value: object) -> None:
        self.value = value
        for function in self.changed:
            function(None)


def test_the_browser_begins_with_validation_and_ends_with_the_last_page(
    run: Run, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("Dropdown", "BoundedIntText", "Label", "HTML", "VBox", "HBox")
    monkeypatch.setitem(sys.modules, "ipywidgets", SimpleNamespace(**dict.fromkeys(names, Control)))
    assert run.folder is not None
    path = run.folder / "predictions.csv"
    text = path.read_text()
    monkeypatch.setattr("mammopipe.pipelines.notebook.results.PAGE", 3)
    path.write_text(text + "".join(line.replace("validation", "test") for line in text.splitlines(True)[1:2]))
    box = view.browse(run, images)
    (split, truth, page, count), shown = box.children[0].children, box.children[1]
    assert (split.value, page.max, count.value, shown.value.count("<img")) == ("validation", 2, "of 2, 4 images", 3)
    page.choose(2)
    assert shown.value.count("<img") == 1
    truth.choose("malignant")
    assert (page.max, count.value) == (1, "of 1, 1 images")


def test_the_report_is_in_the_page_itself(run: Run) -> None:
    assert 'srcdoc="&lt;p title=&quot;a&quot;&gt;report' in view.report(run).data


def test_the_notebooks_import_public_names_alone() -> None:
    for path in (Path(__file__).parents[3] / "pipelines").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        for line in code.splitlines():
            if "import" in line and "mammopipe" in line:
                public = line.startswith("from mammopipe import ")
                assert public or line == "from mammopipe.pipelines import notebook as view", path.name
