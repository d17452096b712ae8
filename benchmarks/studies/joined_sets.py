"""Measures the effect of additional training sets and of harmonisation.

Run `python -m benchmarks.studies.joined_sets WEIGHTS WORK SETS`.

SETS are datasets as released, `NAME=FOLDER`; WEIGHTS is the folder of staged weights; WORK keeps the segmented images,
the feature maps and the logits, so that an interrupted command resumes. For each harmonisation, the classifier of
`mias-located` is trained on feature maps of the frozen body, with three kinds of training sets, and evaluated on each
set of `--judged`:

- its own: the set itself, in five folds by patient;
- its own and the others: the same folds, and all images of the other sets;
- the others alone: all sets except this one.

Images of an evaluated set's frozen test split are never read. Nothing is chosen on the evaluated images: each training
has a fixed number of epochs. A figure is the mean over the deals (assignments of patients to folds, and seeds of the
training); a difference is paired, with a 95 % interval by patient. `--page` puts the table between two marks of
docs/how-to/external-evaluation.md.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.studies.ablation import LOCATED, Row, build, spread
from benchmarks.studies.deal_figures import bounds, compare
from benchmarks.studies.located_variants import FOLDS, classifiers, predicted
from benchmarks.table import replace_between
from mammopipe.pipelines.data.join import sources_of
from mammopipe.processing.breast.harmonisation import Harmonisation
from mammopipe.processing.breast.preprocess import preprocess
from mammopipe.processing.classes import THREE
from mammopipe.processing.datasets.lesion_masks import with_lesions
from mammopipe.processing.datasets.manifest import ImageRecord, Split, SplitProtocol, read_manifest, write_manifest
from mammopipe.processing.datasets.registry import EVALUATED
from mammopipe.processing.errors import ImageError
from mammopipe.processing.images.mammogram import ReadConfig, read_mammogram, write_png
from mammopipe.processing.splits.assignment import SplitConfig, assign_folds, assign_splits
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.fitting.head_only import ImageMaps
from mammopipe.training.model.predictions import Floats

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "external-evaluation.md"
MARKS = "joined-sets"
OWN, BOTH, LEFT_OUT = "its own", "its own and the others", "the others alone"
METRIC = "malignant_auc"
MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class Images:
    """All images of the sets with one harmonisation."""

    maps: ImageMaps
    sets: NDArray[np.str_]
    """(images,), the name of each image's set."""

    def part(self, chosen: NDArray[np.bool_]) -> ImageMaps:
        """Return a subset of the maps."""
        return self.maps.part(np.flatnonzero(chosen).tolist())


def readable(name: str, folder: Path, judged: bool) -> Iterator[tuple[ImageRecord, Path]]:
    """Yield the images of a set, with the folder of their files; a judged set without its frozen test split."""
    dataset = EVALUATED[name]
    place = dataset.find(folder)
    table = dataset.check(place)
    images = place / dataset.image_folder
    for record in assign_splits(table.records, SplitConfig()) if judged else table.records:
        if not (judged and record.split is Split.TEST):
            yield with_lesions(record, table.masks.get(record.image_id, ()), images), images


