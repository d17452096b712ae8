"""Trains one network over all epochs, with validation (`fit`) or without (`refit`)."""

from collections.abc import Callable

import torch

from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.checkpoint import CheckpointStore
from mammopipe.training.fitting.distributed import ALONE, World, agree
from mammopipe.training.fitting.head_only import ImagesOrBreasts, learner
from mammopipe.training.fitting.run import TrainingProgress, TrainingRun
from mammopipe.training.model.architecture import Precision
from mammopipe.training.networks.network import ImageNetwork


def fit(
    network: ImageNetwork,
    train: ImagesOrBreasts,
    validation: ImagesOrBreasts,
    config: TrainConfig,
    *,
    pretrained: bool,
    world: World = ALONE,
    checkpoints: CheckpointStore | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> TrainingProgress:
    """Train the network and load the weights of its best epoch.

    If only the classifier learns, checkpoints and `best` hold only the classifier.

    Args:
        network: The network.
        train: Training images.
        validation: Validation images.
        config: Hyperparameters.
        pretrained: Whether the body has pretrained weights.
        world: The processes of the job.
        checkpoints: Where to write checkpoints and to resume from; `None` writes none.
        check_stop: Called between steps. It may raise `SystemExit` to end the run; a checkpoint is written first.

    Returns:
        The history and the weights of the best epoch.

    Raises:
        ConfigError: The processes cannot share the batch equally.
    """
    if config.batch_size % (world.size * config.accumulate * config.images_together):
        times = f" times accumulate={config.accumulate}" if config.accumulate > 1 else ""
        pairs = ", and with mixup twice that" if config.mixup else ""
        raise ConfigError(
            f"hyperparameter batch_size={config.batch_size} must be a multiple of the job's {world.size} "
            f"processes{times}{pairs}"
        )
    network.to(world.device).to(memory_format=torch.channels_last)
    learns, (train, validation) = learner(network, config, train, validation)
    run = TrainingRun(learns, train, validation, config, pretrained, world, check_stop)
    progress = run.resume(checkpoints)

    def save() -> None:
        if world.leads and checkpoints is not None:
            checkpoints.save(run.snapshot(progress))

    while not progress.finished(config):
        result, logits, measured = run.epoch(len(progress.history) + 1, progress.precision, save)
        progress.history.append(result)
        if config.folds:
            progress.logits.append(logits)
        if progress.best_epoch == result.epoch:
            progress.best = {name: value.cpu().clone() for name, value in measured.items()}  # Steps write in place.
        if world.leads:
            print(result.line(), flush=True)
        save()
        check_stop()
    learns.load_state_dict(progress.best)
    return progress


def refit(
    network: ImageNetwork,
    images: ImagesOrBreasts,
    config: TrainConfig,
    *,
    epochs: int,
    precision: Precision,
    pretrained: bool,
    world: World = ALONE,
    checkpoints: CheckpointStore | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> list[float]:
    """Train the network on all images for the first `epochs` of the config's schedule.

    There is no validation: cross-validation has already chosen the number of epochs. Other arguments are as for `fit`.

    Args:
        network: The network.
        images: All development images.
        config: Hyperparameters.
        epochs: Number of epochs to train.
        precision: Number format of the forward pass.
        pretrained: Whether the body has pretrained weights.
        world: The processes of the job.
        checkpoints: Where to write checkpoints and to resume from; `None` writes none.
        check_stop: Called between steps. It may raise `SystemExit` to end the run; a checkpoint is written first.

    Returns:
        The training loss of each epoch.
    """
    network.to(world.device).to(memory_format=torch.channels_last)
    learns, (images,) = learner(network, config, images)
    run = TrainingRun(learns, images, images, config, pretrained, world, check_stop)
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
