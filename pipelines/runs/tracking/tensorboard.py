"""A run's learning curves as event files of TensorBoard: `tensorboard --logdir runs/ID/tensorboard`."""

from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.processing.errors import ConfigError

FOLDER = "tensorboard"
PACKAGE = "tensorboardX"


def require() -> None:
    """Raise `ConfigError` if the package that writes event files is not installed."""
    if find_spec(PACKAGE) is None:
        raise ConfigError(f"keep = tensorboard needs {PACKAGE}; pip install 'mammopipe[tracking]'")


def write_events(folder: Path) -> None:
    """Write `tensorboard/NETWORK/` into a run's folder, from the epochs in its `evaluation.json`.

    Args:
        folder: The run's folder.

    Raises:
        ConfigError: tensorboardX is not installed, or the run has no evaluation.
    """
    require()
    from tensorboardX import SummaryWriter

    run = RunFolder(folder.parent, folder.name)
    started = datetime.fromisoformat(run.execution()["started"]).timestamp()
    for network, candidate in run.document("evaluation.json")["candidates"].items():
        moment = started
        with SummaryWriter(str(folder / FOLDER / network)) as writer:
            for epoch in candidate["history"]:
                moment += epoch["seconds"]
                for name, value in epoch.items():
                    if name != "epoch" and isinstance(value, int | float):
                        writer.add_scalar(name, value, int(epoch["epoch"]), walltime=moment)
