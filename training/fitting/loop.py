"""The epochs: train, measure on validation, keep the best, leave a checkpoint.

Everything random derives from (seed, epoch, position), so a run that was killed and resumed ends as one that was not.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import Final, TrainConfig
from mammopipe.training.fitting.checkpoint import CheckpointStore
from mammopipe.training.fitting.dataset import TrainingFilms
from mammopipe.training.fitting.distributed import ALONE, World, agree, gather_rows
from mammopipe.training.fitting.head_only import FilmMaps, Films, Learner, learner
from mammopipe.training.fitting.lesion_loss import LocatedFilms, WithPlaces, grid_of, location_loss, require_circles
from mammopipe.training.fitting.optimiser import Schedule, hasten_statistics, make_optimiser, set_phase
from mammopipe.training.fitting.sampling import EpochBatches, derived_seed, epoch_order, loss_weights
from mammopipe.training.metrics.classification import balanced_accuracy, macro_auc
from mammopipe.training.model.architecture import Precision
from mammopipe.training.networks.layers import share_batch_statistics
from mammopipe.training.networks.network import FilmNetwork
from mammopipe.training.networks.precision import autocast, choose_precision

State = dict[str, Tensor]


@dataclass(frozen=True)
class EpochResult:
    """What one epoch did; `line` is what SageMaker's metric definitions read."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_macro_auc: float
    validation_balanced_accuracy: float
    learning_rate: float
    seconds: float

    def line(self) -> str:
        """Return the epoch as one line of `name=value` pairs."""
        return (
            f"epoch={self.epoch} train_loss={self.train_loss:.4f} validation_loss={self.validation_loss:.4f} "
            f"validation_macro_auc={self.validation_macro_auc:.4f} "
            f"validation_balanced_accuracy={self.validation_balanced_accuracy:.4f} "
            f"learning_rate={self.learning_rate:.5f} seconds={self.seconds:.1f}"
        )

    @property
    def rank(self) -> tuple[float, float]:
        """What makes an epoch the best: validation macro AUC, then, between equals, the loss."""
        return self.validation_macro_auc, -self.validation_loss


@dataclass
class Progress:
    """How far a run is; what a checkpoint holds beside the network and the optimiser."""

    precision: Precision
    history: list[EpochResult] = field(default_factory=list)
    best: State = field(default_factory=dict)
    logits: list[NDArray[np.float32]] = field(default_factory=list)
    """Of each epoch, (films, classes) on validation; kept for cross-validation alone."""
    takes_last: bool = False
    """Whether the last epoch counts as the best whatever its figures: then nothing is chosen by them."""

    @property
    def best_epoch(self) -> int:
        """The epoch with the best validation figures, or the last one; 0 before the first."""
        if self.takes_last:
            return len(self.history)
        return max(self.history, key=lambda result: result.rank).epoch if self.history else 0

    def finished(self, config: TrainConfig) -> bool:
        """Whether all epochs are done, or `patience` of them brought nothing better."""
        return len(self.history) >= config.epochs or len(self.history) - self.best_epoch >= config.patience

    def described(self) -> dict[str, Any]:
        """Return what `training` of `model.json` says beyond the epochs."""
        return {}


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
    if config.batch_size % world.size:
        raise ConfigError(
            f"hyperparameter batch_size={config.batch_size} must be a multiple of the job's {world.size} processes"
        )
    network.to(world.device).to(memory_format=torch.channels_last)
    learns, (train, validation) = learner(network, config, train, validation)
    run = _Run(learns, train, validation, config, pretrained, world, check_stop)
    progress = run.resume(checkpoints)
    while not progress.finished(config):
        result, logits = run.epoch(len(progress.history) + 1, progress.precision)
        progress.history.append(result)
        if config.folds:
            progress.logits.append(logits)
        if progress.best_epoch == result.epoch:
            progress.best = {name: value.cpu().clone() for name, value in learns.state_dict().items()}
        if world.leads:
            print(result.line(), flush=True)
            if checkpoints is not None:
                checkpoints.save(run.snapshot(progress))
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
    run = _Run(learns, films, films, config, pretrained, world, check_stop)
    saved = agree(checkpoints.load() if checkpoints is not None and world.leads else None, world)
    losses = run.load(saved)["losses"] if saved is not None else []
    for epoch in range(len(losses) + 1, epochs + 1):
        loss, rate = run.train(epoch, precision)
        losses.append(loss)
        if world.leads:
            print(f"refit epoch={epoch} train_loss={loss:.4f} learning_rate={rate:.5f}", flush=True)
            if checkpoints is not None:
                checkpoints.save({"epoch": epoch, "losses": losses, **run.state()})
        check_stop()
    return losses


