"""Trains a job's network in float64, under torchrun or alone, and writes its figures.

Run `fit_in_float64.py TARGET [STOP [HOST]]`. With STOP, the run stops at its STOP-th check for a stop request. It
leaves its checkpoint in the job's folder, and the next run resumes from it. With HOST, only the processes of that host
end. One figure is the sum over the weights. Under torchrun, `shared` states whether the processes map the same file of
decoded images.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.training.fitting.checkpoint import CheckpointStore, StopRequest
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.fitting.distributed import World, joined
from mammopipe.training.fitting.loop import fit
from mammopipe.training.train import read_inputs
from mammopipe.training.trial import build_network


class StopAfter(StopRequest):
    """Requests a stop at the run's `checks`-th check; never with 0."""

    def __init__(self, checks: int, lost_host: str = "") -> None:
        super().__init__()
        self.left, self.lost_host = checks, lost_host

    def check(self) -> None:
        self.left -= 1
        if self.left == 0 and self.lost_host:
            if os.environ["GROUP_RANK"] == self.lost_host:
                os._exit(9)
            return
        self.received = self.left == 0
        super().check()


def figures(paths: ContainerPaths, world: World, *, stop: int = 0, lost_host: str = "") -> dict[str, object] | None:
    """Return the figures of the job's run; `None` if it was stopped. Processes of a lost host end without a message."""
    torch.set_num_threads(1)
    inputs = read_inputs(paths, world)
    config = inputs.config
    network = build_network(inputs.config, inputs.classes, inputs.weights).double()
    try:
        progress = fit(
            network, *inputs.cases(), config, pretrained=False, world=world,
            checkpoints=CheckpointStore(paths.checkpoints, "digest"), check_stop=StopAfter(stop, lost_host).check,
        )  # fmt: skip
    except SystemExit:
        return None
    found = [
        figure
        for item in progress.history
        for figure in (
            item.train_loss, item.validation_loss, item.validation_macro_auc, item.validation_balanced_accuracy,
        )
    ]  # fmt: skip
    found.append(sum(float(value.abs().sum()) for value in network.state_dict().values()))
    return {"figures": found, "shared": _shared(inputs.train, world)}


def _shared(images: ImageDataset, world: World) -> bool:
    """Return whether all processes map the same file of pixels into their memory."""
    pixels = images.caches[0].pixels  # type: ignore[attr-defined]
    if world.size == 1 or not isinstance(pixels, np.memmap):
        return False
    address = pixels.__array_interface__["data"][0]
    inodes: list[object] = [None] * world.size
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, device, inode, *_ = line.split()
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= address < last:
            torch.distributed.all_gather_object(inodes, (device, inode))
    return inodes[0] is not None and len(set(inodes)) == 1


def main(target: Path, stop: int, lost_host: str) -> None:
    """Write the figures, from the first process."""
    with joined() as world:
        found = figures(ContainerPaths.from_environment(), world, stop=stop, lost_host=lost_host)
        if world.leads:
            target.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0, sys.argv[3] if len(sys.argv) > 3 else "")
