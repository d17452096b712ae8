"""Training of one network: all its epochs, with validation (`fit`) or without (`refit`)."""

from collections.abc import Callable

import torch

from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.checkpoint import CheckpointStore
from mammopipe.training.fitting.distributed import ALONE, World, agree
from mammopipe.training.fitting.head_only import Films, learner
from mammopipe.training.fitting.run import Progress, TrainingRun
from mammopipe.training.model.architecture import Precision
from mammopipe.training.networks.network import FilmNetwork


def fit(
    network: FilmNetwork,
    train: Films,
    validation: Films,
    config: TrainConfig,
    *,
    pretrained: bool,
    world: World = ALONE,
    checkpoints: CheckpointStore | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> Progress:
    """Train the network and return the history and the best epoch's weights, which the network has at the end too.

    Where the classifier learns alone, checkpoints and `best` hold nothing else. `check_stop` is called between steps
    and may raise to end the run; the last epoch's checkpoint is whole then. Raises `ConfigError` when the batch cannot
    be shared equally by the processes.
    """
    if config.batch_size % (world.size * config.accumulate):
        times = f" times accumulate={config.accumulate}" if config.accumulate > 1 else ""
        raise ConfigError(
            f"hyperparameter batch_size={config.batch_size} must be a multiple of the job's {world.size} "
            f"processes{times}"
        )
    network.to(world.device).to(memory_format=torch.channels_last)
    learns, (train, validation) = learner(network, config, train, validation)
    run = TrainingRun(learns, train, validation, config, pretrained, world, check_stop)
    progress = run.resume(checkpoints)

    def save() -> None:
        if world.leads and checkpoints is not None:
            checkpoints.save(run.snapshot(progress))

    while not progress.finished(config):
        result, logits, said_by = run.epoch(len(progress.history) + 1, progress.precision, save)
        progress.history.append(result)
        if config.folds:
            progress.logits.append(logits)
        if progress.best_epoch == result.epoch:
            progress.best = {name: value.cpu().clone() for name, value in said_by.items()}
        if world.leads:
            print(result.line(), flush=True)
        save()
        check_stop()
    learns.load_state_dict(progress.best)
    return progress


def refit(
    network: FilmNetwork,
    films: Films,
    config: TrainConfig,
    *,
    epochs: int,
    precision: Precision,
    pretrained: bool,
    world: World = ALONE,
    checkpoints: CheckpointStore | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> list[float]:
    """Train the network on all the films for the first `epochs` of the config's schedule and return their losses.

    There is nothing left to measure it on: how long to train was chosen before. Else as `fit`.
    """
    network.to(world.device).to(memory_format=torch.channels_last)
    learns, (films,) = learner(network, config, films)
    run = TrainingRun(learns, films, films, config, pretrained, world, check_stop)
    saved = agree(checkpoints.load() if checkpoints is not None and world.leads else None, world)
    losses: list[float] = run.load(saved)["losses"] if saved is not None else []

    def save() -> None:
        if world.leads and checkpoints is not None:
            checkpoints.save({"epoch": len(losses), "losses": losses, **run.state()})

    for epoch in range(len(losses) + 1, epochs + 1):
        loss, rate = run.train(epoch, precision, save)
        run.partial = None
        losses.append(loss)
        if world.leads:
            print(f"refit epoch={epoch} train_loss={loss:.4f} learning_rate={rate:.5f}", flush=True)
        save()
        check_stop()
    if run.average is not None:
        learns.load_state_dict(run.average.state)
    return losses
