"""The register of test reads: what an entry says, what counts as the same test, and that no entry is ever lost."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Split, View
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.splits import read_register
from mammopipe.processing.splits.read_register import (
    Read,
    account,
    append,
    entries,
    frozen_test_digest,
    merge,
    sentence,
)

FIRST = Read("2026-01-02T03:04:05Z", "t", 8, False, "patient", "alexnet", "m", "c", 0.6, None)


def row(image_id: str, split: Split, label: Label = Label.NORMAL, **changes: object) -> ImageRecord:
    record = ImageRecord(image_id, image_id[:4], "mias", Laterality.LEFT, View.MLO, label, split)
    return replace(record, **changes)  # type: ignore[arg-type]


def test_entries_written_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        files = list(pool.map(lambda _: append(tmp_path, FIRST), range(100)))
    assert len(set(files)) == 100 and entries(tmp_path) == [FIRST] * 100
    assert all(re.fullmatch(r"20260102T030405Z-[0-9a-f]{16}\.json", path.name) for path in files)


def test_entries_are_in_the_order_of_their_dates_and_other_files_are_none(tmp_path: Path) -> None:
    head = read_register.write_head(tmp_path)
    assert head == tmp_path / "register.json"
    assert json.loads(head.read_text()) == {"schema": 1, "about": read_register.ABOUT}
    (tmp_path / "x.json.part").write_text("no JSON")
    later = replace(FIRST, date="2026-03-02T03:04:05Z")
    (tmp_path / "a.json").write_text(json.dumps(asdict(later)))
    (tmp_path / "b.json").write_text(json.dumps(asdict(FIRST)))
    assert entries(tmp_path) == [FIRST, later]


def test_merging_adds_what_is_missing_and_changes_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    read_register.write_head(source)
    path = append(source, FIRST)
    assert merge(source, target) == 1
    path.write_text(json.dumps({**json.loads(path.read_text()), "macro_auc": 0.9}))
    append(source, replace(FIRST, date="2025-12-31T00:00:00Z"))
    assert merge(source, target) == 1
    assert [(read.date[:4], read.macro_auc) for read in entries(target)] == [("2025", 0.6), ("2026", 0.6)]


def test_the_same_images_are_the_same_test_whatever_is_done_with_them() -> None:
    rows = [row("mdb001", Split.TEST), row("mdb002", Split.TEST), row("mdb003", Split.TRAIN)]
    same = frozen_test_digest(rows)
    assert same == frozen_test_digest(rows[::-1])
    other = [replace(item, label=Label.MALIGNANT, height=512, sha256="ab") for item in rows]
    assert same == frozen_test_digest(other)
    assert same == frozen_test_digest([*rows[:2], row("mdb009", Split.TRAIN)]), "training images are no part of it"
    assert same != frozen_test_digest(rows[:1])
    copy = row("mdb001-1", Split.TEST, source_image_id="mdb001")
    assert same == frozen_test_digest([*rows, copy]), "nor are copies"
    others = {"synthetic": True, "dataset": "rsna", "patient_id": "p", "image_id": "i"}
    digests = {frozen_test_digest([replace(rows[0], **{name: value}), rows[1]]) for name, value in others.items()}  # type: ignore[arg-type]
    assert len(digests | {same}) == 5
    # Registers hold this digest: another form would make every earlier read one of another split.
    assert same == frozen_test_digest(iter(rows)) == "4f14366abfb4a5ed"


def test_the_summary_counts_the_reads_of_this_split_and_names_those_of_others() -> None:
    earlier = [FIRST, replace(FIRST, test_digest="other"), replace(FIRST, test_digest="phantoms", synthetic=True)]
    now = replace(FIRST, date="2026-02-02T00:00:00Z")
    stated = account(earlier, now)
    assert stated == {
        "register": True,
        "test_digest": "t",
        "reads": 2,
        "other_splits": 1,
        "earlier": [asdict(FIRST)],
    }
    others = " Other test splits of the dataset were read 1 times; they may share images with this one."
    assert sentence(stated) == (
        "This test split was read 2 times, first on 2026-01-02; this evaluation is number 2. A figure that was chosen "
        f"among several reads is too good.{others}"
    )
    alone = "This evaluation is the first of this test split in the register."
    assert sentence(account([], now)) == alone
    assert sentence(account(earlier[1:], now)) == alone + others
    unknown = account(None, now)
    assert (unknown["register"], unknown["reads"], unknown["other_splits"], unknown["earlier"]) == (False, 1, 0, [])
    assert sentence(unknown) == "No register was given: how often this test split was read before is not known."


WHOLE = json.dumps(asdict(FIRST))


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        '{"date": "2026"}',
        WHOLE[: len(WHOLE) // 2],
        json.dumps({**asdict(FIRST), "date": 20260102}),
        json.dumps({**asdict(FIRST), "date": "yesterday"}),
        json.dumps({**asdict(FIRST), "images": None}),
        json.dumps({**asdict(FIRST), "macro_auc": True}),
        json.dumps({**asdict(FIRST), "synthetic": 0}),
    ],
)
def test_a_file_that_is_no_entry_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match="x.json: no entry of the register"):
        entries(tmp_path)


def test_what_is_wrong_with_an_entry_is_said(tmp_path: Path) -> None:
    keys = ", ".join(sorted(asdict(FIRST)))
    said = {
        json.dumps({**asdict(FIRST), "note": ""}): f"its keys must be {keys}",
        json.dumps({**asdict(FIRST), "images": "8"}): "images='8' must be of type int",
        json.dumps({**asdict(FIRST), "macro_auc": "high"}): "macro_auc='high' must be of type float | None",
    }
    for text, message in said.items():
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ConfigError) as caught:
            entries(tmp_path)
        assert str(caught.value) == f"{tmp_path / 'x.json'}: no entry of the register of test reads: {message}"


def test_a_register_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.json").write_text(json.dumps({**asdict(FIRST), "macro_auc": 1}))
    assert entries(tmp_path)[0].macro_auc == 1

    def denied(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", denied)
    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ConfigError, match="the register of test reads cannot be read: .*Permission denied"):
        entries(tmp_path)
