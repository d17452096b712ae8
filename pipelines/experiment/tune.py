"""`mammopipe tune`: a search over configuration keys; each trial is a local run of the pipeline.

Optuna proposes the values (its tree-structured Parzen estimator, Bergstra et al. 2011) and keeps the study in
`<out>/study.db`, so a stopped search can continue. Trials share their images and a step cache: Prepare, Augment and
Segment run once for all trials that do not change them. Only validation decides between trials; the test results in
their reports are not used.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.config.search_space import Kind, Space
from mammopipe.pipelines.config.toml import assigned, unknown_key
from mammopipe.pipelines.runs import preflight
from mammopipe.pipelines.runs.launch import start
from mammopipe.pipelines.runs.tracking import mlflow
from mammopipe.pipelines.runs.tracking.mlflow_store import Trial
from mammopipe.processing.errors import ConfigError, MammopipeError
from mammopipe.processing.files import write_csv
from mammopipe.processing.phantoms import DEFAULT_PHANTOMS, PHANTOMS
from mammopipe.processing.phantoms.trees import write_phantoms
from mammopipe.processing.settings import field_at

if TYPE_CHECKING:
    import optuna

MEASURE = "macro_auc"
STUDY, TABLE, PICTURE = "study.db", "trials.csv", "trials.png"
REUSED_FOR = "P30D"
"""The time within which a trial reuses an equal step of an earlier one, if the configuration states none."""


def space_of(assignment: str) -> Space | None:
    """Return the range in `KEY=log(LOW,HIGH)`; None if the text assigns a single value. Raises `ConfigError`."""
    key, _, text = assignment.partition("=")
    space = Space.parse(key, text, f"--set {assignment}")
    if space is not None and field_at(PipelineConfig, key.split(".")) is None:
        raise unknown_key(PipelineConfig, key)
    return space


@dataclass(frozen=True)
class Search:
    """The keys to search, and the runs to search with."""

    configure: Callable[[Sequence[str]], PipelineConfig]
    """Makes a configuration from assignments, which override the settings that all trials share."""
    spaces: Sequence[Space]
    trials: int
    out: Path
    source: str = ""
    phantoms: int | None = None
    weights: str = ""

    def __post_init__(self) -> None:
        """Refuse a search without a space, and bounds that break a rule of their key."""
        if not self.spaces:
            raise ConfigError("tune: give a range, such as --set training.learning_rate=log(1e-5,1e-2)")
        if self.trials < 1:
            raise ConfigError(f"--trials {self.trials}: must be at least 1")
        for space in self.spaces:
            for value in space.examples():
                assigned(PipelineConfig, [f"{space.key}={value}"])
                self.configure([f"{space.key}={value}"])


def run(search: Search, *, begin: Callable[..., Any] = start, say: Callable[[str], None] = print) -> "optuna.Study":
    """Run the trials that the study lacks, and write its table and plot.

    Args:
        search: The search.
        begin: Starts a run; `mammopipe.start`, except in tests.
        say: Called with each line for the user.

    Returns:
        The study; its best trial is the one with the highest validation macro AUC.

    Raises:
        ConfigError: Optuna is not installed, or no trial has succeeded.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("tune needs optuna; pip install 'mammopipe[pipelines]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not (search.out / STUDY).exists():  # what is refused leaves no folder
        _check(search)
    search.out.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name="mammopipe",
        storage=f"sqlite:///{search.out / STUDY}",
        direction="maximize",
        load_if_exists=True,
    )
    # An interrupted trial has neither a figure nor a reason; it is replaced by a new one.
    done = sum(trial.value is not None or "reason" in trial.user_attrs for trial in study.trials)
    # Each start gets another seed; otherwise a continued search would repeat its first proposals.
    study.sampler = optuna.samplers.TPESampler(seed=search.configure([]).data.seed + done)
    source = _source(search, say) if done < search.trials else search.source
    for number in range(done, search.trials):
        study.optimize(lambda trial: _trial(trial, search, source, begin), n_trials=1, catch=(MammopipeError,))
        _write(study, search)
        last = study.trials[-1]
        shown = ", ".join(f"{key}={_short(value)}" for key, value in last.params.items())
        result = "failed" if last.value is None else f"{last.value:.3f}"
        say(f"Trial {number + 1} of {search.trials}: {shown}: validation macro AUC {result}")
        _track(study, search)
    if not any(trial.value is not None for trial in study.trials):
        raise ConfigError(f"{search.out}: none of {len(study.trials)} trials succeeded; see {search.out / TABLE}")
    return study


def _check(search: Search) -> None:
    images = DEFAULT_PHANTOMS if search.phantoms is None else search.phantoms
    config = search.configure([])
    preflight.check(config, search.source, search.weights, {}, search.out / "runs", phantoms=images)


def _source(search: Search, say: Callable[[str], None]) -> str:
    """Return the source of all trials, after the checks that a run makes; phantoms are written once, into `out`."""
    config = search.configure([])
    _check(search)
    images = DEFAULT_PHANTOMS if search.phantoms is None else search.phantoms
    if search.source not in ("", PHANTOMS):
        return search.source
    folder = search.out / f"phantoms-{config.dataset}-{images}"
    if not folder.is_dir():
        say(f"SYNTHETIC IMAGES: {images} phantoms; no figure of this search says anything about real mammograms.")
        with TemporaryDirectory(dir=search.out) as scratch:  # an interrupted search leaves no incomplete folder
            write_phantoms(config.dataset, Path(scratch) / folder.name, images)
            (Path(scratch) / folder.name).rename(folder)
    preflight.check(config, str(folder), search.weights, {}, search.out / "runs")
    return str(folder)


