"""Views for a notebook: images, a run's live steps, figures of runs side by side. Needs only IPython.

The same calls work offline and on AWS: `start(..., show=NotebookProgress)` shows a local run live. On AWS `start`
returns at once, and `follow(run)` shows the run live.
"""

import base64
import io
import json
import threading
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from IPython import display as ipython

from mammopipe.inference.client.client import Answer, MammographyClient
from mammopipe.pipelines.backends.step_status import Status, StepRecord
from mammopipe.pipelines.commands import runs as run_views
from mammopipe.pipelines.commands.models.answer_table import NOTICE, image_rows
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.costs.estimate import Line, within
from mammopipe.pipelines.notebook import graph_picture, roc_picture
from mammopipe.pipelines.runs import comparison, paired_comparison
from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.pipelines.runs.progress import STYLES
from mammopipe.pipelines.runs.run import Run
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.images.image_files import ImageFiles

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

CAPTIONS = {
    "data_augmentation-contact-sheet": "Augment: each image with the copies made of it; circles are lesions",
    "data_segmentation-montage": "Segment: the breast's outline, the muscle that is removed, and the lesions",
}
"""The names of a run's pictures."""
COLOURS = {"dim": "#8a939c", "bold cyan": "#1f6fb4", "green": "#1b7742", "bold red": "#b3261e", "yellow": "#8a5a00"}
"""The page's equivalents of the terminal's styles."""
REFRESH_SECONDS = 1.0
HTML: Any = ipython.HTML
SVG: Any = ipython.SVG
display: Any = ipython.display
"""IPython has no types, so displayed objects are typed `Any` here."""


class NotebookProgress:
    """A live table of a run's steps, as a context manager; pass the class itself to `start` and `follow`."""

    def __init__(self, logs: Path) -> None:
        self._records: list[StepRecord] = []
        self._ended = threading.Event()
        self._shown: Any = None

    def __enter__(self) -> "NotebookProgress":
        self._shown = display(HTML(""), display_id=True)
        self._clock = threading.Thread(target=self._tick, daemon=True)
        self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._clock.join()
        self._update()

    def changed(self, records: list[StepRecord]) -> None:
        """Update the display to the current status of the steps."""
        self._records = list(records)

    def _tick(self) -> None:
        while not self._ended.wait(REFRESH_SECONDS):
            self._update()

    def _update(self) -> None:
        self._shown.update(HTML(steps_html(self._records)))


def steps_html(records: Sequence[StepRecord]) -> str:
    """Return the steps as a table."""
    rows = []
    for record in records:
        running = record.status is Status.EXECUTING
        seconds = time.monotonic() - record.clock if running else record.seconds
        colour = COLOURS[STYLES[record.status]]
        rows.append(
            f'<tr><td style="text-align:left">{escape(record.name)}</td>'
            f'<td style="text-align:left;color:{colour}">{record.status}</td>'
            f"<td>{'' if seconds is None else f'{seconds:.1f} s'}</td>"
            f'<td style="text-align:left">{escape(record.reason)}</td></tr>'
        )
    return f"<table><tr><th>step</th><th>status</th><th>time</th><th></th></tr>{''.join(rows)}</table>"


def graph(config: PipelineConfig, run: Run | None = None) -> Any:
    """Return the pipeline's graph; with a run, each step shows its status."""
    from mammopipe.pipelines.graph.definition import build_pipeline

    statuses = {step["name"]: Status(step["status"]) for step in _folder(run).execution()["steps"]} if run else {}
    return SVG(graph_picture.draw(json.loads(build_pipeline(config).definition()), statuses))


def images(folder: Path, count: int = 6, height: int = 220) -> Any:
    """Return the first images of a folder (PGM or PNG, single files or in shards) side by side."""
    stored = ImageFiles(folder)
    names = stored.names((".pgm", ".png"))[:count]
    shown = [figure_of(png_of(grey_picture(stored.source(name), height)), name) for name in names]
    return HTML(f'<div style="display:flex;gap:10px;flex-wrap:wrap">{"".join(shown)}</div>')


