"""The training job (console script `train`): reads hyperparameters and channels, writes a model directory.

Channels: `train` and `validation` (images, `<image_id>.png`), `manifest`, `stage`, and optionally `weights`. With the
hyperparameter `folds`, the images of both channels are cross-validated together
(`mammopipe.training.fitting.cross_validation`). The job never gets images of the test split and ignores the test rows
of the manifest.

Source: "How Amazon SageMaker AI Provides Training Information" (SageMaker Developer Guide).
"""

import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.classes import Classes, classes_of
from mammopipe.processing.container.job import run
from mammopipe.processing.container.memory import keep_heap
from mammopipe.processing.container.network import await_host, check_hosts, meeting_point, network_environment
from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.datasets.manifest import (
    ImageRecord,
    Split,
    SplitProtocol,
    read_manifest,
    stated_protocol,
)
from mammopipe.processing.errors import ConfigError, ManifestError
from mammopipe.processing.files import read_json
from mammopipe.processing.splits.leakage_audit import exact_leaks
from mammopipe.training.config import WITHOUT_EFFECT, Learns, TrainConfig
from mammopipe.training.fitting.breasts.cases import cases_of_level, described_level
from mammopipe.training.fitting.breasts.dataset import Breasts
from mammopipe.training.fitting.checkpoint import CheckpointStore, StopRequest, code_digest, data_digest, run_digest
from mammopipe.training.fitting.cross_validation import FoldEnvironment, cross_validate, train_fold
from mammopipe.training.fitting.dataset import ImageDataset, learnt, require_every_class
from mammopipe.training.fitting.distributed import ALONE, World, joined, launch, launch_command
from mammopipe.training.fitting.image_cache import choose_cache
from mammopipe.training.fitting.loop import fit
from mammopipe.training.fitting.out_of_fold import CrossValidated
from mammopipe.training.fitting.run import TrainingProgress
from mammopipe.training.model.architecture import find_architecture
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.network import ImageNetwork
from mammopipe.training.networks.pretrained import StagedWeights, find_weights
from mammopipe.training.trial import build_network, memory_stated, try_out
from mammopipe.training.usage import usage

_REPORTED = ("torch", "torchvision", "numpy", "safetensors", "opencv-python-headless")


@dataclass(frozen=True)
class Inputs:
    """All inputs of a run, read from the container's folders."""

    config: TrainConfig
    preprocess: PreprocessConfig
    train: ImageDataset
    validation: ImageDataset
    weights: StagedWeights | None
    classes: Classes
    protocol: SplitProtocol = SplitProtocol.PATIENT

    def cases(self) -> tuple[ImageDataset | Breasts, ImageDataset | Breasts]:
        """Return the cases of training and of validation (`cases_of_level`)."""
        return cases_of_level(self.config, self.protocol, self.train, self.validation)

    @cached_property
    def code_digest(self) -> str:
        """Digest of the source code at the start of the job."""
        return code_digest()

    @cached_property
    def data_digest(self) -> str:
        """Digest of the manifest rows and files of both splits."""
        return data_digest(
            [*self.train.records, *self.validation.records],
            {"train": self.train.sha256, "validation": self.validation.sha256},
        )

    @cached_property
    def digest(self) -> str:
        """Digest of everything that determines the result of the run; its checkpoints contain it."""
        return run_digest(
            hyperparameters=self.config.model_dump(mode="json", exclude=set(WITHOUT_EFFECT)),
            preprocess=self.preprocess.to_json(),
            weights=self.weights.to_json() if self.weights else None,
            data=self.data_digest,
            code=self.code_digest,
        )


def main(arguments: Sequence[str]) -> None:
    """Run the job in the container's folders; with several GPUs or hosts, start one process for each."""
    if arguments:
        raise ConfigError(f"train takes no arguments, not {' '.join(arguments)!r}: its settings are hyperparameters")
    paths = ContainerPaths.from_environment()
    current, hosts = paths.hosts()
    resources, gpus = paths.resources(), torch.cuda.device_count()
    check_hosts(resources, gpus)
    command = launch_command(hosts, current, gpus=gpus, environment=os.environ)
    if command is not None:
        if first := meeting_point(hosts, current):
            await_host(first)
        raise SystemExit(launch(command, network_environment(resources, os.environ)))
    keep_heap()
    stop = StopRequest().listen()
    with joined() as world:
        inputs = read_inputs(paths, world)
        with memory_stated(inputs.config, shape=inputs.train.shape, world=world):
            train(paths, inputs, world, stop)


