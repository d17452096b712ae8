"""Proof on the files themselves that nothing crosses from one split into another."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mammopipe.processing.container.job import cores
from mammopipe.processing.datasets.manifest import ImageRecord, Split
from mammopipe.processing.files import sha256
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.splits.duplicate_index import FeatureStore, candidate_pairs
from mammopipe.processing.splits.near_duplicates import SAME_FILM, Features, Match, agreement, features, match
from mammopipe.processing.splits.pixel_confirmation import Confirmation, correlation, detail

_DIFFERENT_FEATURES = 8
"""Agreeing features from which on a pair of different images says what pixels of such pairs correlate like."""
_DIFFERENT_PAIRS = 200
"""Such pairs that are measured."""


@dataclass(frozen=True)
class Finding:
    """One leak: its kind, the images it joins, and a sentence about it."""

    kind: str
    images: tuple[str, ...]
    message: str


@dataclass(frozen=True)
class LeakageReport:
    """What `audit_leakage` found and how much it looked at."""

    findings: tuple[Finding, ...]
    checked: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def verdict(self) -> str:
        """One sentence for the gate and the report."""
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
    manifest: Sequence[ImageRecord], images: Path, *, copied: Collection[Split] = (Split.TRAIN,)
) -> LeakageReport:
    """Return the leaks between the splits of a manifest whose paths are relative to the folder `images`.

    Looked for are patients, source images, equal files and pictures of the same film in two splits, copies outside the
    training split, copies of nothing, images without a split, and files that are missing or not those of the manifest.
    Networks that were cross-validated trained on the films of both splits of the development set, each copy with its
    source's fold: then `copied` names both.
    """
    records = sorted(manifest, key=lambda record: record.image_id)
    broken = {finding.images[0]: finding for finding in _file_findings(records, images)}
    findings = [*_table_findings(records, copied), *broken.values()]
    whole = [record for record in records if record.image_id not in broken and record.split]
    findings += _equal_files(whole)
    with FeatureStore() as seen:
        unmatched = _look_at(whole, images, seen)
        same, confirmation = _same_films(whole, images, seen)
    findings += same
    checked = {
        "images": len(records),
        "patients": len({(record.dataset, record.patient_id) for record in records}),
        "originals": sum(not record.source_image_id for record in records),
        "copies": sum(bool(record.source_image_id) for record in records),
        "copies_unlike_their_source": len(unmatched),
        "features_of_one_film": SAME_FILM,
        "pairs_compared_by_pixels": confirmation.pairs,
        "correlation_limit": round(confirmation.limit, 3),
        "expected_false_alarms": float(f"{confirmation.expected_false_alarms:.2g}"),
    }
    return LeakageReport(tuple(findings), checked)


def exact_leaks(manifest: Sequence[ImageRecord], *, copied: Collection[Split] = (Split.TRAIN,)) -> list[Finding]:
    """Return the leaks that the manifest alone shows: ids and the SHA-256 of files; it takes no time.

    They are looked for before training, so that such a leak costs minutes and not the whole run.
    """
    records = sorted(manifest, key=lambda record: record.image_id)
    return [*_table_findings(records, copied), *_equal_files(records)]


def _file_findings(records: Iterable[ImageRecord], images: Path) -> Iterator[Finding]:
    for record in records:
        if not (images / record.path).is_file():
            yield Finding("missing-file", (record.image_id,), f"{record.path} is in the manifest but not on disk")
        elif record.sha256 and sha256(images / record.path) != record.sha256:
            yield Finding(
                "altered-file", (record.image_id,), f"{record.path} does not have the SHA-256 of the manifest"
            )


def _table_findings(records: Sequence[ImageRecord], copied: Collection[Split]) -> Iterator[Finding]:
    by_id = {record.image_id: record for record in records}
    for record in records:
        if record.split is None:
            yield Finding("no-split", (record.image_id,), f"image {record.image_id} belongs to no split")
        if not record.source_image_id:
            continue
        source = by_id.get(record.source_image_id)
        if source is None:
            yield Finding(
                "orphan-copy",
                (record.image_id,),
                f"image {record.image_id} is a copy of {record.source_image_id}, which the manifest lacks",
            )
        if record.split not in copied:
            yield Finding(
                "copy-outside-training",
                (record.image_id,),
                f"image {record.image_id} is an augmented copy in the split {record.split}",
            )
    yield from _crossings(records, "patient", "patient-in-two-splits")
    yield from _crossings(records, "source image", "source-in-two-splits")


def _crossings(records: Iterable[ImageRecord], what: str, kind: str) -> Iterator[Finding]:
    groups: dict[tuple[str, str], list[ImageRecord]] = defaultdict(list)
    for record in records:
        groups[str(record.dataset), record.patient_id if what == "patient" else record.original_id].append(record)
    for (_, name), members in sorted(groups.items()):
        first = {record.split: record.image_id for record in reversed(members)}
        if len(first) > 1:
            where = " and ".join(sorted(f"{split} (image {image})" for split, image in first.items()))
            yield Finding(kind, tuple(sorted(first.values())), f"{what} {name} is in {where}")


def _equal_files(records: Iterable[ImageRecord]) -> Iterator[Finding]:
    groups: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in records:
        if record.sha256:
            groups[record.sha256].append(record)
    for members in groups.values():
        if len({record.split for record in members}) > 1:
            names = tuple(record.image_id for record in members)
            yield Finding("equal-files", names, f"images {' and '.join(names[:2])} are one file in two splits")


def _look_at(records: Sequence[ImageRecord], images: Path, seen: FeatureStore) -> list[str]:
    """Store the features of the originals, and of the copies that do not show their source; return the latter's ids."""
    originals = [record for record in records if not record.source_image_id]
    copies = [record for record in records if record.source_image_id]

    def look(record: ImageRecord) -> Features:
        return features(read_mammogram(images / record.path).pixels)

    def unlike_its_source(record: ImageRecord) -> Features | None:
        item, source = look(record), record.source_image_id
        return item if source not in stored or agreement(item, seen[source]) < SAME_FILM else None

    # OpenCV works outside the interpreter's lock, so threads share the cores without a copy of the pictures.
    with ThreadPoolExecutor(cores()) as pool:
        for record, item in zip(originals, pool.map(look, originals), strict=True):
            seen.add(record.image_id, item)
        stored = set(seen)
        for record, unlike in zip(copies, pool.map(unlike_its_source, copies), strict=True):
            if unlike:
                seen.add(record.image_id, unlike)
    return [name for name in seen if name not in stored]


