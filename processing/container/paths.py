"""Where a SageMaker container finds and leaves its files: the only file that spells `/opt/ml`.

Sources: "How Amazon SageMaker Processing Runs Your Processing Container Image", "How Amazon SageMaker AI
Provides Training Information" and "How Amazon SageMaker AI Loads Your Model Artifacts" (SageMaker Developer Guide).
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mammopipe.processing.errors import ConfigError

OPT_ML = PurePosixPath("/opt/ml")
BASE_VARIABLE = "MAMMOPIPE_BASE"


@dataclass(frozen=True)
class ContainerPaths:
    """The container's folder tree below `base`, which is `/opt/ml` on SageMaker and any folder elsewhere."""

    base: Path = Path(OPT_ML)

    @classmethod
    def from_environment(cls) -> "ContainerPaths":
        """Return the tree below `$MAMMOPIPE_BASE`, or below `/opt/ml` when that is not set."""
        return cls(Path(os.environ.get(BASE_VARIABLE) or OPT_ML))

    def local(self, container_path: str) -> Path:
        """Return where `container_path` (an absolute path below `/opt/ml`) lies in this tree."""
        try:
            return self.base / PurePosixPath(container_path).relative_to(OPT_ML)
        except ValueError:
            raise ConfigError(f"container path {container_path!r} is not below {OPT_ML}") from None

    def processing_input(self, name: str) -> Path:
        """Return the folder of one processing input."""
        return self.base / "processing" / "input" / name

    def processing_output(self, name: str) -> Path:
        """Return the folder of one processing output."""
        return self.base / "processing" / "output" / name

    def channel(self, name: str) -> Path:
        """Return the folder of one training channel."""
        return self.base / "input" / "data" / name

    @property
    def hyperparameters(self) -> Path:
        """The training job's hyperparameters, a JSON object of strings."""
        return self.base / "input" / "config" / "hyperparameters.json"

    @property
    def model(self) -> Path:
        """Where training leaves its model and where serving finds it, unpacked."""
        return self.base / "model"

    @property
    def checkpoints(self) -> Path:
        """The folder that SageMaker keeps in step with the training job's checkpoint location on S3."""
        return self.base / "checkpoints"

    @property
    def output(self) -> Path:
        """The folder whose `failure` (training) or `message` (processing) SageMaker shows as the reason."""
        return self.base / "output"

    def hosts(self) -> tuple[str, list[str]]:
        """Return this host's name and the names of all hosts of the job; one `algo-1` where nothing says otherwise."""
        config = self.resources()
        return str(config.get("current_host", "algo-1")), sorted(map(str, config.get("hosts", ["algo-1"])))

    def resources(self) -> dict[str, Any]:
        """Return the content of resourceconfig.json: hosts, instance type, network interface; empty without one."""
        for path in (
            self.base / "config" / "resourceconfig.json",
            self.base / "input" / "config" / "resourceconfig.json",
        ):
            if path.is_file():
                return dict(json.loads(path.read_text(encoding="utf-8")))
        return {}
