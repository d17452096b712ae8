"""Cross-validation inside the training job: each development image is predicted by a network not trained on it.

Folds are assigned by patient. Each fold's network trains on the images of the other folds and their copies. Its
predictions of the held-out images are kept after every epoch. One epoch is chosen for all folds: the median of the
folds' best epochs. Choosing it separately for each fold, on the images it is evaluated on, would make the results too
good.

The final network is trained on all development images for that number of epochs, with the same schedule. Alternatively,
it is the mean of the weights of the folds' networks, each trained for all epochs (`mammopipe.training.config.Final`;
Wortsman et al. 2022, "Model soups").

The cross-validation can be repeated; each repetition, a deal, assigns the patients to folds with another seed. An
image's out-of-fold logits are then the mean over the deals. The differences between the deals show how much the metrics
depend on the assignment of patients to folds and on the training.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_low

import numpy as np
import torch
from numpy.typing import NDArray

from mammopipe.processing.datasets.manifest import SplitProtocol
from mammopipe.processing.errors import ManifestError
from mammopipe.processing.splits.assignment import assign_folds
from mammopipe.training.config import Final, TrainConfig
from mammopipe.training.fitting.checkpoint import CheckpointStore
from mammopipe.training.fitting.distributed import World, agree
from mammopipe.training.fitting.head_only import Images, learner
from mammopipe.training.fitting.loop import fit, refit
from mammopipe.training.fitting.out_of_fold import CrossValidated, OneFold, mean_of_deals
from mammopipe.training.fitting.run import TrainingProgress
from mammopipe.training.fitting.step import EpochResult, State, measure
from mammopipe.training.metrics.choice import ChoiceFigure
from mammopipe.training.model.architecture import Precision
from mammopipe.training.networks.network import ImageNetwork

Build = Callable[[], ImageNetwork]
"""Returns the untrained network that every fold starts from."""


@dataclass(frozen=True)
class FoldEnvironment:
    """The environment in which a cross-validation runs."""

    world: World
    checkpoints: Path
    """Folder with one checkpoint for each fold and one for the final network."""
    digest: str
    """Digest of everything that determines the result of the run (`run_digest`)."""
    check_stop: Callable[[], None]
    """Called between steps; it may raise to end the run."""

    def store(self, name: str) -> CheckpointStore:
        """Return the checkpoint store of one part of the run."""
        return CheckpointStore(self.checkpoints / name, f"{self.digest}/{name}")


def train_fold(
    images: Images,
    config: TrainConfig,
    protocol: SplitProtocol,
    build: Build,
    *,
    pretrained: bool,
    where: FoldEnvironment,
) -> tuple[ImageNetwork, OneFold]:
    """Train only the network of the fold `config.fold`, for all epochs; the arguments are those of `cross_validate`.

    No epoch is chosen. The other folds are trained by other jobs, so the epoch could only be chosen on the images that
    this fold is evaluated on, which would make its metrics too good.

    Returns:
        The network, and its predictions of the images that the fold holds out.
    """
    folds = np.array(assign_folds(images.records, config.folds, seed=config.seed, protocol=protocol))
    network = build()
    given = learner(network.to(where.world.device), config, images)[1][0]
    learnt = given.part(np.flatnonzero(folds != config.fold).tolist())
    fold_images = given.part(np.flatnonzero((folds == config.fold) & _judged(images, protocol)).tolist())
    _require_every_class(learnt, f"without fold {config.fold}")
    _require_every_class(fold_images, f"fold {config.fold}")
    progress = fit(
        network,
        learnt,
        fold_images,
        config,
        pretrained=pretrained,
        world=where.world,
        checkpoints=where.store(f"fold-{config.fold}"),
        check_stop=where.check_stop,
    )
    epochs = len(progress.history)
    return network, OneFold(
        progress.precision,
        progress.history,
        logits=[progress.logits[-1]],
        records=fold_images.records,
        folds=[config.fold] * len(fold_images),
        epoch=epochs,
        fold_epochs=[epochs],
        of=config.folds,
    )


def _judged(images: Images, protocol: SplitProtocol) -> NDArray[np.bool_]:
    """Return which images are predicted when they are held out: originals, or all with the protocol `published`."""
    return np.array([protocol is SplitProtocol.PUBLISHED or not record.source_image_id for record in images.records])


def cross_validate(
    images: Images,
    config: TrainConfig,
    protocol: SplitProtocol,
    build: Build,
    *,
    pretrained: bool,
    where: FoldEnvironment,
) -> tuple[ImageNetwork, CrossValidated]:
    """Train the network of each fold and the final network.

    Args:
        images: Development images with their copies. Where only the classifier learns, precomputed feature maps
            (`ImageMaps`) may replace them.
        config: Hyperparameters.
        protocol: Defines which images must be in the same fold.
        build: Returns the untrained network.
        pretrained: Whether the body has pretrained weights.
        where: Environment of the run.

    Returns:
        The final network, and the folds' predictions of the development images.

    Raises:
        ManifestError: A class has no image in a fold, or none outside of it.
    """
    # A body that does not learn is the same for every fold, so its feature maps are computed only once.
    given = learner(build().to(where.world.device), config, images)[1][0]
    states: list[State] = []
    deals: list[CrossValidated] = []
    for number in range(config.deals):
        settings = config.replace(seed=config.seed + number, deals=1)
        done, progress = _one_deal(number, given, settings, protocol, build, pretrained=pretrained, where=where)
        states += [fold.best for fold in done]
        deals.append(progress)
    progress = deals[0] if len(deals) == 1 else mean_of_deals(deals)
    network = build()
    if config.final is Final.MEAN:
        mean = {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}
        learner(network.to(where.world.device), config)[0].load_state_dict(mean)
        return network, progress
    progress.refit_losses = refit(
        network,
        given,
        config,
        epochs=progress.epoch,
        precision=progress.precision,
        pretrained=pretrained,
        world=where.world,
        checkpoints=where.store("refit"),
        check_stop=where.check_stop,
    )
    return network, progress


def _one_deal(
    number: int,
    given: Images,
    config: TrainConfig,
    protocol: SplitProtocol,
    build: Build,
    *,
    pretrained: bool,
    where: FoldEnvironment,
) -> tuple[list[TrainingProgress], CrossValidated]:
    """Assign the patients to folds by the seed of `config`, and train the network of each fold."""
    folds = np.array(assign_folds(given.records, config.folds, seed=config.seed, protocol=protocol))
    judged = _judged(given, protocol)
    held_out = [np.flatnonzero((folds == fold) & judged) for fold in range(config.folds)]
    prefix = f"deal-{number}-" if number else ""
    done: list[TrainingProgress] = []
    for fold, places in enumerate(held_out):
        learnt = given.part(np.flatnonzero(folds != fold).tolist())
        fold_images = given.part(places.tolist())
        _require_every_class(learnt, f"without fold {fold}")
        _require_every_class(fold_images, f"fold {fold}")
        # The fastest number format is measured once: the folds of one candidate must not differ in it.
        settings = config.replace(precision=done[0].precision) if done else config
        store = where.store(f"{prefix}fold-{fold}")
        done.append(_fold(fold, learnt, fold_images, settings, build, store, pretrained=pretrained, where=where))
    return done, _together(given, held_out, done, config)


def _require_every_class(images: Images, what: str) -> None:
    missing = [str(label) for label, count in images.counts().items() if count == 0]
    if missing:
        raise ManifestError(
            f"cross-validation: {what} has no {' and no '.join(missing)} image among its {len(images)}; "
            f"each class needs at least one: use fewer folds or more patients"
        )


def _fold(
    fold: int,
    learnt: Images,
    fold_images: Images,
    config: TrainConfig,
    build: Build,
    store: CheckpointStore,
    *,
    pretrained: bool,
    where: FoldEnvironment,
) -> TrainingProgress:
    """Train one fold's network, or return the result of an earlier start of this job."""
    world = where.world
    saved = agree(store.load() if world.leads else None, world)
    if saved is not None and "fold" in saved:
        return TrainingProgress(
            Precision(saved["precision"]),
            [EpochResult(**item) for item in saved["history"]],
            best=saved["best"],
            logits=[part.numpy() for part in saved["logits"]],
            takes_last=config.takes_last,
        )
    if world.leads:
        print(f"fold={fold} train_images={len(learnt)} held_out_images={len(fold_images)}", flush=True)
    progress = fit(
        build(),
        learnt,
        fold_images,
        config,
        pretrained=pretrained,
        world=world,
        checkpoints=store,
        check_stop=where.check_stop,
    )
    if world.leads:
        # Weights are large and only a mean needs them later.
        store.save(
            {
                "epoch": len(progress.history),
                "fold": fold,
                "precision": str(progress.precision),
                "history": [asdict(result) for result in progress.history],
                "best": progress.best if config.final is Final.MEAN else {},
                "logits": [torch.from_numpy(part) for part in progress.logits],
            }
        )
    return progress


