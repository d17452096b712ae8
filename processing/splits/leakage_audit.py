"""Verifies on the image files that nothing leaks from one split into another.

No table shows a renamed or altered copy. So images of different splits are compared, by features and then by pixels.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mammopipe.processing.container.job import cores
from mammopipe.processing.datasets.manifest import ImageRecord, Split, split_digest
from mammopipe.processing.images.image_files import ImageFiles
from mammopipe.processing.splits.duplicate_index import FeatureStore, candidate_pairs
from mammopipe.processing.splits.local_agreement import LEAST_HEIGHT, deformed_pairs
from mammopipe.processing.splits.near_duplicates import (
    SAME_IMAGE,
    Features,
    Match,
    Variant,
    features,
    match,
)
from mammopipe.processing.splits.pixel_confirmation import Confirmation, Detail, correlation, detail

_DIFFERENT_FEATURES = 8
"""Pairs of different images with at least this number of agreeing features give the distribution of correlations."""
_DIFFERENT_PAIRS = 200
"""Greatest number of such pairs to measure."""
_DETAILS = 64
"""Number of images whose detail is kept, since pairs of the same image follow each other."""
_DEFORMED_FEATURES = 10
"""Pairs with at least this number of agreeing features may be deformed copies; measured on mini-MIAS, elastically
deformed by 4 % of the height."""


@dataclass(frozen=True)
class Leak:
    """One leak: its kind, the images involved, and a message."""

    kind: str
    images: tuple[str, ...]
    message: str


@dataclass(frozen=True)
class LeakageReport:
    """The findings of `audit_leakage` and the extent of its checks."""

    findings: tuple[Leak, ...]
    checked: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    @property
    def verdict(self) -> str:
        """The result in one sentence, for the gate and the report."""
        if self.passed:
            return (
                f"passed: no patient, source image or picture of the {self.checked['images']} images is in two splits"
            )
        kinds = ", ".join(sorted({finding.kind for finding in self.findings}))
        return f"failed with {len(self.findings)} findings ({kinds}); the first: {self.findings[0].message}"

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "passed": self.passed,
            "verdict": self.verdict,
            "checked": dict(self.checked),
            "findings": [asdict(finding) | {"images": list(finding.images)} for finding in self.findings],
        }


def audit_leakage(
    manifest: Sequence[ImageRecord],
    images: Path,
    *,
    copied: Collection[Split] = (Split.TRAIN,),
    folds: Mapping[str, str] | None = None,
) -> LeakageReport:
    """Return the leaks between the splits of a manifest.

    The audit reports patients, source images, equal files and images of the same original in two splits; copies outside
    the training split or without a source; images without a split; missing or altered files; and labels and lesions
    that were edited after the split (`label_digest`).

    Cross-validated networks train on the images of both splits of the development set, and each copy is in the fold of
    its source. Folds are then compared like splits, because thresholds and the gate depend on held-out images.

    Args:
        manifest: The records.
        images: The folder to which the paths of the records are relative.
        copied: The splits that may hold copies; both development splits for cross-validated networks.
        folds: The fold of each development image by image id, for cross-validated networks.
    """
    records, files = sorted(manifest, key=lambda record: record.image_id), ImageFiles(images)
    broken = {finding.images[0]: finding for finding in _file_findings(records, files)}
    findings = [*_table_findings(records, copied), *broken.values()]
    whole = [record for record in records if record.image_id not in broken and record.split]
    group_of = {record.image_id: (folds or {}).get(record.original_id, str(record.split)) for record in whole}
    findings += [*_equal_files(whole, group_of), *_changed_labels(records)]
    with FeatureStore() as seen:
        unmatched = _store_features(whole, files, seen, group_of)
        same, confirmation, local = _same_images(whole, files, seen, group_of)
    findings += same
    checked = {
        "images": len(records),
        "patients": len({(record.dataset, record.patient_id) for record in records}),
        "originals": sum(not record.source_image_id for record in records),
        "copies": sum(bool(record.source_image_id) for record in records),
        "copies_unlike_their_source": len(unmatched),
        "folds": len(set((folds or {}).values())),
        "labels_of_the_split": sum(bool(record.label_digest) for record in records),
        "features_of_one_film": SAME_IMAGE,
        "pairs_compared_by_pixels": confirmation.pairs,
        "correlation_limit": round(confirmation.limit, 3),
        "pairs_compared_place_by_place": local.pairs,
        "limit_of_fitting_places": round(local.limit, 3),
        "expected_false_alarms": float(f"{confirmation.expected_false_alarms + local.expected_false_alarms:.2g}"),
    }
    return LeakageReport(tuple(findings), checked)


def exact_leaks(manifest: Sequence[ImageRecord], *, copied: Collection[Split] = (Split.TRAIN,)) -> list[Leak]:
    """Return the leaks that the manifest alone shows: by ids, by the SHA-256 of files, and by labels edited later.

    This takes hardly any time. It runs before training, so that such a leak costs minutes and not a whole run.
    """
    records = sorted(manifest, key=lambda record: record.image_id)
    splits = {record.image_id: str(record.split) for record in records}
    return [*_table_findings(records, copied), *_equal_files(records, splits), *_changed_labels(records)]


def _file_findings(records: Iterable[ImageRecord], files: ImageFiles) -> Iterator[Leak]:
    for record in records:
        if record.path not in files:
            yield Leak("missing-file", (record.image_id,), f"{record.path} is in the manifest but not on disk")
        elif record.sha256 and files.sha256(record.path) != record.sha256:
            yield Leak("altered-file", (record.image_id,), f"{record.path} does not have the SHA-256 of the manifest")


def _table_findings(records: Sequence[ImageRecord], copied: Collection[Split]) -> Iterator[Leak]:
    by_id = {record.image_id: record for record in records}
    for record in records:
        if record.split is None:
            yield Leak("no-split", (record.image_id,), f"image {record.image_id} belongs to no split")
        if not record.source_image_id:
            continue
        source = by_id.get(record.source_image_id)
        if source is None:
            yield Leak(
                "orphan-copy",
                (record.image_id,),
                f"image {record.image_id} is a copy of {record.source_image_id}, which the manifest lacks",
            )
        elif source.label is not record.label and not _changed(source)[0]:
            yield Leak(
                "label-changed",
                (record.image_id,),
                f"image {record.image_id} has the label {record.label}, its source {source.image_id} {source.label}",
            )
        if record.split not in copied:
            yield Leak(
                "copy-outside-training",
                (record.image_id,),
                f"image {record.image_id} is an augmented copy in the split {record.split}",
            )
    yield from _crossings(records, "patient", "patient-in-two-splits")
    yield from _crossings(records, "source image", "source-in-two-splits")


def _crossings(records: Iterable[ImageRecord], what: str, kind: str) -> Iterator[Leak]:
    groups: dict[tuple[str, str], list[ImageRecord]] = defaultdict(list)
    for record in records:
        groups[str(record.dataset), record.patient_id if what == "patient" else record.original_id].append(record)
    for (_, name), members in sorted(groups.items()):
        first = {record.split: record.image_id for record in reversed(members)}
        if len(first) > 1:
            where = " and ".join(sorted(f"{split} (image {image})" for split, image in first.items()))
            yield Leak(kind, tuple(sorted(first.values())), f"{what} {name} is in {where}")


def _changed(record: ImageRecord) -> tuple[bool, bool]:
    """Return whether label or split, and whether the lesions, were edited since the images were split."""
    kept, now = record.label_digest.partition("-"), split_digest(record).partition("-")
    # A record has no digest before the split, and only that of the label if an older version split it.
    return bool(kept[0]) and kept[0] != now[0], bool(kept[2]) and kept[2] != now[2]


def _changed_labels(records: Iterable[ImageRecord]) -> Iterator[Leak]:
    """Yield the originals whose label or split, and the images, copies too, whose lesions were edited since."""
    for record in records:
        label, lesions = _changed(record)
        if label and not record.source_image_id:
            yield Leak(
                "label-changed",
                (record.image_id,),
                f"image {record.image_id} ({record.split}) has the label {record.label}, which is not the one, or not "
                f"the split, that it had when the images were split",
            )
        if lesions:
            yield Leak(
                "lesions-changed",
                (record.image_id,),
                f"image {record.image_id} ({record.split}) has lesions that were edited after the images were split",
            )


def _equal_files(records: Iterable[ImageRecord], group_of: Mapping[str, str]) -> Iterator[Leak]:
    groups: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in records:
        if record.sha256:
            groups[record.sha256].append(record)
    for members in groups.values():
        found = {group_of[record.image_id]: record.image_id for record in reversed(members)}
        if len(found) > 1:
            names = tuple(record.image_id for record in members)
            where = " and ".join(f"{image} ({group})" for group, image in sorted(found.items())[:2])
            yield Leak("equal-files", names, f"images {where} are one file")


def _variant_name(image_id: str, variant: Variant) -> str:
    """Return the name under which a variant's features are stored; that of the unaltered image is its id."""
    return image_id if variant is Variant.AS_IT_IS else f"{image_id}\n{variant}"


