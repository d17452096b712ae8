"""A site's own table, a search and a run's model, for notebooks."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.notebook.views import HTML, figure_of
from mammopipe.pipelines.runs.run import Run
from mammopipe.processing.errors import ConfigError

if TYPE_CHECKING:
    import pandas


def own_table(table: str, folder: Path, images: int = 36) -> Path:
    """Return the path of a table; without one, of the table of synthetic images that are written into `folder`."""
    from mammopipe.processing.datasets.own_table import find_table
    from mammopipe.processing.phantoms.own_tree import write_own_tree

    if table:
        return find_table(Path(table))
    if not folder.is_dir():
        write_own_tree(folder, images=images, height=256, width=208)
    return find_table(folder)


def check(config: PipelineConfig, table: Path) -> Any:
    """Return what `mammopipe data check` says of a table and its images, with a montage of them."""
    from tempfile import TemporaryDirectory

    from mammopipe.pipelines.data.check import check_dataset
    from mammopipe.processing.datasets.own import images_of, read_own
    from mammopipe.processing.jobs.contact_sheets import overview
    from mammopipe.processing.read_config import ReadConfig

    found, images = read_own(table, config.own), images_of(table, config.own)
    facts = check_dataset(found, images, config).as_dict()
    rows = "".join(
        f'<tr><td style="text-align:left">{escape(name)}</td><td style="text-align:left">{_cell(value)}</td></tr>'
        for name, value in facts.items()
    )
    with TemporaryDirectory() as scratch:
        reading = ReadConfig(jpeg_files=True, for_processing=config.data.for_processing)
        overview(found.records, images, Path(scratch) / "montage.png", reading=reading)
        picture = figure_of((Path(scratch) / "montage.png").read_bytes(), "up to 32 images, rare classes first")
    verdict = "A run on this table would fail." if facts["problems"] else "A run on this table can start."
    return HTML(f"<table>{rows}</table><p><b>{verdict}</b></p>{picture}")


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return escape(", ".join(f"{word} {number}" for word, number in value.items()) or "none")
    if isinstance(value, list | tuple):
        return (
            "<br>".join(escape(", ".join(item) if isinstance(item, tuple) else str(item)) for item in value) or "none"
        )
    return escape(str(value))


def model_of(run: Run, folder: Path) -> Path:
    """Unpack a run's model into a folder and return it, for `Predictor`; raises `ConfigError` if there is none."""
    from mammopipe.training.model.archive import unpack

    archive = None if run.folder is None else run.folder / "model.tar.gz"
    if archive is None or not archive.is_file():
        raise ConfigError(f"run {run.id} has no model.tar.gz: it ended before that")
    unpack(archive, folder)
    return folder


def sweep(
    settings: Sequence[str],
    ranges: Sequence[str],
    *,
    trials: int,
    out: Path,
    source: str = "",
    images: int | None = None,
    weights: str = "",
    config: Path | None = None,
) -> "pandas.DataFrame":
    """Search as `mammopipe tune` does, and return one row per trial, the best first.

    Args:
        settings: Assignments that all trials share, such as `training.epochs=5`.
        ranges: What is searched, such as `training.learning_rate=log(1e-5,1e-2)`.
        trials: Number of trials in all; those in `out` count.
        out: Folder of the study, its runs, `trials.csv` and `trials.png`.
        source: Folder, tarball or table of the images; empty for phantoms.
        images: Number of phantoms.
        weights: Pretrained weights to start from.
        config: TOML file that the settings override.

    Raises:
        ConfigError: A range or setting is wrong, or no trial succeeded.
    """
    import pandas

    from mammopipe.pipelines.experiment import tune

    spaces = []
    for text in ranges:
        space = tune.space_of(text)
        if space is None:
            raise ConfigError(f"{text}: must be a range: KEY=log(LOW,HIGH), or uniform, int or choice")
        spaces.append(space)

    def configure(assignments: Sequence[str]) -> PipelineConfig:
        return PipelineConfig.load(config, assignments=[*settings, *assignments])

    search = tune.Search(configure, spaces, trials, out, source, images, weights)
    return pandas.DataFrame(tune.rows(tune.run(search)))


def trials_picture(out: Path) -> Any:
    """Return the picture of a search's trials as parallel coordinates."""
    from mammopipe.pipelines.experiment.tune import PICTURE

    return HTML(figure_of((out / PICTURE).read_bytes(), "trials", "max-width:100%"))
