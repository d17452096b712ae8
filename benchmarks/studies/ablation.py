"""The effect of each training option, by cross-validation by patient on the development images.

Run `python -m benchmarks.studies.ablation FILMS WEIGHTS WORK [--rows NAME...] [--repeats 1] [--folds 5]`. FILMS is the
folder of mini-MIAS, WEIGHTS the folder of staged weights. WORK keeps segmented images and finished folds, so that an
interrupted run resumes. The table has one row per option. It gives the out-of-fold macro AUC and malignant-against-rest
AUC of the mean probabilities over the deals (assignments of patients to folds), each with a 95 % interval by patient;
then the figures of single deals: mean, lowest and highest. The images of the frozen test split are never read, and no
epoch is chosen on held-out images.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mammopipe.processing.augmentation import Augmenter, copy_id
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.classes import THREE
from mammopipe.processing.datasets.manifest import (
    ImageRecord,
    Label,
    Split,
    SplitProtocol,
    breast_id,
    read_manifest,
    write_manifest,
)
from mammopipe.processing.datasets.mias import LABEL_TABLE, read_labels
from mammopipe.processing.files import write_json
from mammopipe.processing.images.mammogram import read_mammogram, write_png
from mammopipe.processing.splits.assignment import SplitConfig, assign_folds, assign_splits
from mammopipe.training.config import Learns, TrainConfig
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.fitting.head_only import Images, learner
from mammopipe.training.fitting.image_cache import ImageCache
from mammopipe.training.fitting.loop import refit
from mammopipe.training.fitting.step import predict
from mammopipe.training.metrics.bootstrap import bootstrap_interval
from mammopipe.training.metrics.classification import macro_auc, malignant_auc
from mammopipe.training.model.architecture import Cnn, Pooling, Precision
from mammopipe.training.model.exam_scores import beside_other
from mammopipe.training.model.predictions import Floats, softmax
from mammopipe.training.networks.network import ImageNetwork
from mammopipe.training.networks.pretrained import find_weights
from mammopipe.training.networks.registry import build_model

COPIES = {Label.NORMAL: 0, Label.BENIGN: 2, Label.MALIGNANT: 2}
"""Number of stored copies of each development image; a fold trains on the copies of its training images."""


Kept = dict[tuple[str, str, int, int], Images]
"""Feature maps by network, digest of the input settings, stride, and whether the image was mirrored (1)."""


@dataclass(frozen=True)
class Row:
    """One option, or a combination of options."""

    name: str
    config: TrainConfig
    preprocess: PreprocessConfig = field(default_factory=lambda: PreprocessConfig(height=512, width=320))
    flips: bool = False
    """Whether the logits of the mirrored image are included."""
    copies: bool = True
    """Whether the folds also train on the stored copies."""
    other_breast: float = 0.0
    """Fraction of the logits of the patient's other image to subtract; needs both images."""

    @property
    def digest(self) -> str:
        """Digest of everything that determines the row's logits; names the folder of its folds."""
        values = [self.config.to_json(), self.preprocess.to_json(), self.flips, *([] if self.copies else ["no copies"])]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


_PLAIN = TrainConfig(
    cnn=Cnn.EFFICIENTNET_LITE0,
    epochs=2,
    head_epochs=0,
    warmup_epochs=0.5,
    learning_rate=5e-4,
    precision=Precision.FLOAT32,
)
_HEAD = _PLAIN.replace(learns=Learns.HEAD, epochs=8, head_learning_rate=3e-3, dropout=0.0)
_FINE = _HEAD.replace(stride=16, pooling=Pooling.TOP, top_places=3, location_weight=1.0)
_LARGE = PreprocessConfig(height=768, width=480)
_FINEST = PreprocessConfig(height=1024, width=640)
LOCATED = Row("head alone, stride 16, top 3, circles, 768 rows", _FINE, _LARGE)
"""The configuration that README.md recommends."""
ROWS = (
    Row("fine-tuning", _PLAIN),
    Row("fine-tuning, peaks, circles", _PLAIN.replace(pooling=Pooling.PEAKS, location_weight=1.0)),
    Row("head alone", _HEAD),
    Row("head alone, top 3, circles", _FINE.replace(stride=32)),
    Row("head alone, stride 16, top 3, circles", _FINE),
    LOCATED,
    Row("head alone, stride 16, mean, circles, 768 rows", _FINE.replace(pooling=Pooling.MEAN), _LARGE),
    Row("head alone, stride 16, peaks, circles, 768 rows", _FINE.replace(pooling=Pooling.PEAKS), _LARGE),
    Row("head alone, stride 16, top 3, 768 rows", _FINE.replace(location_weight=0.0), _LARGE),
    Row("head alone, stride 16, top 1, circles, 768 rows", _FINE.replace(top_places=1), _LARGE),
    Row("head alone, stride 16, top 10, circles, 768 rows", _FINE.replace(top_places=10), _LARGE),
    Row("head alone, stride 16, top 3, circles, 768 rows, no smoothing", _FINE.replace(label_smoothing=0.0), _LARGE),
    Row("head alone, stride 16, top 3, circles, 768 rows, flips", _FINE, _LARGE, flips=True),
    Row("head alone, stride 16, top 3, circles, 768 rows, half of the other breast", _FINE, _LARGE, other_breast=0.5),
    Row("head alone, stride 16, top 3, circles, 768 rows, all of the other breast", _FINE, _LARGE, other_breast=1.0),
    Row("head alone, stride 16, top 3, circles, 768 rows, no copies", _FINE, _LARGE, copies=False),
    Row("head alone, stride 16, top 3, circles, 1024 rows", _FINE, _FINEST),
    Row("head alone, stride 16, top 3, circles, 1024 rows, half of the other breast", _FINE, _FINEST, other_breast=0.5),
    Row("head alone, stride 16, top 3, circles, 768 rows, muscle kept", _FINE, _LARGE.replace(remove_pectoral=False)),
)