def segmented(sources: Mapping[str, Path], judged: Sequence[str], row: Row, folder: Path) -> list[ImageRecord]:
    """Return the records of all sets, segmented into `folder`; segments them once."""
    if (folder / MANIFEST).is_file():
        return read_manifest(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = [(name, *item) for name, source in sources.items() for item in readable(name, source, name in judged)]
    written = []
    for name, record, images in tqdm(found, desc=f"segmenting, {row.preprocess.harmonisation}", disable=None):
        try:
            mammogram = read_mammogram(images / record.path, record=record, config=ReadConfig(jpeg_files=True))
            result = preprocess(mammogram, row.preprocess, record.lesions)
        except ImageError as error:
            print(f"left out: {name}, {error}", flush=True)
            continue
        image_id = f"{name}-{record.image_id}"
        write_png(folder / f"{image_id}.png", result.pixels)
        shown: dict[str, Any] = {
            "image_id": image_id,
            "path": f"{image_id}.png",
            "patient_id": f"{name}-{record.patient_id}",
            "dataset": name,
            "synthetic": record.synthetic or bool(mammogram.facts.get("phantom")),
        }
        written.append(replace(record, lesions=result.lesions, split=None, fold=None, **shown))
    write_manifest(written, folder / MANIFEST)
    return read_manifest(folder)


def maps_of(records: Sequence[ImageRecord], row: Row, weights: Path, folder: Path) -> Images:
    """Return the feature maps of segmented images; computes them once."""
    mammograms = ImageDataset(records, folder, shape=(row.preprocess.height, row.preprocess.width), classes=THREE)
    path, network = folder / f"maps-{mammograms.sha256[:12]}.pt", build(row.config, weights)
    maps = ImageMaps(network, mammograms, torch.load(path, weights_only=True) if path.is_file() else None)
    if not path.is_file():
        torch.save(maps.maps, path)
    return Images(maps, np.array([record.dataset for record in mammograms.records]))


def held_out(images: Images, name: str, training: str, row: Row, deal: int) -> Floats:
    """Return the logits of a set's images, (images, classes), each by a classifier not trained on the patient."""
    config = row.config.replace(seed=deal)
    own = np.flatnonzero(images.sets == name)
    if training == LEFT_OUT:
        states = classifiers(images.maps, config, [np.flatnonzero(images.sets != name)])
        return predicted(images.part(images.sets == name), config, states)
    folds = np.array(
        assign_folds(images.part(images.sets == name).records, FOLDS, seed=deal, protocol=SplitProtocol.PATIENT)
    )
    logits = np.zeros((len(own), len(THREE)))
    for fold in range(FOLDS):
        learnt = np.isin(np.arange(len(images.sets)), own[folds != fold])
        if training == BOTH:
            learnt |= images.sets != name
        states = classifiers(images.maps, config, [np.flatnonzero(learnt)])
        held = images.maps.part(own[folds == fold].tolist())
        logits[folds == fold] = predicted(held, config, states)
    return logits


def kept(images: Images, name: str, training: str, row: Row, deal: int, folder: Path) -> Floats:
    """Return the logits of `held_out`, from their file if an earlier command computed them."""
    path = folder / f"{name}, {training}, deal {deal}.npy"
    if not path.is_file():
        np.save(path, held_out(images, name, training, row, deal))
    logits: Floats = np.load(path)
    return logits


Logits = dict[tuple[str, str, Harmonisation], list[Floats]]
"""The logits of each deal by judged set, kind of training set and harmonisation."""


def table(found: Logits, records: Mapping[str, Sequence[ImageRecord]]) -> Iterator[str]:
    """Yield the lines of the table: one row per judged set, kind of training set and harmonisation."""
    columns = ("judged", "trained on", "harmonisation", "malignant AUC", "less its own alone", "less no harmonisation")
    yield f"| {' | '.join(columns)} |"
    yield "|---|---|---|---|---|---|"
    for (name, training, kind), logits in found.items():
        cells = []
        for base in ((name, OWN, kind), (name, training, Harmonisation.NONE)):
            compared = compare(logits, found[base], records[name], 0.0)[METRIC]
            gain = compared["difference"]
            cells.append(
                "" if base == (name, training, kind) else f"{gain['value']:+.3f} ({bounds(gain, signed=True)})"
            )
        figure = f"{spread(compared['deals'])} ({bounds(compared['interval'])})"
        yield f"| {name} | {training} | {kind} | {figure} | {' | '.join(cells)} |"


def described(records: Sequence[ImageRecord], judged: Sequence[str], deals: int, row: Row) -> Iterator[str]:
    """Yield the lines that describe the sets: images, patients, classes and use."""
    size = row.preprocess
    yield f"At {size.height} x {size.width} pixels, mean of {deals} deals [lowest to highest], intervals of 95 %."
    yield ""
    for name in dict.fromkeys(record.dataset for record in records):
        own = [record for record in records if record.dataset == name]
        labels = Counter(record.label for record in own)
        counts = ", ".join(f"{labels[label]} {label}" for label in THREE if labels[label])
        kind = "**phantoms**" if all(record.synthetic for record in own) else "mammograms"
        use = "judged; without its frozen test split" if name in judged else "only trained on"
        women = len({record.patient_id for record in own})
        yield f"- {name}: {len(own)} {kind} of {women} patients ({counts}); {use}"
    yield ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the missing logits, and print the table."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    sources = sources_of(options.sets)
    found: Logits = {}
    records: dict[str, Any] = {}
    for kind in Harmonisation:
        size = {"height": options.height, "width": options.width, "harmonisation": kind}
        row = replace(LOCATED, preprocess=LOCATED.preprocess.replace(**size))
        folder = options.work / row.preprocess.digest
        images = maps_of(segmented(sources, options.judged, row, folder), row, options.weights, folder)
        for name in options.judged:
            records[name] = images.part(images.sets == name).records
            for training in (OWN, BOTH, LEFT_OUT):
                deals = range(options.deals)
                found[name, training, kind] = [kept(images, name, training, row, deal, folder) for deal in deals]
                print(f"{kind}, {name}, {training}: measured", flush=True)
    order = sorted(found, key=lambda key: (list(options.judged).index(key[0]), (OWN, BOTH, LEFT_OUT).index(key[1])))
    lines = described(images.maps.records, options.judged, options.deals, row)
    text = "\n".join([*lines, *table({key: found[key] for key in order}, records)])
    print(text)
    if options.page:
        replace_between(PAGE, MARKS, text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.joined_sets", description=__doc__)
    parser.add_argument("weights", type=Path, help="the folder of staged weights")
    parser.add_argument("work", type=Path, help="where segmented images, feature maps and logits are kept")
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER", help="datasets as released")
    parser.add_argument("--judged", nargs="+", default=["mias"], metavar="NAME", help="the sets to judge")
    parser.add_argument("--deals", type=int, default=3)
    parser.add_argument("--height", type=int, default=LOCATED.preprocess.height)
    parser.add_argument("--width", type=int, default=LOCATED.preprocess.width)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", action="store_true", help="replace the table in docs/how-to/external-evaluation.md")
    return parser


if __name__ == "__main__":
    main()