def _same_films(
    records: Sequence[ImageRecord], images: Path, seen: Mapping[str, Features]
) -> tuple[list[Finding], Confirmation]:
    """Compare the originals, and the copies that do not show their own source, across the splits.

    A pair is a finding where the features agree and the pixels, too.
    """
    by_id = {record.image_id: record for record in records}
    pairs = candidate_pairs(seen, [str(by_id[name].split) for name in seen])

    def correlated(pair: tuple[str, str], found: Match) -> float | None:
        if found.transform is None:
            return None
        first, second = (detail(read_mammogram(images / by_id[name].path).pixels) for name in pair)
        return correlation(first, second, found.transform)

    with ThreadPoolExecutor(cores()) as pool:
        matches = list(pool.map(lambda pair: match(seen[pair[0]], seen[pair[1]]), pairs))
        alike = [place for place, found in enumerate(matches) if found.agreeing >= SAME_FILM]
        other = [place for place, found in enumerate(matches) if _DIFFERENT_FEATURES <= found.agreeing < SAME_FILM]
        other = other[:: -(-len(other) // _DIFFERENT_PAIRS) or 1]
        measured = list(pool.map(lambda place: correlated(pairs[place], matches[place]), [*alike, *other]))
    different = [value for value in measured[len(alike) :] if value is not None]
    confirmation = Confirmation.of(different, len(alike))
    findings = []
    for place, value in zip(alike, measured, strict=False):
        # Without a common block the pixels cannot say anything: the features alone decide then.
        if value is None or value >= confirmation.limit:
            findings.append(_same_film([by_id[name] for name in pairs[place]], matches[place], value))
    return findings, confirmation


def _same_film(pair: Sequence[ImageRecord], found: Match, value: float | None) -> Finding:
    first, second = sorted(pair, key=lambda record: list(Split).index(record.split or Split.TEST))
    pixels = "they share no whole block of pixels" if value is None else f"their pixels correlate by {value:.2f}"
    return Finding(
        "same-film",
        (first.image_id, second.image_id),
        f"images {first.image_id} ({first.split}) and {second.image_id} ({second.split}) show the same film: "
        f"{found.agreeing} features agree, different films have fewer than {SAME_FILM}, and {pixels}",
    )
