"""`Run`: one run with its results."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.runs import frames
from mammopipe.pipelines.runs.folder import LATEST, RunFolder, find_run
from mammopipe.processing.errors import ConfigError

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Run:
    """A run and its results."""

    id: str
    status: Status
    reason: str = ""
    """Why the run failed, in one sentence."""
    folder: Path | None = None
    """The folder of the results; None on AWS."""
    arn: str = ""
    """The ARN of the execution on AWS."""
    untracked: str = ""
    """Why MLflow lacks part of the run although `MLFLOW_TRACKING_URI` asks for tracking."""

    def document(self, name: str) -> dict[str, Any]:
        """Return one of the run's JSON files: `evaluation.json`, `execution.json`, `invocation.json`."""
        if self.folder is None:
            raise ConfigError(f"run {self.id} is on AWS; its {name} lies in the execution's folder on S3")
        return RunFolder(self.folder.parent, self.folder.name).document(name)

    @classmethod
    def open(cls, name: str = LATEST, runs: Path | str = "runs") -> "Run":
        """Return a run of this machine by its id, the start of its id, or `latest`; raises `ConfigError`."""
        folder = find_run(Path(runs), name)
        execution = folder.execution()
        return cls(folder.id, Status(execution["status"]), execution["reason"], folder.path)

    @property
    def report(self) -> Path:
        """The report, one HTML file; raises `ConfigError` if the run ended before the report was written."""
        path = self._folder / "report.html"
        if not path.is_file():
            raise ConfigError(f"run {self.id} has no report.html: it ended before that")
        return path

    def manifest(self) -> "pandas.DataFrame":
        """Return one row per image, including stored copies: labels, split, fold, quality, lesions."""
        return frames.manifest(self._folder)

    def predictions(self) -> "pandas.DataFrame":
        """Return one row per evaluated image and network: truth, probabilities and columns of the manifest."""
        return frames.predictions(self._folder)

    def history(self) -> "pandas.DataFrame":
        """Return one row per epoch and network: losses, figures, learning rate, seconds."""
        return frames.history(self._folder)

    def metrics(self) -> "pandas.DataFrame":
        """Return one row per network, split and measure: the value and its 95 % interval."""
        return frames.metrics(self._folder)

    @property
    def _folder(self) -> Path:
        if self.folder is None:
            raise ConfigError(f"run {self.id} is on AWS; mammopipe status {self.id} fetches its results")
        return self.folder
