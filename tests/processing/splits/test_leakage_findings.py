"""The findings of the leakage audit for each kind of leak, on small textures, which take milliseconds."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mammopipe.processing.datasets.manifest import ImageRecord, Label, Lesion, Split, from_row, split_digest, to_row
from mammopipe.processing.files import sha256
from mammopipe.processing.images.mammogram import write_png
from mammopipe.processing.splits.leakage_audit import Leak, LeakageReport, audit_leakage, exact_leaks
from mammopipe.processing.splits.near_duplicates import SAME_IMAGE, Variant

TRAIN, VALIDATION, TEST = Split.TRAIN, Split.VALIDATION, Split.TEST
Pixels = NDArray[np.uint16]


def row(name: str, split: Split | None, patient: str = "", **values: object) -> ImageRecord:
    """Return the record of an image, of a patient of its own unless one is given."""
    return ImageRecord(name, patient or f"p-{name}", "mias", None, None, Label.NORMAL, split, **values)  # type: ignore[arg-type]


def found(*records: ImageRecord, **options: object) -> list[tuple[str, tuple[str, ...], str]]:
    return [(each.kind, each.images, each.message) for each in exact_leaks(records, **options)]  # type: ignore[arg-type]


# --- what the manifest alone shows


def test_a_clean_manifest_has_no_finding() -> None:
    copy = row("a-1", TRAIN, "p-a", source_image_id="a", sha256="3")
    assert found(row("a", TRAIN, sha256="1"), copy, row("b", TEST, sha256="2"), row("c", VALIDATION)) == []


def test_a_patient_in_two_splits_is_named_with_one_image_of_each() -> None:
    records = [row("d", TEST, "p"), row("c", TRAIN, "p"), row("a", TRAIN, "p"), row("b", TRAIN)]
    assert found(*records) == [
        ("patient-in-two-splits", ("a", "d"), "patient p is in test (image d) and train (image a)")
    ]
    other = replace(records[0], dataset="rsna")
    assert found(other, *records[1:]) == [], "an id is of one person only within its dataset"


def test_a_source_in_two_splits_is_found_beside_the_copy_where_none_may_be() -> None:
    records = [row("a", TRAIN, "p"), row("a-1", VALIDATION, "q", source_image_id="a")]
    source = ("source-in-two-splits", ("a", "a-1"), "source image a is in train (image a) and validation (image a-1)")
    message = "image a-1 is an augmented copy in the split validation"
    assert found(*records) == [("copy-outside-training", ("a-1",), message), source]
    assert found(*records, copied=(TRAIN, VALIDATION)) == [source]


def test_a_copy_without_its_source_and_an_image_without_a_split_are_named() -> None:
    assert found(row("a-1", TRAIN, source_image_id="a")) == [
        ("orphan-copy", ("a-1",), "image a-1 is a copy of a, which the manifest lacks")
    ]
    assert found(row("b", None), row("c", None, source_image_id="b"))[:2] == [
        ("no-split", ("b",), "image b belongs to no split"),
        ("no-split", ("c",), "image c belongs to no split"),
    ]


def test_equal_files_of_two_splits_are_named() -> None:
    same = {"sha256": "7" * 64}
    assert found(row("c", TEST, **same), row("a", TRAIN, **same), row("b", TRAIN, **same)) == [
        ("equal-files", ("a", "b", "c"), "images c (test) and a (train) are one file")
    ]
    assert found(row("a", TRAIN, **same), row("b", TRAIN, **same)) == [], "within one split"
    assert found(row("a", TRAIN), row("b", TEST)) == [], "files without a digest are not compared"
    three = [row("a", TRAIN, **same), row("b", VALIDATION, **same), row("c", TEST, **same)]
    assert found(*three)[0][2] == "images c (test) and a (train) are one file"


def test_a_label_or_split_that_changed_after_the_split_is_named() -> None:
    placed = row("a", TRAIN).placed(TRAIN, 1)
    assert found(placed) == []
    edited = replace(placed, label=Label.MALIGNANT)
    message = (
        "image a (train) has the label malignant, which is not the one, or not the split, that it had when the images "
        "were split"
    )
    assert found(edited) == [("label-changed", ("a",), message)]
    moved = replace(placed, split=TEST)
    assert [kind for kind, _, _ in found(moved)] == ["label-changed"]
    copy = row("a-1", TRAIN, "p-a", source_image_id="a", label_digest="0" * 16)
    assert found(row("a", TRAIN), copy) == [], "a copy has the label of its source"
    assert placed.label_digest == split_digest(placed)


def test_a_copy_with_another_label_than_its_source_is_named_unless_the_source_was_edited() -> None:
    copy = replace(row("a-1", TRAIN, "p-a", source_image_id="a"), label=Label.MALIGNANT)
    message = "image a-1 has the label malignant, its source a normal"
    assert found(row("a", TRAIN), copy) == [("label-changed", ("a-1",), message)]
    edited = replace(row("a", TRAIN).placed(TRAIN, 1), label=Label.BENIGN)
    assert [images for _, images, _ in found(edited, copy)] == [("a",)]


def test_lesions_that_changed_after_the_split_are_named_and_moved_ones_are_not() -> None:
    circle = Lesion(10, 20.00049, 5, Label.MALIGNANT, "CIRC")
    placed = row("a", TRAIN, lesions=(circle,)).placed(TRAIN, 1)
    moved = placed.with_moved([replace(circle, x=3.5)], path="a.png")
    copied = moved.with_moved([], image_id="a-1", source_image_id="a")
    assert (moved.path, moved.lesions[0].x, moved.label_digest[:16]) == ("a.png", 3.5, placed.label_digest[:16])
    assert found(placed, row("b", TEST).placed(TEST, None)) == found(moved, copied) == []
    assert found(from_row(to_row(moved), "")) == [], "a manifest rounds and writes whole numbers as it does others"
    message = "image a (train) has lesions that were edited after the images were split"
    for other in ([], [circle, circle], [replace(circle, x=11)], [replace(circle, label=Label.BENIGN)]):
        edited = replace(placed, lesions=tuple(other))
        later = edited.with_moved([replace(circle, x=1)])
        assert found(edited) == found(later) == [("lesions-changed", ("a",), message)], "also where a job moved them"
    assert [kind for kind, *_ in found(moved, replace(copied, lesions=(circle,)))] == ["lesions-changed"], "of a copy"
    both = replace(placed, lesions=(), label=Label.MALIGNANT)
    assert [kind for kind, *_ in found(both)] == ["label-changed", "lesions-changed"]
    old = replace(placed, label_digest=placed.label_digest[:16], lesions=())
    assert found(old) == found(old.with_moved([circle])) == [], "older tables have no digest of lesions"
    assert row("d", TRAIN).with_moved([circle]).label_digest == "", "a table that was never split has no digest"


def test_the_verdict_names_the_kinds_and_the_first_finding() -> None:
    findings = (Leak("z", ("a",), "this"), Leak("b", ("c", "d"), "that"), Leak("z", ("e",), "more"))
    report = LeakageReport(findings, {"images": 3})
    assert report.verdict == "failed with 3 findings (b, z); the first: this" and not report.passed
    assert report.as_dict() == {
        "passed": False,
        "verdict": report.verdict,
        "checked": {"images": 3},
        "findings": [
            {"kind": "z", "images": ["a"], "message": "this"},
            {"kind": "b", "images": ["c", "d"], "message": "that"},
            {"kind": "z", "images": ["e"], "message": "more"},
        ],
    }
    clean = LeakageReport((), {"images": 9})
    assert clean.verdict == "passed: no patient, source image or picture of the 9 images is in two splits"
    assert clean.as_dict()["passed"] is True and clean.as_dict()["findings"] == []


# --- what the pixels show


def texture(seed: int) -> Pixels:
    """Return smooth noise on an ellipse in air: as many features as a breast, other ones for each seed."""
    noise = np.random.default_rng(seed).normal(size=(320, 192)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    pixels = np.clip(30000 + 12000 * smooth / smooth.std(), 1, 65535).astype(np.uint16)
    mask = cv2.ellipse(np.zeros((320, 192), np.uint8), (96, 160), (85, 150), 0, 0, 360, 1, -1)
    return np.asarray(pixels * mask, np.uint16)


def lighter(pixels: Pixels) -> Pixels:
    """Return the picture with another contrast: other bytes, the same original."""
    return np.rint(65535 * (pixels / 65535) ** 0.8).astype(np.uint16)


def stored(folder: Path, record: ImageRecord, pixels: Pixels) -> ImageRecord:
    path = f"{record.image_id}.png"
    write_png(folder / path, pixels)
    return replace(record, path=path, sha256=sha256(folder / path))


def kinds(report: LeakageReport) -> list[tuple[str, tuple[str, ...]]]:
    return [(finding.kind, finding.images) for finding in report.findings]


def test_a_clean_set_is_counted(tmp_path: Path) -> None:
    records = [
        stored(tmp_path, row("a", TRAIN, "p"), texture(1)),
        stored(tmp_path, row("b", TRAIN, "p"), texture(2)),
        stored(tmp_path, row("c", TEST).placed(TEST, None), texture(3)),
        stored(tmp_path, row("a-1", TRAIN, "p", source_image_id="a"), lighter(texture(1))),
        stored(tmp_path, row("b-1", TRAIN, "p", source_image_id="b"), texture(4)),
    ]
    report = audit_leakage(records, tmp_path)
    assert report.passed, report.verdict
    assert report.checked == {
        "images": 5,
        "patients": 2,
        "originals": 3,
        "copies": 2,
        "copies_unlike_their_source": 1,
        "folds": 0,
        "labels_of_the_split": 1,
        "features_of_one_film": SAME_IMAGE,
        "pairs_compared_by_pixels": 0,
        "correlation_limit": 0.75,
        "pairs_compared_place_by_place": 0,
        "limit_of_fitting_places": 0.529,
        "expected_false_alarms": 0.0,
    }


@pytest.mark.parametrize("altered", list(Variant))
def test_one_image_under_two_names_is_found_in_any_variant(tmp_path: Path, altered: Variant) -> None:
    records = [
        stored(tmp_path, row("z-train", TRAIN), texture(1)),
        stored(tmp_path, row("other", TRAIN), texture(2)),
        stored(tmp_path, row("a-test", TEST), altered.of(lighter(texture(1)))),
    ]
    [finding] = audit_leakage(records, tmp_path).findings
    assert (finding.kind, finding.images) == ("same-film", ("z-train", "a-test")), "the training image comes first"
    shown = "" if altered is Variant.AS_IT_IS else f", one {altered}"
    start = f"images z-train (train) and a-test (test) show the same image{shown}: "
    assert finding.message.startswith(start)
    agreeing, rest = finding.message.removeprefix(start).split(" ", 1)
    assert int(agreeing) >= SAME_IMAGE
    assert rest.startswith(f"features agree, different images have fewer than {SAME_IMAGE}, and their pixels correlate")
    assert 0.9 < float(rest.rsplit(" ", 1)[1]) <= 1


def test_an_altered_image_is_found_between_the_smaller_splits_too(tmp_path: Path) -> None:
    records = [
        stored(tmp_path, row("a", TRAIN), texture(2)),
        stored(tmp_path, row("b", TRAIN), texture(3)),
        stored(tmp_path, row("c", VALIDATION), texture(1)),
        stored(tmp_path, row("d", TEST), Variant.MIRRORED.of(lighter(texture(1)))),
    ]
    report = audit_leakage(records, tmp_path)
    assert kinds(report) == [("same-film", ("c", "d"))]
    # The picture of c with the mirrored variant of d, and the other way round; two variants are not compared.
    assert report.checked["pairs_compared_by_pixels"] == 2


def test_a_breast_at_another_position_in_its_image_is_found(tmp_path: Path) -> None:
    records = [
        stored(tmp_path, row("a", TRAIN), texture(1)),
        stored(tmp_path, row("b", TEST), np.roll(texture(1), (9, 9), axis=(0, 1))),
    ]
    [finding] = audit_leakage(records, tmp_path).findings
    assert finding.images == ("a", "b") and float(finding.message.rsplit(" ", 1)[1]) > 0.9


def test_each_leaked_image_is_a_separate_finding(tmp_path: Path) -> None:
    records = [stored(tmp_path, row(f"a{seed}", TRAIN), texture(seed)) for seed in (1, 2)]
    records += [stored(tmp_path, row(f"b{seed}", TEST), lighter(texture(seed))) for seed in (1, 2)]
    assert kinds(audit_leakage(records, tmp_path)) == [("same-film", ("a1", "b1")), ("same-film", ("a2", "b2"))]


def test_an_image_without_a_whole_block_is_found_by_its_features(tmp_path: Path) -> None:
    strip = texture(1)
    strip[:, :75] = strip[:, 115:] = 0
    records = [stored(tmp_path, row("a", TRAIN), strip), stored(tmp_path, row("b", TEST), lighter(strip))]
    [finding] = audit_leakage(records, tmp_path).findings
    assert finding.images == ("a", "b") and finding.message.endswith("and they share no whole block of pixels")


def test_a_copy_that_shows_its_source_is_not_compared_and_one_that_does_not_is(tmp_path: Path) -> None:
    copied = (TRAIN, TEST)
    records = [
        stored(tmp_path, row("a", TRAIN, "p"), texture(1)),
        stored(tmp_path, row("b", TEST, "q"), texture(2)),
        stored(tmp_path, row("a-1", TRAIN, "p", source_image_id="a"), Variant.MIRRORED.of(lighter(texture(1)))),
        # It says that it shows b, and shows a, which is in another split.
        stored(tmp_path, row("b-1", TEST, "q", source_image_id="b"), lighter(lighter(texture(1)))),
    ]
    report = audit_leakage(records, tmp_path, copied=copied)
    assert report.checked["copies_unlike_their_source"] == 1 and report.checked["pairs_compared_by_pixels"] == 1
    assert kinds(report) == [("same-film", ("a", "b-1"))]


def test_missing_and_altered_files_are_named_and_left_out(tmp_path: Path) -> None:
    kept = stored(tmp_path, row("a", TRAIN), texture(1))
    altered = replace(stored(tmp_path, row("b", TEST), texture(1)), sha256="0" * 64)
    missing = replace(row("c", TEST), path="c.png", sha256=kept.sha256)
    unstated = replace(stored(tmp_path, row("d", TEST), texture(4)), sha256="")
    report = audit_leakage([unstated, missing, altered, kept], tmp_path)
    assert [(each.kind, each.images, each.message) for each in report.findings] == [
        ("altered-file", ("b",), "b.png does not have the SHA-256 of the manifest"),
        ("missing-file", ("c",), "c.png is in the manifest but not on disk"),
    ]


def test_folds_are_compared_in_place_of_splits_where_they_are_given(tmp_path: Path) -> None:
    records = [
        stored(tmp_path, row("a", TRAIN), texture(1)),
        stored(tmp_path, row("b", TRAIN), lighter(texture(1))),
        stored(tmp_path, row("b-1", TRAIN, "p-b", source_image_id="b"), lighter(lighter(texture(1)))),
        stored(tmp_path, row("c", TEST), texture(2)),
    ]

    def audited(folds: Mapping[str, str] | None) -> LeakageReport:
        return audit_leakage(records, tmp_path, folds=folds)

    assert audited(None).passed and audited({"a": "fold 0", "b": "fold 0"}).passed
    report = audited({"a": "fold 0", "b": "fold 1"})
    assert kinds(report) == [("same-film", ("a", "b"))] and report.checked["folds"] == 2
    assert "a (fold 0) and b (fold 1)" in report.verdict


def test_the_audit_finds_what_the_manifest_shows_too(tmp_path: Path) -> None:
    blank = np.zeros((320, 192), np.uint16)
    records = [
        stored(tmp_path, row("a", TRAIN), blank),
        stored(tmp_path, row("b", TEST), blank),
        stored(tmp_path, replace(row("c", TEST).placed(TEST, None), label=Label.BENIGN), texture(1)),
        stored(tmp_path, row("d", VALIDATION, "p-c"), texture(2)),
        stored(tmp_path, row("e", VALIDATION, "p-c", source_image_id="d"), texture(2)),
    ]
    report = audit_leakage(records, tmp_path)
    assert kinds(report) == [
        ("copy-outside-training", ("e",)),
        ("patient-in-two-splits", ("c", "d")),
        ("equal-files", ("a", "b")),
        ("label-changed", ("c",)),
    ]


def test_a_blank_image_has_no_features_to_compare(tmp_path: Path) -> None:
    records = [
        stored(tmp_path, row(name, split), pixels)
        for name, split, pixels in (
            ("a", TRAIN, texture(1)),
            ("b", TEST, np.zeros((320, 192), np.uint16)),
            ("c", VALIDATION, texture(2)),
        )
    ]
    report = audit_leakage(records, tmp_path)
    assert report.passed and report.checked["pairs_compared_by_pixels"] == 0


def test_nothing_leaks_from_an_empty_manifest(tmp_path: Path) -> None:
    report = audit_leakage([], tmp_path)
    assert report.passed and report.checked["images"] == report.checked["patients"] == 0