def development_images(films: Path, work: Path, config: PreprocessConfig) -> tuple[list[ImageRecord], Path]:
    """Return the records and the folder of the segmented development images and their copies; writes them once."""
    folder = work / f"films-{config.digest}-{'-'.join(map(str, COPIES.values()))}"
    if not (folder / "manifest.csv").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        records = [
            record
            for record in assign_splits(read_labels(films / LABEL_TABLE), SplitConfig())
            if record.split is not Split.TEST
        ]
        written = [
            item
            for record in tqdm(records, desc="segmenting", disable=None)
            for item in segmented(films, record, folder, config, range(COPIES[record.label]))
        ]
        write_manifest(written, folder / "manifest.csv")
    return read_manifest(folder), folder


def segmented(
    films: Path, record: ImageRecord, folder: Path, config: PreprocessConfig, copies: Iterable[int]
) -> list[ImageRecord]:
    """Segment an image and its copies with the given numbers into `folder`, and return their records."""
    mammogram, augmenter, made = read_mammogram(films / record.path, record=record), Augmenter(), []
    varied = [(mammogram, record)]
    for index in copies:
        pixels, copied = augmenter.copy(mammogram.pixels, record, index)
        assert copied.image_id == copy_id(record.image_id, index)
        varied.append((replace(mammogram, pixels=pixels, laterality=copied.laterality), copied))
    for picture, item in varied:
        result = preprocess(picture, config, item.lesions)
        write_png(folder / f"{item.image_id}.png", result.pixels)
        made.append(replace(item, lesions=result.lesions, path=f"{item.image_id}.png"))
    return made


def out_of_fold(
    row: Row, dataset: ImageDataset, folds: NDArray[np.int64], weights: Path, folder: Path, kept: Kept
) -> Floats:
    """Return the logits of the originals, (originals, classes), each from a network that was not trained on the image.

    Feature maps are computed when a fold first needs them, and kept for the following rows.
    """
    originals = np.array([not record.source_image_id for record in dataset.records])
    logits = np.zeros((len(dataset), len(THREE)))
    for fold in tqdm(range(int(folds.max()) + 1), desc=row.name, disable=None):
        held = np.flatnonzero((folds == fold) & originals)
        path = folder / f"fold-{fold}.npy"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            given = network_inputs(row, dataset, weights, kept)
            learnt = given[0].part(np.flatnonzero((folds != fold) & (originals | row.copies)).tolist())
            held_out = [one.part(held.tolist()) for one in given]
            np.save(path, _train_and_predict(row, learnt, held_out, weights))
        logits[held] = np.load(path)
    of_originals: Floats = logits[originals]
    return of_originals


def network_inputs(row: Row, dataset: ImageDataset, weights: Path, kept: Kept) -> list[Images]:
    """Return the networks' inputs for the row: the images and, if it has flips, the mirrored images.

    If the body is not trained, the inputs are its feature maps, which all rows with the same images and stride share.
    """
    seen = [dataset, _mirrored(dataset)] if row.flips else [dataset]
    if row.config.learns is Learns.ALL:
        return list(seen)
    keys = [(row.config.cnn, row.preprocess.digest, row.config.stride, mirrored) for mirrored, _ in enumerate(seen)]
    for key, one in zip(keys, seen, strict=True):
        if key not in kept:
            kept[key] = learner(build(row.config, weights), row.config, one)[1][0]
    return [kept[key] for key in keys]