def _trial(trial: "optuna.Trial", search: Search, source: str, begin: Callable[..., Any]) -> float:
    try:
        return _run(trial, search, source, begin)
    except MammopipeError as error:
        trial.set_user_attr("reason", str(error))
        raise


def _run(trial: "optuna.Trial", search: Search, source: str, begin: Callable[..., Any]) -> float:
    config = search.configure([f"{space.key}={space.suggest(trial)}" for space in search.spaces])
    compute = config.compute.replace(cache=config.compute.cache or REUSED_FOR)
    done = begin(
        config.replace(deploy=False, compute=compute),
        source=source,
        weights=search.weights,
        runs=search.out / "runs",
    )
    trial.set_user_attr("run", done.id)
    if done.status is not Status.SUCCEEDED and not (done.folder and (done.folder / "evaluation.json").is_file()):
        raise ConfigError(f"run {done.id}: {done.reason}")
    return float(done.document("evaluation.json")["selected"]["validation"][MEASURE]["value"])


def rows(study: "optuna.Study") -> list[dict[str, Any]]:
    """Return one row per trial: its values, run and figure, the best first."""
    found = [
        {
            "trial": trial.number + 1,
            "run": trial.user_attrs.get("run", ""),
            f"validation_{MEASURE}": "" if trial.value is None else trial.value,
            **trial.params,
            "reason": trial.user_attrs.get("reason", ""),
        }
        for trial in study.trials
        if trial.value is not None or "reason" in trial.user_attrs
    ]
    return sorted(found, key=lambda row: -(row[f"validation_{MEASURE}"] or 0))


def _track(study: "optuna.Study", search: Search) -> None:
    """Write the search to MLflow if tracking is configured."""
    if "id" not in study.user_attrs:
        study.set_user_attr("id", secrets.token_hex(8))
    trials = [
        Trial(trial.user_attrs["run"], trial.params, trial.value) for trial in study.trials if "run" in trial.user_attrs
    ]
    spaces = {space.key: f"{space.kind}({', '.join(space.bounds)})" for space in search.spaces}
    files = [search.out / TABLE, search.out / PICTURE]
    mlflow.track_search(study.user_attrs["id"], f"tune {search.out.resolve().name}", spaces, trials, files)


def _write(study: "optuna.Study", search: Search) -> None:
    table = rows(study)
    columns = ["trial", "run", f"validation_{MEASURE}", *(space.key for space in search.spaces), "reason"]
    write_csv(search.out / TABLE, columns, [{name: str(row.get(name, "")) for name in columns} for row in table])
    draw([row for row in table if row[f"validation_{MEASURE}"] != ""], search.spaces, search.out / PICTURE)


def draw(table: Sequence[Mapping[str, Any]], spaces: Sequence[Space], target: Path) -> None:
    """Draw the trials as parallel coordinates: one axis per key, one for the figure, and one line per trial."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    axes = [space.key for space in spaces] + [f"validation_{MEASURE}"]
    picture = Figure(figsize=(2.2 * len(axes) + 1, 4), layout="constrained")
    area = picture.subplots()
    best = [float(row[axes[-1]]) for row in table]
    for row, value in zip(table, best, strict=True):
        heights = [_height(row, name, table, spaces) for name in axes]
        share = (value - min(best)) / (max(best) - min(best) or 1)
        area.plot(range(len(axes)), heights, color=colormaps["viridis"](share), alpha=0.8, marker="o", markersize=3)
    area.set_xticks(range(len(axes)), axes, rotation=15)
    for place, name in enumerate(axes):
        for height, text in zip((-0.06, 1.06), _ends(name, table, spaces), strict=True):
            area.text(place, height, text, ha="center", va="center", fontsize=8)
    area.set_yticks([0, 1], ["lowest", "highest"])
    area.set_ylim(-0.12, 1.12)
    area.set_title(f"{len(table)} trials; bright: higher validation macro AUC", fontsize=10)
    picture.savefig(target, dpi=120)


def _ends(name: str, table: Sequence[Mapping[str, Any]], spaces: Sequence[Space]) -> tuple[str, str]:
    """Return the values at the lower and the upper end of an axis."""
    space = next((item for item in spaces if item.key == name), None)
    if space is not None and space.kind is Kind.CHOICE:
        return space.bounds[0], space.bounds[-1]
    values = [float(row[name]) for row in table]
    if not values:
        return "", ""
    return f"{min(values):.3g}", f"{max(values):.3g}" if max(values) > min(values) else ""


def _height(row: Mapping[str, Any], name: str, table: Sequence[Mapping[str, Any]], spaces: Sequence[Space]) -> float:
    """Return the position of a value on its axis, from 0 to 1."""
    import math

    space = next((item for item in spaces if item.key == name), None)
    if space is not None and space.kind is Kind.CHOICE:
        return space.bounds.index(str(row[name])) / (len(space.bounds) - 1)
    scale: Callable[[float], float] = math.log if space is not None and space.kind is Kind.LOG else float
    values = [scale(float(item[name])) for item in table]
    return (scale(float(row[name])) - min(values)) / (max(values) - min(values) or 1)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
