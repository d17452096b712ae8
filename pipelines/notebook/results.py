"""A run's results in a notebook: learning curves, ROC and precision-recall curves, report, worst errors, browser."""

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammopipe.pipelines.notebook.views import HTML, figure_of, grey_picture, png_of
from mammopipe.pipelines.runs.run import Run
from mammopipe.processing.datasets.manifest import Label, Split
from mammopipe.processing.datasets.own import IMAGE_SUFFIXES, image_id_of
from mammopipe.processing.datasets.registry import DATASETS
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.images.shards import Member, members

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

MALIGNANT = "malignant"
PAGE = 6
"""Images on a page of the browser."""


def curves(run: Run) -> Any:
    """Return the learning curves of every network: the losses and the validation macro AUC, by epoch."""
    table = run.history()
    picture = _picture(9, 3.2)
    losses, scores = picture.subplots(1, 2)
    for name, epochs in table.groupby("network"):
        (line,) = losses.plot(epochs["epoch"], epochs["train_loss"], label=f"{name}, training")
        losses.plot(
            epochs["epoch"], epochs["validation_loss"], "--", color=line.get_color(), label=f"{name}, validation"
        )
        scores.plot(epochs["epoch"], epochs["validation_macro_auc"], marker="o", label=str(name))
    for area, title in ((losses, "loss"), (scores, "validation macro AUC")):
        area.set(xlabel="epoch", title=title)
        area.xaxis.get_major_locator().set_params(integer=True)
        area.legend(fontsize=7)
    return _shown(picture, "learning curves")


def roc_and_pr(run: Run, split: str = "validation") -> Any:
    """Return the ROC and precision-recall curves of every network on one split, malignant against the rest."""
    table = run.predictions()
    table = table[table["split"] == split]
    picture = _picture(8, 3.6)
    left, right = picture.subplots(1, 2)
    for name, rows in table.groupby("network"):
        found = rows.sort_values(MALIGNANT, ascending=False)
        hits = (found["label"] == MALIGNANT).cumsum().to_numpy()
        called = range(1, len(found) + 1)
        # A split without malignant images, or with nothing else, gives a flat curve instead of a division by zero.
        cases, others = max(1, int(hits[-1])), max(1, len(found) - int(hits[-1]))
        left.step(
            [0, *((n - hit) / others for n, hit in zip(called, hits, strict=True))], [0, *(hits / cases)], label=name
        )
        right.step(hits / cases, [hit / n for n, hit in zip(called, hits, strict=True)], label=name)
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    left.set(xlabel="1 - specificity", ylabel="sensitivity", title=f"ROC, {split}")
    right.set(
        xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02), title=f"precision and recall, {split}"
    )
    left.legend(fontsize=7)
    return _shown(picture, f"ROC and precision-recall on {split}")


def report(run: Run, height: int = 700) -> Any:
    """Return the run's report, embedded in the page."""
    page = escape(run.report.read_text(encoding="utf-8"), quote=True)
    frame = f'<iframe srcdoc="{page}" style="width:100%;height:{height}px;border:1px solid #ccc"></iframe>'
    return HTML(f"<div>{frame}</div>")


def mistakes(run: Run, images: Path, count: int = 6, split: str = "validation", height: int = 200) -> Any:
    """Return the images with the largest errors of the selected network, with truth, split and probability.

    Args:
        run: The run.
        images: Folder of the images; they are found by their id.
        count: Number of images.
        split: The split; do not use the test split to choose anything.
        height: Height of each picture in pixels.

    Returns:
        An IPython display object.
    """
    return HTML(_row(_worst(run, split).head(count), images, height, _dataset(run)))