def grey_picture(source: Path | bytes, height: int) -> "Picture":
    """Return an image, whatever its number of bits, as 8-bit grey picture of at most `height` rows."""
    from PIL import Image

    from mammopipe.processing.images.mammogram import read_mammogram

    # Pillow clips 16-bit grey levels at 255, so the levels are divided here.
    picture = Image.fromarray((read_mammogram(source).pixels >> 8).astype("uint8"))
    picture.thumbnail((4 * height, height))
    return picture


def png_of(picture: "Picture") -> bytes:
    """Return a picture as PNG."""
    target = io.BytesIO()
    picture.save(target, "PNG")
    return target.getvalue()


def pictures(run: Run, width: int = 900) -> Any:
    """Return a run's pictures: the augmented images and the montage of the segmentation; wide ones scroll."""
    from PIL import Image

    shown = []
    for path in sorted((_folder(run).path / "pictures").glob("*.png")):
        with Image.open(path) as image:
            wide = image.width if image.width <= width else max(width, image.width // 2)
        figure = figure_of(path.read_bytes(), CAPTIONS.get(path.stem, path.name), f"width:{wide}px;max-width:none")
        shown.append(f'<div style="overflow:auto;max-height:720px;margin-bottom:12px">{figure}</div>')
    return HTML("".join(shown))


def answer(mammogram: Path, said: Answer, overlay: bytes, height: int = 320) -> Any:
    """Return the endpoint's answer for an image, beside the image and its overlay (PNG)."""
    from PIL import Image

    with Image.open(io.BytesIO(overlay)) as image:
        heat = image.convert("RGB")
    heat.thumbnail((4 * height, height))
    shown = ((mammogram.name, grey_picture(mammogram, height)), ("evidence for malignant", heat))
    pictures = [figure_of(png_of(picture), name) for name, picture in shown]
    table = _html_table([mammogram.name], [(title, [str(value)]) for title, value in image_rows(said)])
    return HTML(
        f'<div style="display:flex;gap:10px;flex-wrap:wrap">{"".join(pictures)}{table}</div><p>{escape(NOTICE)}</p>'
    )


def estimate(config: PipelineConfig) -> Any:
    """Return the estimated cost of a run on AWS, step by step, at the prices of this version."""
    from mammopipe.pipelines.costs.estimate import estimate as lines_of
    from mammopipe.pipelines.costs.prices import Prices, Throughput

    prices = Prices.load()
    print(f"On AWS, at prices of {prices.dated}, {prices.region}")
    return costs(lines_of(config, prices, Throughput.load()))


def images_of(config: PipelineConfig, folder: Path, source: str = "", images: int = 30) -> Path:
    """Return the folder of a run's images: the source or, without one, synthetic images written into `folder`."""
    from mammopipe.processing.phantoms.trees import write_phantoms

    if source:
        return Path(source)
    if not folder.exists():
        write_phantoms(config.dataset, folder, images)
    return folder


def staged(config: PipelineConfig, folder: Path, backend: str) -> str:
    """Return the source for a run: the folder itself here; on AWS, the location that it was uploaded to."""
    if backend != "aws":
        return str(folder)
    from mammopipe.pipelines.backends.sessions import caller_storage
    from mammopipe.pipelines.runs.sources import stage_source

    uri = config.storage.uri("raw", config.dataset)
    print(stage_source(config, folder, uri, caller_storage(config)))
    return uri


def client(config: PipelineConfig, run: Run) -> MammographyClient:
    """Return a client of the endpoint that a local run kept, or of the candidate that a run on AWS deployed."""
    execution = _folder(run).execution()
    if execution.get("backend") == "aws":
        return MammographyClient(config.endpoint.candidate.name, region=execution["region"])
    kept = run.document("endpoint.json")
    return MammographyClient(kept["name"], endpoint_url=kept["url"])


def delete(config: PipelineConfig, run: Run) -> bool:
    """Delete the endpoint that a local run kept, or the candidate on AWS; returns whether a local one was running.

    The endpoint that a clinic calls is never deleted here. Raises `ConfigError` if AWS has no candidate, or if its tags
    are not those of the configuration.
    """
    if _folder(run).execution().get("backend") != "aws":
        from mammopipe.pipelines.backends.local_endpoint import delete_kept

        return delete_kept(_folder(run).path)
    from mammopipe.pipelines.account import removal
    from mammopipe.pipelines.backends import sessions

    session = sessions.caller_session(config)
    names = ("sagemaker", "application-autoscaling", "cloudwatch")
    services = removal.Services(*(session.client(name) for name in names))
    for name in config.endpoint.candidate.names:
        removal.remove(removal.plan(config, services.sagemaker, name), services, print)
    return True


def costs(lines: Sequence[Line]) -> Any:
    """Return a table of the steps' costs: instances, hours and US dollars."""
    rows = [
        (line.step, [f"{line.instances} x {line.instance_type}", f"{line.hours:,.3f}", f"{line.usd:,.2f}"])
        for line in lines
    ]
    hours, usd = within(list(lines)), sum(line.usd for line in lines)
    total = ("all, candidates side by side", ["", f"{hours:,.3f}", f"{usd:,.2f}"])
    return HTML(_html_table(["instances", "hours", "USD"], [*rows, total]))


def figure_of(png: bytes, name: str, style: str = "") -> str:
    """Return a picture with its name below, as HTML."""
    data = base64.b64encode(png).decode()
    return (
        f'<figure style="margin:0"><img style="{style}" src="data:image/png;base64,{data}" alt="{escape(name)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
    )


def follow(run: Run, runs: Path | str = "runs", config: PipelineConfig | None = None) -> Run:
    """Return the run when it has ended: at once offline, where `start` has shown it; on AWS it is shown live here.

    If `MLFLOW_TRACKING_URI` is set and tracking fails, the reason is shown.
    """
    if run.folder is not None:
        if run.untracked:
            print(run.untracked)
        return run
    from mammopipe.pipelines.runs import aws
    from mammopipe.pipelines.runs.aws_watch import watch
    from mammopipe.pipelines.runs.tracking import mlflow

    region = run.arn.split(":")[3]
    folder = aws.record(Path(runs), config or PipelineConfig(), run.arn, region)
    ended = watch(folder, run_views.aws_clients(region), mlflow.showing(NotebookProgress), print)
    if ended["status"] != Status.EXECUTING:
        mlflow.track_if_asked(folder.path)
    return Run(run.id, Status(ended["status"]), ended["reason"], folder.path, run.arn)


def figures(*chosen: Run) -> Any:
    """Return the figures of runs side by side, with 95 % intervals, and their differences to the first run."""
    folders = [_folder(run) for run in chosen]
    found = [comparison.facts(folder) for folder in folders]
    settings = [(f"  {name}", cells) for name, cells in comparison.other_settings(found)]
    above = [("settings that differ", [""] * len(found))] if settings else []
    parts = [_html_table([item["id"] for item in found], [*comparison.rows(found), *above, *settings])]
    for folder, item in zip(folders[1:], found[1:], strict=True):
        compared = comparison.against(found[0], item, paired_comparison.differences(folders[0], folder))
        verdict = escape(f"{comparison.verdict(compared, found[0]['id'], item['id'])} {comparison.ADVICE}")
        parts += [
            f"<p><b>{escape(item['id'])} less {escape(found[0]['id'])}</b></p>",
            _html_table(comparison.heads(compared), comparison.difference_rows(compared)),
            f"<p>{verdict}</p>",
        ]
    return HTML("".join(parts))


def _html_table(heads: Sequence[str], rows: comparison.Rows) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    heading = any(name.startswith("  ") for name, _ in rows)
    body = "".join(
        f'<tr><td style="text-align:left;{_weight(name, heading)}">{escape(name)}</td>'
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return f"<table><tr><th></th>{head}</tr>{body}</table>"


def _weight(name: str, heading: bool) -> str:
    """Return the style of a row's name: bold for headings; indented below them, by the spaces before it."""
    if name.startswith("  "):
        return "padding-left:2em"
    return "font-weight:bold" if heading else ""


def roc(*chosen: Run) -> Any:
    """Return the ROC curves of runs in one picture: malignant against the rest, on the test split."""
    return SVG(roc_picture.draw([(run.id, run.document("evaluation.json")) for run in chosen]))


def _folder(run: Run) -> RunFolder:
    if run.folder is None:
        raise ConfigError(f"run {run.id} is on AWS and was not followed: run = follow(run)")
    return RunFolder(run.folder.parent, run.folder.name)
