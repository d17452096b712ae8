"""The register of test reads: what an entry says, what counts as the same test, and that no entry is ever lost."""

import json
import os
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
    assert same != frozen_test_digest([replace(item, synthetic=True) for item in rows])


def test_the_summary_counts_the_reads_of_this_split_and_names_those_of_others() -> None:
    earlier = [FIRST, replace(FIRST, test_digest="other"), replace(FIRST, test_digest="phantoms", synthetic=True)]
    now = replace(FIRST, date="2026-02-02T00:00:00Z")
    stated = account(earlier, now)
    assert (stated["reads"], stated["other_splits"]) == (2, 1)
    assert "was read 2 times, first on 2026-01-02; this evaluation is number 2." in sentence(stated)
    assert "Other test splits of the dataset were read 1 times" in sentence(stated)
    assert sentence(account([], now)) == "This evaluation is the first of this test split in the register."
    assert "not known" in sentence(account(None, now))


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


def test_a_register_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.json").write_text(json.dumps({**asdict(FIRST), "macro_auc": 1}))
    assert entries(tmp_path)[0].macro_auc == 1

    def denied(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", denied)
    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ConfigError, match="the register of test reads cannot be read: .*Permission denied"):
        entries(tmp_path)