def browse(run: Run, images: Path, height: int = 320) -> Any:
    """Return a browser of the evaluated images by split and truth; without ipywidgets, a static page.

    It begins with validation: what is chosen by looking at the test split is no longer tested by it.
    """
    table = _selected(run)
    splits = sorted(table["split"].unique(), key=lambda split: (split != str(Split.VALIDATION), split))
    try:
        import ipywidgets
    except ImportError:
        return HTML(_row(table[table["split"] == splits[0]].head(12), images, height, _dataset(run)))
    split = ipywidgets.Dropdown(options=splits, description="split")
    truth = ipywidgets.Dropdown(options=["all", *sorted(table["label"].unique())], description="truth")
    page = ipywidgets.BoundedIntText(min=1, max=1, description="page")
    count, shown = ipywidgets.Label(), ipywidgets.HTML()

    def change(_: object = None) -> None:
        """Show the page that split, truth and page number select."""
        rows = table[table["split"] == split.value]
        rows = rows if truth.value == "all" else rows[rows["label"] == truth.value]
        page.max = max(1, -(-len(rows) // PAGE))  # a page beyond the last becomes the last
        count.value = f"of {page.max}, {len(rows)} images"
        shown.value = _row(rows.iloc[PAGE * (page.value - 1) : PAGE * page.value], images, height, _dataset(run))

    for control in (split, truth, page):
        control.observe(change, "value")
    change()
    return ipywidgets.VBox([ipywidgets.HBox([split, truth, page, count]), shown])


def _selected(run: Run) -> "pandas.DataFrame":
    table = run.predictions()
    of_selected: pandas.DataFrame = table[table["network"] == run.document("evaluation.json")["selected"]["cnn"]]
    return of_selected


def _worst(run: Run, split: str) -> "pandas.DataFrame":
    table = _selected(run)
    table = table[table["split"] == split].copy()
    table["of_truth"] = [float(row[row["label"]]) for _, row in table.iterrows()]
    return table.sort_values("of_truth")


def _row(rows: "pandas.DataFrame", images: Path, height: int, dataset: str) -> str:
    files = _files(images)
    figures = (_figure(row, files, images, height, dataset) for row in rows.to_dict("records"))
    return f'<div style="display:flex;gap:10px;flex-wrap:wrap">{"".join(figures)}</div>'


def _files(folder: Path) -> dict[str, Path | Member]:
    """Return the images below a folder by their ids: the file's name, or the id that a site's own table gives it."""
    inside = sorted(folder.rglob("*"))
    found: dict[Path, Path | Member] = {path: path for path in inside if path.suffix.lower() in IMAGE_SUFFIXES}
    for path in (folder, *inside):
        if path.is_dir():
            found |= {path / name: member for name, member in members(path).items()}
    named = Counter(path.stem for path in found)
    by_name = {path.stem: image for path, image in found.items() if named[path.stem] == 1}
    return by_name | {image_id_of(path.relative_to(folder).as_posix()): image for path, image in found.items()}


def _figure(row: Mapping[Any, Any], files: Mapping[str, Path | Member], images: Path, height: int, dataset: str) -> str:
    image = files.get(str(row["image_id"]))
    if image is None:
        raise ConfigError(f"{images}: no image {row['image_id']}, which the run's predictions name")
    picture = grey_picture(image if isinstance(image, Path) else image.read(), height)
    facts = [str(row["label"]), _chances(row), *_words(row, dataset)]
    figure = figure_of(png_of(picture), f"{row['image_id']} ({row['split']}): {'; '.join(facts)}")
    # As wide as the picture, so that long captions wrap and the pictures stay side by side.
    return f'<div style="width:{max(picture.width, 160)}px;font-size:small">{figure}</div>'


def _dataset(run: Run) -> str:
    return str(run.document("execution.json").get("dataset", ""))


def _words(row: Mapping[Any, Any], dataset: str) -> Iterator[str]:
    """Yield density and finding of an image with what the dataset's words mean: `density D, dense-glandular (...)`."""
    known = DATASETS.get(dataset)
    for name in ("density", "finding"):
        word = row.get(name)
        if isinstance(word, str) and word:
            meaning = known.meaning(name, word) if known is not None else ""
            yield f"{name} {word}{f', {meaning}' if meaning else ''}"


def _chances(row: Mapping[Any, Any]) -> str:
    return ", ".join(f"{name} {float(row[name]):.2f}" for name in _classes(row))


def _classes(row: Mapping[Any, Any]) -> Iterator[str]:
    yield from (name for name in Label if name in row)


def _picture(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _shown(picture: "Figure", name: str) -> Any:
    target = io.BytesIO()
    picture.savefig(target, dpi=110, format="png")
    return HTML(figure_of(target.getvalue(), name, "max-width:100%"))