def read_inputs(paths: ContainerPaths, world: World = ALONE) -> Inputs:
    """Read the job's inputs.

    Raises:
        MammopipeError: An input is missing or invalid; the subclass and the message state which.
    """
    config = TrainConfig.from_hyperparameters(dict(read_json(paths.hyperparameters)))
    preprocess = read_stage(paths)
    protocol = read_protocol(paths)
    manifest = read_manifest(paths.channel("manifest"), protocol)
    # From all rows, so that all jobs have the same classes. The job reads labels of the test split, but no image of it.
    classes = classes_of((record.label for record in manifest), config.question, where="manifest")
    _refuse_exact_leaks(manifest, protocol)
    records = learnt(manifest, cross_validated=bool(config.folds), protocol=protocol)
    weights = find_weights(paths.channel("weights"), config.cnn)
    if weights is None and config.learns is Learns.HEAD:
        raise ConfigError(
            f"hyperparameter learns=head needs pretrained weights; {paths.channel('weights')} has no {config.cnn}*"
        )
    used = [record for record in records if record.split in (Split.TRAIN, Split.VALIDATION)]
    shape = (preprocess.height, preprocess.width)
    find_architecture(config.cnn).require_size(*shape)
    # Before the images are read, which may take minutes: a job that cannot train fails at once.
    try_out(build_network(config, classes, weights), config, shape=shape, world=world)
    cache = choose_cache(config.cache, len(used), shape)
    images = {
        split: ImageDataset(
            [record for record in used if record.split is split],
            paths.channel(split),
            shape=shape,
            classes=classes,
            description=f"{split} images",
            cache=cache,
            world=world,
        )
        for split in (Split.TRAIN, Split.VALIDATION)
    }
    if not config.folds:
        for split, dataset in images.items():
            require_every_class(dataset, split)
    inputs = Inputs(config, preprocess, images[Split.TRAIN], images[Split.VALIDATION], weights, classes, protocol)
    if weights is not None:
        weights.require_declared(inputs.data_digest)
    return inputs


def _refuse_exact_leaks(manifest: Sequence[ImageRecord], protocol: SplitProtocol) -> None:
    """Raise `ManifestError` for a leak that ids and hashes show; other protocols than `patient` allow leaks."""
    if protocol is not SplitProtocol.PATIENT:
        return
    # Copies of validation images are no leak: they train the other folds, and are left out without folds.
    leaks = exact_leaks(manifest, copied=(Split.TRAIN, Split.VALIDATION))
    if leaks:
        more = f" and {len(leaks) - 1} more" if len(leaks) > 1 else ""
        raise ManifestError(f"manifest: {leaks[0].message}{more}; the job does not train on data with a leak")


def read_stage(paths: ContainerPaths) -> PreprocessConfig:
    """Return the preprocessing of the images, `config.preprocess` of `stage.json`; all hosts' files must agree."""
    folder, configs = paths.channel("stage"), {}
    parts = _stage_parts(paths)
    for part in parts:
        try:
            configs[part] = PreprocessConfig.from_json(read_json(part)["config"]["preprocess"])
        except (KeyError, TypeError):
            raise ConfigError(
                f"{part}: has no config.preprocess; the stage channel must be the output of the Segment job"
            ) from None
    if len(set(configs.values())) > 1:
        raise ConfigError(f"{folder}: {', '.join(part.name for part in parts)} state different config.preprocess")
    return configs[parts[0]]


def read_protocol(paths: ContainerPaths) -> SplitProtocol:
    """Return the protocol that `stage.json` states (default: `patient`); all hosts' files must agree."""
    found = {stated_protocol(read_json(part).get("config", {}), where=str(part)) for part in _stage_parts(paths)}
    if len(found) > 1:
        raise ConfigError(f"{paths.channel('stage')}: its parts state different protocols: {', '.join(sorted(found))}")
    return found.pop()


def _stage_parts(paths: ContainerPaths) -> list[Path]:
    if not (parts := sorted(paths.channel("stage").glob("*stage*.json"))):
        raise ConfigError(f"{paths.channel('stage')}: no stage.json and no stage-<host>.json here")
    return parts