def _named(name: str) -> tuple[str, Variant]:
    image_id, _, variant = name.partition("\n")
    return image_id, Variant(variant) if variant else Variant.AS_IT_IS


def _store_features(
    records: Sequence[ImageRecord], files: ImageFiles, seen: FeatureStore, group_of: Mapping[str, str]
) -> list[str]:
    """Store the features of originals and of copies that do not resemble their source; return the ids of these copies.

    Altered variants are stored, too, except for the largest group. So of any two images of different groups, at least
    one has its variants stored.
    """
    originals = [record for record in records if not record.source_image_id]
    copies = [record for record in records if record.source_image_id]

    sizes = Counter(group_of[record.image_id] for record in originals)
    largest = max(sizes, key=lambda group: (sizes[group], group), default="")

    def features_of(record: ImageRecord) -> dict[Variant, Features]:
        pixels = files.pixels(record.path)
        wanted = (Variant.AS_IT_IS,) if group_of[record.image_id] == largest else tuple(Variant)
        return {variant: features(variant.of(pixels)) for variant in wanted}

    def unlike_its_source(record: ImageRecord) -> dict[Variant, Features] | None:
        """Return the copy's features by variant, or `None` if it resembles its source."""
        pixels, source = files.pixels(record.path), record.source_image_id
        # Our augmentation mirrors images: a copy resembles its source if any of its variants does.
        for variant in Variant:
            if source in stored and match(features(variant.of(pixels)), seen[source]).agreeing >= SAME_IMAGE:
                return None
        return features_of(record)

    # OpenCV releases the interpreter's lock, so threads use all cores without copying the images.
    with ThreadPoolExecutor(cores()) as pool:
        for record, item in zip(originals, pool.map(features_of, originals), strict=True):
            for variant, found in item.items():
                seen.add(_variant_name(record.image_id, variant), found)
        stored = set(seen)
        for record, unlike in zip(copies, pool.map(unlike_its_source, copies), strict=True):
            for variant, found in (unlike or {}).items():
                seen.add(_variant_name(record.image_id, variant), found)
    return [name for name in seen if name not in stored and _named(name)[1] is Variant.AS_IT_IS]


