"""Runs the epochs of a training: trains, measures on validation, and resumes from a checkpoint, even within an epoch.

All random numbers derive from (seed, epoch, position), so a resumed run has the same result as an uninterrupted one.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.auxiliary.heads import WithAuxiliary, auxiliary_heads
from mammopipe.training.fitting.breasts.dataset import Breasts, TrainingBreasts, collate
from mammopipe.training.fitting.checkpoint import CheckpointStore
from mammopipe.training.fitting.dataset import TrainingImages
from mammopipe.training.fitting.distributed import World, agree
from mammopipe.training.fitting.head_only import ImageMaps, ImagesOrBreasts, Learner
from mammopipe.training.fitting.lesion_loss import LocatedImages, WithPlaces, grid_of, require_circles
from mammopipe.training.fitting.optimiser import Schedule, hasten_statistics, make_optimiser, set_phase
from mammopipe.training.fitting.sampling import EpochBatches, derived_seed, epoch_order, loss_weights
from mammopipe.training.fitting.step import EpochResult, State, StepLoss, WeightAverage, measure, predict, train_step
from mammopipe.training.fitting.variation.mixup import draw_shares
from mammopipe.training.fitting.variation.on_device import UnvariedImages, varied_here
from mammopipe.training.model.architecture import Precision
from mammopipe.training.networks.layers import share_batch_statistics
from mammopipe.training.networks.network import ImageNetwork
from mammopipe.training.networks.precision import choose_precision
from mammopipe.training.variation import AugmentOn


@dataclass
class TrainingProgress:
    """The progress of a run; a checkpoint holds it together with the network and the optimiser."""

    precision: Precision
    history: list[EpochResult] = field(default_factory=list)
    best: State = field(default_factory=dict)
    logits: list[NDArray[np.float32]] = field(default_factory=list)
    """Validation logits of each epoch, (images, classes); kept only for cross-validation."""
    takes_last: bool = False
    """Whether the last epoch counts as the best, so that validation metrics choose nothing."""

    @property
    def best_epoch(self) -> int:
        """The epoch with the best validation metrics, or the last one with `takes_last`; 0 before the first."""
        if self.takes_last:
            return len(self.history)
        return max(self.history, key=lambda result: result.rank).epoch if self.history else 0

    def finished(self, config: TrainConfig) -> bool:
        """Whether all epochs are done, or there was no improvement for `patience` epochs."""
        return len(self.history) >= config.epochs or len(self.history) - self.best_epoch >= config.patience

    def described(self) -> dict[str, Any]:
        """Return further JSON values for `training` of `model.json`."""
        return {}


class TrainingRun:
    """The state of one run that persists over its epochs."""

    def __init__(
        self,
        network: Learner,
        train: ImagesOrBreasts,
        validation: ImagesOrBreasts,
        config: TrainConfig,
        pretrained: bool,
        world: World,
        check_stop: Callable[[], None],
    ) -> None:
        self.network, self.images, self.validation, self.config, self.world = network, train, validation, config, world
        self.check_stop = check_stop
        share_batch_statistics(network, world.device)
        self.grid: tuple[int, int] | None = None
        if config.location_weight:
            require_circles(train, f"location_weight={config.location_weight}")
            if isinstance(train, ImageMaps):
                self.grid = train.grid
            elif isinstance(network, ImageNetwork):
                self.grid = grid_of(network, train.shape)
        self.optimiser = make_optimiser(network, config)
        self.heads = auxiliary_heads(network, train, config, self.optimiser)
        self.scaler = torch.amp.GradScaler("cuda", enabled=world.device.type == "cuda")
        self.average = WeightAverage(network, config.average_decay) if config.average_decay else None
        self.schedule = Schedule(config, -(-len(train) // config.batch_size), pretrained)
        self.loss = StepLoss(
            loss_weights(train.labels, config.sampling, len(train.counts())).to(world.device),
            config.label_smoothing,
            config.positive_target,
            config.location_weight,
            None if self.heads is None else self.heads.targets,
        )
        self.batches = EpochBatches(batch_size=config.batch_size, rank=world.rank, world_size=world.size)
        self.loader = self._loader()
        self.partial: dict[str, Any] | None = None
        """Progress within an epoch when the checkpoint was written; the run resumes from it."""

    def resume(self, checkpoints: CheckpointStore | None) -> TrainingProgress:
        """Load this run's checkpoint into network and optimiser, if there is one, and return its progress."""
        saved = agree(checkpoints.load() if checkpoints is not None and self.world.leads else None, self.world)
        if saved is None:
            chosen = Precision.FLOAT32
            if isinstance(self.network, ImageNetwork):
                chosen = choose_precision(
                    self.config.precision, self.network, shape=self.images.shape, device=self.world.device
                )
            return TrainingProgress(agree(chosen, self.world), takes_last=self.config.takes_last)
        if self.world.leads:
            partial = saved.get("partial")
            print(
                f"resumed from epoch {saved['epoch']}"
                + (f" and step {partial['step']} of the next" if partial else ""),
                flush=True,
            )
        return self._restore(saved)

    def _restore(self, saved: Mapping[str, Any]) -> TrainingProgress:
        progress = TrainingProgress(
            Precision(saved["precision"]),
            [EpochResult(**item) for item in saved["history"]],
            saved["best"] or saved["network"],
            [part.numpy() for part in saved["logits"]],
            self.config.takes_last,
        )
        if saved["network"] is None:
            self.network.load_state_dict(progress.best)
        else:
            self.load(saved)
        return progress

    def load(self, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """Load network, optimiser, scaler and average from a checkpoint, and return the checkpoint."""
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.average is not None:
            self.average.updates = saved["average"]["updates"]
            self.average.state = {
                name: value.to(self.world.device) for name, value in saved["average"]["state"].items()
            }
        if self.heads is not None:
            self.heads.load_state_dict(saved["auxiliary"])
        self.partial = saved.get("partial")
        return saved

    def state(self) -> dict[str, Any]:
        """Return the state of network, optimiser, scaler and average, for `load`."""
        average = self.average
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if average is None else {"updates": average.updates, "state": average.state},
            "auxiliary": None if self.heads is None else self.heads.state_dict(),
            "partial": self.partial,
        }

    def snapshot(self, progress: TrainingProgress) -> dict[str, Any]:
        """Return everything that `resume` needs, as tensors and plain values, without duplicates."""
        done = progress.finished(self.config)
        # AlexNet's weights have 230 MB: where they are also those of the best epoch, the file holds them once.
        is_best = progress.best_epoch == len(progress.history) and self.average is None and self.partial is None
        return {
            "epoch": len(progress.history),
            "history": [asdict(result) for result in progress.history],
            "precision": str(progress.precision),
            "logits": [torch.from_numpy(part) for part in progress.logits],
            "best": None if is_best and not done else progress.best,
            **({"network": None} if done else self.state()),
        }

    def epoch(
        self, epoch: int, precision: Precision, save: Callable[[], None]
    ) -> tuple[EpochResult, NDArray[np.float32], State]:
        """Train one epoch and measure the network on validation, in float32 as the evaluation does.

        Args:
            epoch: Number of the epoch, from 1.
            precision: Number format of the forward pass in training.
            save: Writes a checkpoint; called within the epoch.

        Returns:
            The epoch's metrics, the validation logits, (images, classes), and the weights that these logits are of.
        """
        start = time.perf_counter()
        train_loss, rate = self.train(epoch, precision, save)
        try:
            with self.average.applied(self.network) if self.average is not None else nullcontext():
                logits = predict(
                    self.network,
                    self.validation,
                    batch_size=self.config.batch_size,
                    flips=self.config.test_flips,
                    world=self.world,
                    workers=self.config.workers,
                    check_stop=self.check_stop,
                )
        except SystemExit:
            save()
            raise
        self.partial = None
        measured = self.average.state if self.average is not None else self.network.state_dict()
        found, seconds = measure(logits, self.validation, self.config.choice), round(time.perf_counter() - start, 3)
        figures = found.loss, found.macro_auc, found.balanced_accuracy, rate, seconds, found.choice
        return EpochResult(epoch, train_loss, *figures), logits, measured

    def train(self, epoch: int, precision: Precision, save: Callable[[], None]) -> tuple[float, float]:
        """Train one epoch, or the rest of a resumed one; return the epoch's mean loss and the last learning rate."""
        config = self.config
        set_phase(self.network, trains_body=self.schedule.trains_body(epoch))
        model = self._parallel()
        total, rate, first = self._begin(epoch)
        steps = self._start_loader(epoch, first)
        saved_at = time.monotonic()
        hidden = None if self.world.leads else True  # None: tqdm shows the bar only on a terminal.
        bar = tqdm(self.loader, desc=f"epoch {epoch}", disable=hidden, leave=False, total=steps, initial=first)
        for step, (images, labels, names, *wanted) in enumerate(bar, first):
            wanted += [self.heads.targets.of(names)] if self.heads is not None else []
            rate = self.schedule.apply(self.optimiser, epoch, step)
            if not self.schedule.pretrained:
                hasten_statistics(self.network, (epoch - 1) * steps + step)
            images = varied_here(images, config, self.world.device)
            shares = draw_shares(config, epoch=epoch, positions=self.batches.positions(step))
            loss = train_step(
                model,
                images,
                labels,
                loss=self.loss,
                optimiser=self.optimiser,
                scaler=self.scaler,
                precision=precision,
                wanted=wanted,
                accumulate=config.accumulate,
                clip_norm=config.clip_norm,
                shares=shares,
            )
            total += self._over_processes(loss)
            if self.average is not None:
                self.average.update(self.network)
            self._mark(epoch, step + 1, total, rate)
            self._stop_or_go_on(save)
            if time.monotonic() - saved_at > 60 * config.checkpoint_minutes:
                save()
                saved_at = time.monotonic()
        mean = float(total) / steps
        if not np.isfinite(mean):
            raise ConfigError(
                f"epoch {epoch}: the training loss is {mean}; lower learning_rate={config.learning_rate} or "
                f"head_learning_rate={config.head_learning_rate}"
            )
        return mean, rate

    def _begin(self, epoch: int) -> tuple[Tensor, float, int]:
        """Return the summed loss, the last rate and the first step of an epoch, and set torch's random generator.

        Only dropout uses that generator. It is seeded for each epoch, so an epoch does not depend on what ran before.
        """
        partial = self.partial
        if partial is None or partial["epoch"] != epoch:
            torch.manual_seed(derived_seed(self.config.seed, epoch))
            # An earlier version drew this number in the loader. Results of earlier runs depend on it.
            torch.empty((), dtype=torch.int64).random_()
            return torch.zeros((), device=self.world.device), 0.0, 0
        torch.set_rng_state(partial["rng"])
        if self.world.device.type == "cuda":
            torch.cuda.set_rng_state(partial["device_rng"], self.world.device)
        return partial["total"].to(self.world.device).clone(), partial["rate"], partial["step"]

    def _mark(self, epoch: int, step: int, total: Tensor, rate: float) -> None:
        """Record the progress within the epoch for the next checkpoint."""
        on_gpu = self.world.device.type == "cuda"
        self.partial = {
            "epoch": epoch,
            "step": step,
            "total": total,
            "rate": rate,
            "rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state(self.world.device) if on_gpu else None,
        }

    def _stop_or_go_on(self, save: Callable[[], None]) -> None:
        try:
            self.check_stop()
        except SystemExit:
            save()
            raise

    def _over_processes(self, loss: Tensor) -> Tensor:
        """Return the mean loss of a step over all processes."""
        if self.world.size > 1:
            torch.distributed.all_reduce(loss)
            loss = loss / self.world.size
        return loss

    def _parallel(self) -> nn.Module:
        model: nn.Module = WithPlaces(self.network) if self.config.location_weight else self.network
        if self.heads is not None:
            model = WithAuxiliary(model, self.heads)
        if self.world.size > 1:
            # Created anew for each epoch, because it fixes at creation which parameters train.
            ids = [self.world.device] if self.world.device.type == "cuda" else None
            model = DistributedDataParallel(model, device_ids=ids)
        if self.config.compile:
            model.compile()
        return model

    def _start_loader(self, epoch: int, first: int) -> int:
        """Set the loader to an epoch, starting at step `first`, and return the epoch's number of steps."""
        order = epoch_order(
            self.images.labels,
            self.config.sampling,
            seed=self.config.seed,
            epoch=epoch,
            batch_size=self.config.batch_size,
            positive_share=self.config.positive_share,
        )
        self.batches.start(order, epoch=epoch, first=first)
        return len(order) // self.config.batch_size

    def _loader(self) -> DataLoader[Any]:
        """Return the loader for all epochs; its workers live as long as the run."""
        config = self.config
        images = TrainingImages if config.augment_on is AugmentOn.CPU else UnvariedImages
        kind: Any = TrainingBreasts if isinstance(self.images, Breasts) else images
        mammograms: Dataset[Any] = self.images if isinstance(self.images, ImageMaps) else kind(self.images, config)
        if self.grid is not None:
            mammograms = LocatedImages(
                mammograms, self.images.records, shape=self.images.shape, grid=self.grid, classes=self.images.classes
            )
        return DataLoader(
            mammograms,
            batch_sampler=self.batches,
            collate_fn=collate if isinstance(self.images, Breasts) else None,
            num_workers=config.workers,
            persistent_workers=config.workers > 0,
            pin_memory=self.world.device.type == "cuda",
            # A separate generator, so that the loader does not advance the generator that dropout uses.
            generator=torch.Generator(),
        )
