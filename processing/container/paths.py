"""The folders of a SageMaker container; all other code takes the paths below `/opt/ml` from here.

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
    """The folder tree of the container below `base`, which is `/opt/ml` on SageMaker and any folder elsewhere."""

    base: Path = Path(OPT_ML)

    @classmethod
    def from_environment(cls) -> "ContainerPaths":
        """Return the tree below `$MAMMOPIPE_BASE`, or below `/opt/ml` if it is not set."""
        return cls(Path(os.environ.get(BASE_VARIABLE) or OPT_ML))

    def local(self, container_path: str) -> Path:
        """Return the path in this tree of `container_path`, an absolute path below `/opt/ml`."""
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
        """The file of the training job's hyperparameters, a JSON object of strings."""
        return self.base / "input" / "config" / "hyperparameters.json"

    @property
    def model(self) -> Path:
        """The folder to which training writes its model, and in which serving finds it unpacked."""
        return self.base / "model"

    @property
    def checkpoints(self) -> Path:
        """The folder that SageMaker synchronises with the training job's checkpoint location on S3."""
        return self.base / "checkpoints"

    @property
    def output(self) -> Path:
        """The folder of the file `failure` (training) or `message` (processing) that SageMaker shows as the reason."""
        return self.base / "output"

    def hosts(self) -> tuple[str, list[str]]:
        """Return the name of this host and of all hosts of the job; by default a single host `algo-1`.

        Raises:
            ConfigError: resourceconfig.json names hosts without this one, or names one of them twice.
        """
        config = self.resources()
        hosts = sorted(map(str, config.get("hosts") or ["algo-1"]))
        current = str(config.get("current_host") or (hosts[0] if len(hosts) == 1 else ""))
        if current not in hosts or len(set(hosts)) != len(hosts):
            raise ConfigError(f"resourceconfig.json: current_host={current!r} must be one of hosts={hosts}, each once")
        return current, hosts

    def resources(self) -> dict[str, Any]:
        """Return the content of resourceconfig.json (hosts, instance type, network interface); empty if missing.

        Raises:
            ConfigError: The file holds no JSON object.
        """
        for path in (
            self.base / "config" / "resourceconfig.json",
            self.base / "input" / "config" / "resourceconfig.json",
        ):
            if path.is_file():
                try:
                    found = json.loads(path.read_text(encoding="utf-8"))
                except ValueError as error:
                    raise ConfigError(f"{path}: cannot be read as JSON: {error}") from None
                if not isinstance(found, dict) or not isinstance(found.get("hosts", []), list | None):
                    raise ConfigError(f"{path}: must hold a JSON object, with a list of hosts")
                return found
        return {}
