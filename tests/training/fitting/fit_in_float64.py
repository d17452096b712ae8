"""Under torchrun: train the job's network in float64 and write its figures; the sum over its weights is one of them."""

import json
import sys
from pathlib import Path

import torch

from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.training.fitting.distributed import joined
from mammopipe.training.fitting.loop import fit
from mammopipe.training.networks.registry import build_model
from mammopipe.training.train import read_inputs


def main(target: Path) -> None:
    torch.set_num_threads(1)
    inputs = read_inputs(ContainerPaths.from_environment())
    with joined() as world:
        network = build_model(
            inputs.config.cnn, classes=3, dropout=inputs.config.dropout, pooling=inputs.config.pooling
        ).double()
        progress = fit(network, inputs.train, inputs.validation, inputs.config, pretrained=False, world=world)
        figures = [figure for item in progress.history for figure in (item.train_loss, item.validation_loss)]
        figures.append(sum(float(value.abs().sum()) for value in network.state_dict().values()))
        if world.leads:
            target.write_text(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