class _Run:
    """What stays the same over the epochs of one run."""

    def __init__(
        self,
        network: Learner,
        train: Films,
        validation: Films,
        config: TrainConfig,
        pretrained: bool,
        world: World,
        check_stop: Callable[[], None],
    ) -> None:
        self.network, self.films, self.validation, self.config, self.world = network, train, validation, config, world
        self.check_stop = check_stop
        share_batch_statistics(network, world.device)
        self.grid: tuple[int, int] | None = None
        if config.location_weight:
            require_circles(train, f"location_weight={config.location_weight}")
            if isinstance(train, FilmMaps):
                self.grid = train.grid
            elif isinstance(network, FilmNetwork):
                self.grid = grid_of(network, train.shape)
        self.optimiser = make_optimiser(network, config)
        self.scaler = torch.amp.GradScaler("cuda", enabled=world.device.type == "cuda")
        steps = -(-len(train) // config.batch_size)
        self.schedule = Schedule(config, steps, pretrained)
        classes = len(train.counts())
        self.loss_weights = loss_weights(train.labels, config.sampling, classes).to(world.device)

    def resume(self, checkpoints: CheckpointStore | None) -> Progress:
        """Return the progress of this run's checkpoint, loaded into network and optimiser, or that of a fresh start."""
        saved = agree(checkpoints.load() if checkpoints is not None and self.world.leads else None, self.world)
        if saved is None:
            chosen = Precision.FLOAT32
            if isinstance(self.network, FilmNetwork):
                chosen = choose_precision(
                    self.config.precision, self.network, shape=self.films.shape, device=self.world.device
                )
            return Progress(agree(chosen, self.world), takes_last=self.config.final is Final.MEAN)
        if self.world.leads:
            print(f"resumed from epoch {saved['epoch']}", flush=True)
        return self._restore(saved)

    def _restore(self, saved: Mapping[str, Any]) -> Progress:
        progress = Progress(
            Precision(saved["precision"]),
            [EpochResult(**item) for item in saved["history"]],
            saved["best"] or saved["network"],
            [part.numpy() for part in saved["logits"]],
            self.config.final is Final.MEAN,
        )
        if saved["network"] is None:
            self.network.load_state_dict(progress.best)
        else:
            self.load(saved)
        return progress

    def load(self, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take network, optimiser and scaler from a checkpoint, and return it."""
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.scaler.load_state_dict(saved["scaler"])
        return saved

    def state(self) -> dict[str, Any]:
        """Return network, optimiser and scaler as `load` takes them."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def snapshot(self, progress: Progress) -> dict[str, Any]:
        """Return all that `resume` needs, as tensors and plain values, nothing twice."""
        done = progress.finished(self.config)
        is_best = progress.best_epoch == len(progress.history)
        return {
            "epoch": len(progress.history),
            "history": [asdict(result) for result in progress.history],
            "precision": str(progress.precision),
            "logits": [torch.from_numpy(part) for part in progress.logits],
            "best": None if is_best and not done else progress.best,
            **({"network": None} if done else self.state()),
        }

    def epoch(self, epoch: int, precision: Precision) -> tuple[EpochResult, NDArray[np.float32]]:
        """Train one epoch, measure the network on validation, and return what it said there, (films, classes), too."""
        start = time.perf_counter()
        train_loss, rate = self.train(epoch, precision)
        logits = predict(
            self.network,
            self.validation,
            batch_size=self.config.batch_size,
            precision=precision,
            world=self.world,
            check_stop=self.check_stop,
        )
        loss, auc, accuracy = measure(logits, self.validation.labels)
        result = EpochResult(epoch, train_loss, loss, auc, accuracy, rate, round(time.perf_counter() - start, 3))
        return result, logits

    def train(self, epoch: int, precision: Precision) -> tuple[float, float]:
        """Return the mean loss over the epoch and the last learning rate."""
        trains_body = self.schedule.trains_body(epoch)
        set_phase(self.network, trains_body=trains_body)
        # Only dropout draws from torch's own generator; the key makes epochs independent of what ran before.
        torch.manual_seed(derived_seed(self.config.seed, epoch))
        model = self._parallel()
        total, rate = torch.zeros((), device=self.world.device), 0.0
        loader = self._loader(epoch)
        bar = tqdm(loader, desc=f"epoch {epoch}", disable=self._bar, leave=False)
        for step, (images, labels, _, *wanted) in enumerate(bar):
            rate = self.schedule.apply(self.optimiser, epoch, step)
            if not self.schedule.pretrained:
                hasten_statistics(self.network, (epoch - 1) * len(loader) + step)
            total += train_step(
                model,
                images,
                labels,
                optimiser=self.optimiser,
                scaler=self.scaler,
                weights=self.loss_weights,
                smoothing=self.config.label_smoothing,
                precision=precision,
                wanted=wanted,
                location_weight=self.config.location_weight,
            )
            self.check_stop()
        mean = float(gather_rows(total.cpu().numpy()[None], self.world).mean()) / len(loader)
        if not np.isfinite(mean):
            raise ConfigError(
                f"epoch {epoch}: the training loss is {mean}; lower learning_rate="
                f"{self.config.learning_rate} or head_learning_rate={self.config.head_learning_rate}"
            )
        return mean, rate

    @property
    def _bar(self) -> bool | None:
        """What tqdm's `disable` wants: `None` is a bar on a terminal only."""
        return None if self.world.leads else True

    def _parallel(self) -> nn.Module:
        network = WithPlaces(self.network) if self.config.location_weight else self.network
        if self.world.size == 1:
            return network
        # Made anew each epoch, for it fixes at that moment which parameters train.
        ids = [self.world.device] if self.world.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids)

    def _loader(self, epoch: int) -> DataLoader[Any]:
        config, world = self.config, self.world
        order = epoch_order(
            self.films.labels, config.sampling, seed=config.seed, epoch=epoch, batch_size=config.batch_size
        )
        batches = EpochBatches(order, epoch=epoch, batch_size=config.batch_size, rank=world.rank, world_size=world.size)
        films: Dataset[Any] = self.films if isinstance(self.films, FilmMaps) else TrainingFilms(self.films, config)
        if self.grid is not None:
            films = LocatedFilms(films, self.films.records, shape=self.films.shape, grid=self.grid)
        return DataLoader(
            films, batch_sampler=batches, num_workers=config.workers, pin_memory=world.device.type == "cuda"
        )


def train_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    optimiser: AdamW,
    scaler: torch.amp.GradScaler,
    weights: Tensor,
    smoothing: float,
    precision: Precision,
    wanted: Sequence[Tensor] = (),
    location_weight: float = 0.0,
) -> Tensor:
    """Make one step on a batch, (N, 1, H, W) and (N,), and return its loss, detached.

    Where the location of lesions counts `wanted` holds the targets of the places, (N, h, w), and `model` is
    `WithPlaces`.
    """
    device = weights.device
    images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
    labels = labels.to(device, non_blocking=True)
    with autocast(precision, device):
        answered = model(images)
    logits, places = answered if wanted else (answered, None)
    losses = functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)
    loss = (losses * weights[labels]).mean()
    if places is not None:
        loss = loss + location_weight * location_loss(places, wanted[0].to(device, non_blocking=True))
    optimiser.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    scaler.step(optimiser)
    scaler.update()
    return loss.detach()


def predict(
    network: Learner,
    films: Films,
    *,
    batch_size: int,
    precision: Precision,
    world: World = ALONE,
    check_stop: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Return the (N, classes) logits of all films, computed by all processes; the films are used as they are.

    A `HeadAlone` takes their maps, `FilmMaps`.
    """
    network.eval()
    part = Subset(films, list(range(world.rank, len(films), world.size)))
    rows = [np.empty((0, len(films.counts())), np.float32)]
    with torch.inference_mode(), autocast(precision, world.device):
        for images, _, _ in DataLoader(part, batch_size):
            images = images.to(world.device, memory_format=torch.channels_last)
            rows.append(network(images).float().cpu().numpy())
            check_stop()
    return gather_rows(np.concatenate(rows), world)


def measure(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, float, float]:
    """Return the cross-entropy, the macro AUC and the balanced accuracy of (N, classes) logits."""
    exact = torch.from_numpy(logits).double()
    loss = float(functional.cross_entropy(exact, torch.from_numpy(labels)))
    probabilities = torch.softmax(exact, dim=1).numpy()
    return loss, macro_auc(labels, probabilities), balanced_accuracy(labels, probabilities)