def _together(
    images: Images, held_out: Sequence[NDArray[np.int64]], done: Sequence[TrainingProgress], config: TrainConfig
) -> CrossValidated:
    """Combine the folds into one progress over all held-out images, in the order of the images."""
    order = np.argsort(np.concatenate(held_out))
    part = images.part(np.concatenate(held_out)[order].tolist())
    folds = np.repeat(np.arange(len(held_out)), [len(places) for places in held_out])[order]

    def logits_of(epoch: int) -> NDArray[np.float32]:
        # A fold that stopped early contributes the predictions of its last epoch.
        return np.concatenate([fold.logits[min(epoch, len(fold.logits)) - 1] for fold in done])[order]

    last, choice = max(len(fold.history) for fold in done), config.choice
    history = [_epoch(epoch, logits_of(epoch), part, done, choice) for epoch in range(1, last + 1)]
    best = [fold.best_epoch for fold in done]
    epoch = median_low(best)  # With an even number of folds, the lower of the two middle epochs: a whole number.
    return CrossValidated(
        done[0].precision,
        history,
        logits=[logits_of(epoch)],
        records=part.records,
        folds=folds.tolist(),
        epoch=epoch,
        fold_epochs=best,
        final=config.final,
    )


def _epoch(
    epoch: int, logits: NDArray[np.float32], images: Images, done: Sequence[TrainingProgress], choice: ChoiceFigure
) -> EpochResult:
    found = measure(logits, images, choice)
    at = [fold.history[min(epoch, len(fold.history)) - 1] for fold in done]
    seconds = sum(fold.history[epoch - 1].seconds for fold in done if epoch <= len(fold.history))
    return EpochResult(
        epoch,
        float(np.mean([result.train_loss for result in at])),
        found.loss,
        found.macro_auc,
        found.balanced_accuracy,
        max(result.learning_rate for result in at),
        round(seconds, 3),
        found.choice,
    )
