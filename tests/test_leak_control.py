"""The leak control: labels of noise images can be predicted only through a leak.

Every film is replaced by noise and keeps its label. If the set is split by patient before augmentation, even a nearest
neighbour, the strongest memoriser, stays at chance. If it is augmented first and then split at random, as in published
pipelines, the result is nearly perfect, and the audit refuses the split.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from mammopipe.processing.augmentation import AugmentationConfig, Augmenter, plan_copies
from mammopipe.processing.classes import THREE
from mammopipe.processing.datasets.manifest import ImageRecord, Laterality, Split, View
from mammopipe.processing.datasets.mias import RELEASE_COUNTS, read_labels
from mammopipe.processing.files import sha256
from mammopipe.processing.images.mammogram import write_png
from mammopipe.processing.splits import assign_splits, audit_leakage
from mammopipe.training.metrics.bootstrap import bootstrap_interval
from mammopipe.training.metrics.classification import balanced_accuracy

SIZE = 48
COPIES = 3
"""Number of copies of each film of the most frequent class; other classes get more."""
Film = tuple[np.ndarray, ImageRecord]


@pytest.fixture(scope="module")
def records(request: pytest.FixtureRequest) -> list[ImageRecord]:
    """The real label table or, if it is not available, one with the same counts."""
    try:
        return read_labels(request.getfixturevalue("mias_folder") / "Info.txt")
    except pytest.skip.Exception:
        labels = [label for label, count in RELEASE_COUNTS.items() for _ in range(count)]
        order = np.random.default_rng(0).permutation(len(labels))
        return [
            ImageRecord(f"mdb{number + 1:03d}", f"p{number // 2}", "mias", Laterality.LEFT, View.MLO, labels[place])
            for number, place in enumerate(order)
        ]


def noise(number: int) -> np.ndarray:
    """Return noise, blurred so that a slightly rotated copy still resembles its original."""
    white = np.random.default_rng((0, number)).random((SIZE, SIZE)).astype(np.float32)
    smooth = cv2.GaussianBlur(white, (0, 0), 3)
    return np.rint(65535 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint16)


def augmented(images: Sequence[Film]) -> list[Film]:
    """Return the films and their copies, as the Augment job plans them."""
    augmenter = Augmenter(AugmentationConfig(flip_probability=0))
    plan = plan_copies([record for _, record in images], COPIES)
    return [*images, *(
        augmenter.copy(pixels, replace(record, lesions=()), index)
        for pixels, record in images
        for index in range(plan.get(record.image_id, 0))
    )]  # fmt: skip


def predict(images: Sequence[Film]) -> list[tuple[int, int, str]]:
    """Return truth, prediction and patient of each film that is not a training film."""
    training = [image for image in images if image[1].split is Split.TRAIN]
    held_out = [image for image in images if image[1].split is not Split.TRAIN]
    model = KNeighborsClassifier(1).fit(*arrays(training))
    pixels, labels = arrays(held_out)
    patients = [record.patient_id for _, record in held_out]
    return list(zip(labels.tolist(), model.predict(pixels).tolist(), patients, strict=True))


def score(predictions: Sequence[tuple[int, int, str]]) -> tuple[float, float, float]:
    """Return the balanced accuracy with its interval by patient."""
    labels, predicted, patients = zip(*predictions, strict=True)
    interval = bootstrap_interval(
        balanced_accuracy, labels, np.eye(len(THREE))[list(predicted)], groups=patients, n=500
    )
    return interval.value, interval.low, interval.high


def arrays(images: Sequence[Film]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([pixels.ravel() for pixels, _ in images]).astype(np.float32), np.array(
        [record.label.rank for _, record in images]
    )


def test_noise_stays_at_chance_when_split_by_patient_before_augmentation(records: list[ImageRecord]) -> None:
    split = assign_splits(records)
    images = augmented([(noise(number), record) for number, record in enumerate(split)])
    value, low, high = score(predict(images))
    assert low <= 1 / 3 <= high
    assert high - low < 0.25
    assert value < 0.45


def test_noise_is_recognised_when_augmented_before_a_random_split_and_the_audit_refuses_it(
    records: list[ImageRecord], tmp_path: Path
) -> None:
    whole = [(noise(number), replace(record, split=Split.TRAIN)) for number, record in enumerate(records)]
    images = augmented(whole)
    chosen = np.random.default_rng(0).random(len(images)) < 0.2
    leaked = [
        (pixels, replace(record, split=Split.TEST if test else Split.TRAIN))
        for (pixels, record), test in zip(images, chosen, strict=True)
    ]
    assert score(predict(leaked))[0] > 0.9
    manifest = []
    few = {record.image_id for record in records[:10]}
    for pixels, record in [item for item in leaked if item[1].original_id in few]:
        path = tmp_path / f"{record.image_id}.png"
        write_png(path, pixels)
        manifest.append(replace(record, path=path.name, sha256=sha256(path)))
    report = audit_leakage(manifest, tmp_path)
    assert not report.passed
    assert {"patient-in-two-splits", "source-in-two-splits"} <= {finding.kind for finding in report.findings}