def train(paths: ContainerPaths, inputs: Inputs, world: World, stop: StopRequest) -> None:
    """Train the network; the first process writes the model directory."""
    start = time.perf_counter()
    if world.device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        # By default, torch then fills new memory against reading uninitialised values. No layer here reads any, and the
        # filling would take a tenth of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if world.leads:
        print(_opening_line(inputs, world), flush=True)
    progress: TrainingProgress
    if inputs.config.folds:
        where = FoldEnvironment(world, paths.checkpoints, inputs.digest, stop.check)
        network, progress = (train_fold if inputs.config.fold >= 0 else cross_validate)(
            inputs.train.joined(inputs.validation),
            inputs.config,
            inputs.protocol,
            lambda: build_network(inputs.config, inputs.classes, inputs.weights),
            pretrained=inputs.weights is not None,
            where=where,
        )
    else:
        network = build_network(inputs.config, inputs.classes, inputs.weights)
        progress = fit(
            network,
            *inputs.cases(),
            inputs.config,
            pretrained=inputs.weights is not None,
            world=world,
            checkpoints=CheckpointStore(paths.checkpoints, inputs.digest),
            check_stop=stop.check,
        )
    if world.leads:
        save_model(paths, inputs, network, progress, seconds=time.perf_counter() - start)


def _opening_line(inputs: Inputs, world: World) -> str:
    initialisation = (
        f"pretrained ({inputs.weights.path.name})"
        if inputs.weights
        else f"scratch (no {inputs.config.cnn}* in the weights channel)"
    )
    return (
        f"cnn={inputs.config.cnn} initialisation={initialisation} train_images={len(inputs.train)} "
        f"validation_images={len(inputs.validation)} device={world.device} processes={world.size}"
    )


def save_model(
    paths: ContainerPaths, inputs: Inputs, network: ImageNetwork, progress: TrainingProgress, *, seconds: float
) -> None:
    """Write the model directory and print the best epoch; for a cross-validation, also write out-of-fold logits."""
    if isinstance(progress, CrossValidated):
        progress.save(paths.model)
    model_directory.save(paths.model, network, describe(inputs, progress, seconds=seconds))
    best = progress.history[progress.best_epoch - 1]
    print(
        f"best_epoch={best.epoch} best_validation_macro_auc={best.validation_macro_auc:.4f} "
        f"best_validation_choice={best.validation_choice:.4f} model={paths.model}",
        flush=True,
    )


def describe(inputs: Inputs, progress: TrainingProgress, *, seconds: float) -> dict[str, Any]:
    """Return `model.json`, except the keys that `model_directory.save` sets.

    The evaluation adds calibration and operating points later.
    """
    best = progress.history[progress.best_epoch - 1]
    return {
        "architecture": str(inputs.config.cnn),
        "classes": [str(label) for label in inputs.classes],
        "input": {"height": inputs.preprocess.height, "width": inputs.preprocess.width},
        "preprocess": inputs.preprocess.to_json(),
        "pooling": str(inputs.config.pooling),
        "top_places": inputs.config.top_places,
        "stride": inputs.config.stride,
        "test_flips": inputs.config.test_flips,
        **described_level(inputs.config),
        "initialisation": "pretrained" if inputs.weights else "scratch",
        "pretrained_weights": inputs.weights.to_json() if inputs.weights else None,
        "calibration": {"temperature": 1.0, "fitted_on": None},
        "operating_points": {},
        "training": {
            "hyperparameters": inputs.config.to_json(),
            "precision": str(progress.precision),
            "data_digest": inputs.data_digest,
            "code_digest": inputs.code_digest,
            "epochs_run": len(progress.history),
            "best_epoch": best.epoch,
            "history": [asdict(result) for result in progress.history],
            "seconds": round(seconds, 3),
            **progress.described(),
        },
        "metrics": {
            "validation_macro_auc": best.validation_macro_auc,
            "validation_loss": best.validation_loss,
            "validation_balanced_accuracy": best.validation_balanced_accuracy,
        },
        "weights_sha256": "",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _REPORTED}},
    }


def console() -> None:
    """Run the job as SageMaker's training container does, and exit with its code."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(usage())
        return
    # Flush denormal numbers to zero. The AdamW moments of inactive units become denormal, which makes a step twenty
    # times slower. Threads inherit the setting, so it must be set before any starts.
    torch.set_flush_denormal(True)
    sys.exit(run(main, "failure"))


if __name__ == "__main__":
    console()