def _same_images(
    records: Sequence[ImageRecord], files: ImageFiles, seen: Mapping[str, Features], group_of: Mapping[str, str]
) -> tuple[list[Leak], Confirmation, Confirmation]:
    """Compare the originals, and the copies that do not resemble their source, between groups: splits or folds.

    A pair is a finding if both its features and its pixels agree, under one transform or place by place. Returns
    the findings, and how pixels confirmed the pairs of each kind.
    """
    by_id = {record.image_id: record for record in records}
    named = {name: _named(name) for name in seen}
    pairs = candidate_pairs(
        seen,
        [group_of[image_id] for image_id, _ in named.values()],
        [variant is not Variant.AS_IT_IS for _, variant in named.values()],
    )

    @lru_cache(_DETAILS)
    def shown(name: str) -> Detail:
        image_id, variant = named[name]
        return detail(variant.of(files.pixels(by_id[image_id].path)))

    def correlated(pair: tuple[str, str], found: Match) -> float | None:
        """Return the correlation of two images' pixels, registered by the match; `None` if it has no transform."""
        return None if found.transform is None else correlation(shown(pair[0]), shown(pair[1]), found.transform)

    with ThreadPoolExecutor(cores()) as pool:
        matches = list(pool.map(lambda pair: match(seen[pair[0]], seen[pair[1]]), pairs))
        alike = [place for place, found in enumerate(matches) if found.agreeing >= SAME_IMAGE]
        other = [place for place, found in enumerate(matches) if _DIFFERENT_FEATURES <= found.agreeing < SAME_IMAGE]
        other = other[:: -(-len(other) // _DIFFERENT_PAIRS) or 1]
        measured = list(pool.map(lambda place: correlated(pairs[place], matches[place]), [*alike, *other]))
        different = [value for value in measured[len(alike) :] if value is not None]
        confirmation = Confirmation.of(different, len(alike))
        # Without a common block, the pixels cannot be compared, and the features alone decide.
        same = {
            place: f"{matches[place].agreeing} features agree, different images have fewer than {SAME_IMAGE}, and "
            + ("they share no whole block of pixels" if value is None else f"their pixels correlate by {value:.2f}")
            for place, value in zip(alike, measured, strict=False)
            if value is None or value >= confirmation.limit
        }
        left = [n for n, found in enumerate(matches) if n not in same and found.agreeing >= _DEFORMED_FEATURES]
        # All images of a segmented dataset have one height, so the first one shows it.
        if left and files.pixels(records[0].path).shape[0] < LEAST_HEIGHT:
            left = []
        deformed, local = deformed_pairs([pairs[place] for place in left], seen, shown, pool)
        same |= {left[place]: reason for place, reason in deformed.items()}
    findings: list[Leak] = []
    for place, reason in sorted(same.items()):
        finding = _same_image([named[name] for name in pairs[place]], by_id, group_of, reason)
        # A pair may agree under several variants, if an image is symmetric for example: report it once.
        if all(before.images != finding.images for before in findings):
            findings.append(finding)
    return findings, confirmation, local


def _same_image(
    pair: Sequence[tuple[str, Variant]],
    by_id: Mapping[str, ImageRecord],
    group_of: Mapping[str, str],
    reason: str,
) -> Leak:
    """Return the finding that two images are the same, the image of the earlier split first."""
    records = [by_id[image_id] for image_id, _ in pair]
    first, second = sorted(records, key=lambda record: list(Split).index(record.split or Split.TEST))
    altered = next((variant for _, variant in pair if variant is not Variant.AS_IT_IS), None)
    return Leak(
        "same-film",
        (first.image_id, second.image_id),
        f"images {first.image_id} ({group_of[first.image_id]}) and {second.image_id} ({group_of[second.image_id]}) "
        f"show the same image{f', one {altered}' if altered else ''}: {reason}",
    )
