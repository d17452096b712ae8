"""Records which images each fitted value used; verifies that none is from the test split.

A split without leaks does not guarantee an unbiased evaluation: a temperature, threshold or mean that was fitted with a
single test image also makes the test metrics too good. Each fitted value therefore records its images.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammopipe.processing.datasets.manifest import ImageRecord, Split, SplitProtocol
from mammopipe.processing.images.image_files import ImageFiles
from mammopipe.processing.splits.leakage_audit import Leak, LeakageReport
from mammopipe.training.evaluation.calibration import (
    Comparison,
    FittedCalibration,
    FittedMaps,
    calibrate,
    fit_comparison,
    fit_score_maps,
)
from mammopipe.training.fitting.checkpoint import data_digest
from mammopipe.training.fitting.out_of_fold import OutOfFold
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule
from mammopipe.training.model.predictions import Predictions, ValidationPredictions, require_validation

_SAME = 1e-9
"""Relative tolerance of a value that is fitted again on the same predictions."""


@dataclass(frozen=True)
class Fit:
    """A fitted value and the images that it was fitted on."""

    what: str
    image_ids: tuple[str, ...]

    @classmethod
    def on(cls, what: str, images: Predictions | Sequence[ImageRecord]) -> "Fit":
        """Return the fit of `what` on the images of predictions or manifest rows."""
        if isinstance(images, Predictions):
            return cls(what, images.all_images)
        return cls(what, tuple(record.image_id for record in images))

    def as_dict(self, records: Sequence[ImageRecord]) -> dict[str, Any]:
        """Return {"what", "images", "splits": {split: images}, "digest": SHA-256 of the images' ids and content}."""
        by_id = {record.image_id: record for record in records}
        splits = Counter(str(by_id[name].split) if name in by_id else "unknown" for name in self.image_ids)
        lines = sorted(f"{name} {by_id[name].sha256 if name in by_id else ''}\n" for name in self.image_ids)
        return {
            "what": self.what,
            "images": len(self.image_ids),
            "splits": dict(sorted(splits.items())),
            "digest": hashlib.sha256("".join(lines).encode()).hexdigest(),
        }


def audit_fits(fits: Sequence[Fit], records: Sequence[ImageRecord]) -> list[Leak]:
    """Return a finding for each fit that used a test image, or an image that is not in the manifest."""
    tested = {record.image_id for record in records if record.split is Split.TEST}
    unknown = {name for fit in fits for name in fit.image_ids} - {record.image_id for record in records}
    findings = []
    for fit in fits:
        for kind, what, names in (
            ("fitted-on-test", "of the test split", tested),
            ("fitted-on-unknown", "that the manifest lacks", unknown),
        ):
            found = tuple(name for name in fit.image_ids if name in names)
            if found:
                findings.append(
                    Leak(
                        kind,
                        found,
                        f"{fit.what}: {len(found)} of the {len(fit.image_ids)} images that "
                        f"it was fitted on are images {what}, such as {found[0]}",
                    )
                )
    return findings


def audit_calibration(name: str, used: FittedCalibration, validation: ValidationPredictions) -> list[Leak]:
    """Fit a candidate's calibration and thresholds again on validation; return a finding for each different value."""
    require_validation(validation, f"calibration of {name}")
    fitted = calibrate(validation)
    pairs = _pairs("", used.calibration, fitted.calibration)
    pairs += [
        (f"threshold of the operating point {goal}", used.operating_points[goal].threshold, point.threshold)
        for goal, point in fitted.operating_points.items()
    ]
    return _not_from(validation, name, pairs)


def audit_score_maps(
    name: str, used: FittedMaps, calibration: Calibration, validation: ValidationPredictions, rule: BreastRule
) -> list[Leak]:
    """Fit a candidate's maps of breast and patient scores again; return a finding for each different value."""
    fitted = fit_score_maps(validation, calibration, rule)
    return _not_from(validation, name, _map_pairs("", used, fitted))


def audit_comparison(
    name: str, used: Comparison | None, validation: ValidationPredictions, rule: BreastRule
) -> list[Leak]:
    """Fit a candidate's comparison of breasts again on validation; return a finding for each different value."""
    require_validation(validation, f"comparison of {name}")
    if used is None:
        return []
    fitted = fit_comparison(validation, used.weight, rule)
    if fitted is None:
        return [
            Leak(
                "not-from-validation",
                (),
                f"{name}: breasts are compared, but no patient of validation has images of both breasts",
            )
        ]
    pairs = _pairs(" of compared breasts", used.calibration, fitted.calibration)
    pairs += [
        (f"threshold {goal} of the compared {level}", value, fitted.thresholds[level].get(goal, math.nan))
        for level, thresholds in used.thresholds.items()
        for goal, value in thresholds.items()
    ]
    return _not_from(validation, name, pairs + _map_pairs("compared ", used.maps, fitted.maps))


def _map_pairs(of: str, used: FittedMaps, fitted: FittedMaps) -> list[tuple[str, float, float]]:
    """Return (what, value, expected) of the maps' values; NaN, which equals nothing, for a map that one side lacks."""
    pairs = []
    for level, mine in used.items():
        values, expected = mine.map, fitted[level].map
        if values is None and expected is None:
            continue
        pairs += [
            (f"{key} of the map of the {of}{level}", getattr(values, key, math.nan), getattr(expected, key, math.nan))
            for key in ("slope", "intercept", "cases", "malignant")
        ]
    return pairs


def _pairs(of: str, used: Calibration, fitted: Calibration) -> list[tuple[str, float, float]]:
    pairs = [(f"temperature{of}", used.temperature, fitted.temperature)]
    return pairs + [
        (f"intercept {place}{of}", mine, expected)
        for place, (mine, expected) in enumerate(zip(used.intercepts, fitted.intercepts, strict=True))
    ]


def _not_from(validation: ValidationPredictions, name: str, pairs: Sequence[tuple[str, float, float]]) -> list[Leak]:
    """Return a finding for each (what, value, expected) whose value differs from the expected one."""
    return [
        Leak(
            "not-from-validation",
            (),
            f"{name}: {what} is {value:.6g}, and fitted on the "
            f"{len(validation.image_ids)} images of validation it is {expected:.6g}",
        )
        for what, value, expected in pairs
        # `not <=` instead of `>`, so that NaN, which stands for an absent threshold, differs from every value.
        if not abs(value - expected) <= _SAME * max(1.0, abs(expected))
    ]


def audit_training(digests: Mapping[str, str], records: Sequence[ImageRecord], folder: Path) -> list[Leak]:
    """Return a finding for each candidate that was trained on other images than the given ones.

    Args:
        digests: Data digest of each candidate's training, by name.
        records: Rows that a training job uses (`SegmentedData.learnt`).
        folder: Folder of the images.
    """
    expected = training_digest(records, folder)
    return [
        Leak(
            "trained-on-other-films",
            (),
            f"{name}: weights and batch statistics were fitted on images with digest {digest[:12]}; those of "
            f"{Split.TRAIN} and {Split.VALIDATION} have digest {expected[:12]}",
        )
        for name, digest in sorted(digests.items())
        if digest != expected
    ]


def audit_folds(name: str, held: OutOfFold, records: Sequence[ImageRecord], protocol: SplitProtocol) -> list[Leak]:
    """Return a finding for each patient (or other unit of the protocol) whose images are in two folds.

    The network of such a fold was trained on other images of a patient whose held-out image it predicts.

    Args:
        name: Name of the candidate.
        held: Its out-of-fold predictions.
        records: The held-out images, in any order.
        protocol: Defines which images must be in the same fold.
    """
    members: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for record, fold in zip(records, held.of(records).folds.tolist(), strict=True):
        members[protocol.unit(record)].append((fold, record.image_id))
    return [
        Leak(
            "held-out-film-known",
            tuple(image for _, image in images),
            f"{name}: the images {images[0][1]} and {images[-1][1]}, which protocol {protocol} keeps together, "
            f"were held out in folds {images[0][0]} and {images[-1][0]}",
        )
        for images in map(sorted, members.values())
        if images[0][0] != images[-1][0]
    ]


def training_digest(records: Sequence[ImageRecord], folder: Path) -> str:
    """Return the data digest that a training job must state, over rows and images of training and validation.

    Args:
        records: Rows in the manifest's order.
        folder: Folder that the rows' paths are relative to.
    """
    rows = {split: [record for record in records if record.split is split] for split in (Split.TRAIN, Split.VALIDATION)}
    files = {str(split): _files(members, folder) for split, members in rows.items()}
    return data_digest([record for members in rows.values() for record in members], files)


def _files(records: Sequence[ImageRecord], folder: Path) -> str:
    """Return the value of `ImageDataset.sha256` for these images."""
    digest, files = hashlib.sha256(), ImageFiles(folder)
    for record in records:
        digest.update(bytes.fromhex(record.sha256 or files.sha256(record.path)))
    return digest.hexdigest()


def with_findings(leakage: Mapping[str, Any], findings: Sequence[Leak], *, fits: int) -> dict[str, Any]:
    """Return the JSON values of a leakage report with additional findings and `fits` additional checked fits."""
    kept = [Leak(item["kind"], tuple(item["images"]), item["message"]) for item in leakage["findings"]]
    checked = {**leakage["checked"], "fits": leakage["checked"].get("fits", 0) + fits}
    return LeakageReport((*kept, *findings), checked).as_dict()


def audited(
    leakage: Mapping[str, Any], fits: Sequence[Fit], findings: Sequence[Leak], records: Sequence[ImageRecord]
) -> dict[str, Any]:
    """Return `leakage` and `fitted` of `evaluation.json`: the audit of the split together with that of the fits."""
    whole = with_findings(leakage, [*findings, *audit_fits(fits, records)], fits=len(fits))
    print(f"leakage audit: {whole['verdict']}", flush=True)
    return {"leakage": whole, "fitted": [fit.as_dict(records) for fit in fits]}