def build(config: TrainConfig, weights: Path) -> ImageNetwork:
    """Return the network at the start of training, with pretrained weights if they are staged."""
    found = find_weights(weights, config.cnn)
    return build_model(
        config.cnn,
        classes=list(THREE),
        weights=found.path if found else None,
        dropout=config.dropout,
        seed=config.seed,
        pooling=config.pooling,
        top_places=config.top_places,
        stride=config.stride,
    )


def _train_and_predict(row: Row, learnt: Images, held_out: Sequence[Images], weights: Path) -> Floats:
    config, network = row.config, build(row.config, weights)
    refit(
        network,
        learnt,
        config,
        epochs=config.epochs,
        precision=config.precision,
        pretrained=find_weights(weights, config.cnn) is not None,
    )
    learns, _ = learner(network, config)
    logits = [predict(learns, held, batch_size=8, precision=config.precision) for held in held_out]
    mean: Floats = np.mean(np.array(logits, np.float64), axis=0)
    return mean


@dataclass(frozen=True)
class _MirroredImages:
    """The images of a cache, mirrored left to right."""

    cache: ImageCache

    @property
    def sums(self) -> Sequence[bytes]:
        return self.cache.sums

    def __len__(self) -> int:
        return len(self.cache)

    def read(self, index: int) -> NDArray[np.uint16]:
        return np.ascontiguousarray(self.cache.read(index)[:, ::-1])


def _mirrored(dataset: ImageDataset) -> ImageDataset:
    mirrored = dataset.part(range(len(dataset)))
    mirrored.caches = tuple(map(_MirroredImages, dataset.caches))
    return mirrored


def _beside_other(logits: Floats, records: Sequence[ImageRecord], share: float) -> Floats:
    """Return each image's logits minus a fraction of those of the patient's image of the other breast."""
    return beside_other(logits, [record.patient_id for record in records], list(map(breast_id, records)), share)


def judge(logits: Sequence[Floats], records: Sequence[ImageRecord]) -> dict[str, Any]:
    """Return the figures of the mean probabilities over the deals, each [value, low, high]; bounds may be null."""
    probabilities = np.mean([softmax(one) for one in logits], axis=0)
    labels, patients = [record.label.rank for record in records], [record.patient_id for record in records]
    found = {
        metric.name: bootstrap_interval(metric, labels, probabilities, groups=patients)
        for metric in (macro_auc, malignant_auc)
    }
    return {
        **{name: [interval.value, interval.low, interval.high] for name, interval in found.items()},
        "single_repeats": [[metric(labels, softmax(one)) for metric in (macro_auc, malignant_auc)] for one in logits],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rows; after each, write `ablation.json` and `ablation.md` to the work folder."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = [row for row in ROWS if not options.rows or row.name in options.rows]
    table: dict[str, Any] = {}
    kept: Kept = {}
    for row in rows:
        records, folder = development_images(options.films, options.work, row.preprocess)
        dataset = ImageDataset(records, folder, shape=(row.preprocess.height, row.preprocess.width))
        judged = [record for record in records if not record.source_image_id]
        done = []
        for repeat in range(options.repeats):
            folds = np.array(assign_folds(records, options.folds, seed=repeat, protocol=SplitProtocol.PATIENT))
            finished = options.work / "folds" / f"{row.digest}-{options.folds}-{repeat}"
            logits = out_of_fold(row, dataset, folds, options.weights, finished, kept)
            done.append(_beside_other(logits, judged, row.other_breast) if row.other_breast else logits)
        table[row.name] = judge(done, judged)
        write_json(options.work / "ablation.json", table)
        (options.work / "ablation.md").write_text(_markdown(table), encoding="utf-8")
        print(_markdown({row.name: table[row.name]}).splitlines()[-1], flush=True)


def spread(values: Sequence[float]) -> str:
    """Return the mean of the deals' figures, with the lowest and the highest if there are several deals."""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} [{min(values):.3f} to {max(values):.3f}]"


def _markdown(table: Mapping[str, Any]) -> str:
    lines = ["| option | macro AUC | malignant AUC | each deal alone, macro / malignant |", "|---|---|---|---|"]
    for name, found in table.items():
        figures = [
            f"{value:.3f} (no interval)" if low is None else f"{value:.3f} ({low:.3f} to {high:.3f})"
            for value, low, high in (found["macro_auc"], found["malignant_auc"])
        ]
        deals = [spread([deal[place] for deal in found["single_repeats"]]) for place in (0, 1)]
        lines.append(f"| {name} | {' | '.join(figures)} | {' / '.join(deals)} |")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.ablation", description=__doc__)
    parser.add_argument("films", type=Path, help="the folder of mini-MIAS")
    parser.add_argument("weights", type=Path, help="the folder of staged weights")
    parser.add_argument("work", type=Path, help="where segmented films and finished folds are kept")
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=[row.name for row in ROWS])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    return parser


if __name__ == "__main__":
    main()
