"""Results of a step are reused only if the step would write the same files again."""

import errno
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines import cli
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.config.compute import seconds_of
from mammopipe.pipelines.data import cache_entries
from mammopipe.pipelines.data.cache_entries import ENTRY
from mammopipe.pipelines.data.folder_storage import FolderStorage
from mammopipe.pipelines.data.step_cache import StepCache
from mammopipe.processing.errors import ConfigError
from tests.pipelines.conftest import BUCKET, Runner, Scripts, output, processing, training

CACHED = {"CacheConfig": {"Enabled": True, "ExpireAfter": "P30D"}}


@pytest.fixture
def cached(run: Runner, tmp_path: Path) -> Runner:
    storage = FolderStorage(run.services.storage.client, root=tmp_path / "s3")
    storage.ensure_bucket(BUCKET)
    run.services = replace(run.services, storage=storage)
    run.cache = StepCache(tmp_path / "cache", storage, "code")
    (tmp_path / "raw.txt").write_text("pixels")
    storage.put(tmp_path / "raw.txt", f"s3://{BUCKET}/raw/a.txt")
    return run


def steps(scripts: Scripts, counter: Path, **changes: Any) -> list[dict[str, Any]]:
    """Return Prepare and Train; each writes its name when it runs."""
    note = f"open({str(counter)!r}, 'a').write"
    prepare = processing(
        "Prepare",
        scripts(
            "prepare",
            f"{note}('P')\n"
            "source = (paths.processing_input('raw') / 'a.txt').read_text()\n"
            "(paths.processing_output('made') / 'b.txt').write_text(source + ' '.join(arguments))\n",
        ),
        arguments=changes.get("arguments", ["--seed", "0"]),
        inputs={"raw": f"s3://{BUCKET}/raw/"},
        outputs=["made"],
        **changes.get("members", CACHED),
    )
    train = training(
        "Train",
        scripts("train", f"{note}('T')\n(paths.model / 'm').write_text('w')\n"),
        inputs={"made": output("Prepare", "made")},
        hyperparameters={"learning_rate": changes.get("rate", "1e-3")},
        **changes.get("members", CACHED),
    )
    return [prepare, train]


def ran(cached: Runner, scripts: Scripts, tmp_path: Path, **changes: Any) -> str:
    """Run the steps and return the first letters of those that ran."""
    counter = tmp_path / "counter"
    counter.write_text("")
    cached(*steps(scripts, counter, **changes))
    assert cached.status is Status.SUCCEEDED, cached.snapshots[-1]
    assert cached.text(f"s3://{BUCKET}/out/Prepare/made/b.txt").startswith("pixels") or "raw" in changes
    return counter.read_text()


def test_an_entry_that_finds_no_room_leaves_nothing(
    cached: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert cached.cache is not None
    monkeypatch.setattr("mammopipe.pipelines.data.step_cache.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        cached.cache.keep("0123", {"raw": f"s3://{BUCKET}/raw"})
    assert list(cached.cache.root.iterdir()) == []


def test_a_second_run_starts_where_something_differs(cached: Runner, scripts: Scripts, tmp_path: Path) -> None:
    assert ran(cached, scripts, tmp_path) == "PT"
    assert ran(cached, scripts, tmp_path) == ""
    assert ran(cached, scripts, tmp_path, rate="1e-4") == "T", "another learning rate starts at training"
    assert ran(cached, scripts, tmp_path, arguments=["--seed", "1"]) == "PT"
    assert ran(cached, scripts, tmp_path, members={}) == "PT", "without the setting every step runs"
    assert cached.cache is not None
    cached.cache = StepCache(cached.cache.root, cached.cache.storage, "other code")
    assert ran(cached, scripts, tmp_path) == "PT"


def test_other_content_under_the_same_address_is_seen(cached: Runner, scripts: Scripts, tmp_path: Path) -> None:
    assert ran(cached, scripts, tmp_path) == "PT"
    (tmp_path / "other.txt").write_text("pixelS")
    cached.services.storage.put(tmp_path / "other.txt", f"s3://{BUCKET}/raw/a.txt")
    assert ran(cached, scripts, tmp_path, raw="changed") == "PT"


def test_entries_of_the_register_of_test_reads_make_no_other_step(cached: Runner, tmp_path: Path) -> None:
    def item(name: str) -> dict[str, Any]:
        place = {"LocalPath": f"/opt/ml/processing/input/{name}", "S3Uri": f"s3://{BUCKET}/raw/"}
        return {"InputName": name, "S3Input": {**place, "S3DataDistributionType": "FullyReplicated"}}

    assert cached.cache is not None
    plain = cached.cache.key("Processing", {"ProcessingInputs": [item("data")]})
    assert cached.cache.key("Processing", {"ProcessingInputs": [item("data"), item("test-reads")]}) == plain
    assert cached.cache.key("Processing", {"ProcessingInputs": [item("data"), item("other")]}) != plain


def test_what_is_older_than_the_duration_is_not_used(cached: Runner, scripts: Scripts, tmp_path: Path) -> None:
    assert ran(cached, scripts, tmp_path) == "PT"
    for entry in (tmp_path / "cache").rglob(ENTRY):
        os.utime(entry, (time.time() - 31 * 86400,) * 2)
    assert ran(cached, scripts, tmp_path) == "PT"


@pytest.mark.parametrize(
    ("text", "seconds"), [("P30D", 2_592_000), ("PT1H30M", 5400), ("P1M", 2_592_000), ("P1W", 604_800)]
)
def test_durations(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["30D", "P", "PT", "P30"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="an ISO 8601 duration"):
        seconds_of(text)


def entry(root: Path, name: str, *, size: int, age: float) -> Path:
    """Write an entry that was used `age` seconds ago."""
    folder = root / name
    (folder / "made").mkdir(parents=True)
    (folder / "made" / "b.txt").write_bytes(b"x" * size)
    (folder / ENTRY).write_text("{}")
    os.utime(folder, (time.time() - age, time.time() - age))
    return folder


def test_the_cache_is_bounded_and_what_was_unused_for_longest_goes_first(tmp_path: Path) -> None:
    old, older, new = (entry(tmp_path, name, size=1000, age=age) for name, age in (("a", 20), ("b", 30), ("c", 10)))
    assert [item.folder for item in cache_entries.limit(tmp_path, 2500, dry_run=True)] == [older] and older.exists()
    assert [item.folder for item in cache_entries.limit(tmp_path, 2500)] == [older]
    assert (old.exists(), older.exists(), new.exists()) == (True, False, True)
    with cache_entries.in_use(old) as exists:  # marks it as used now, so the other entry is the older one
        assert exists
    assert [item.folder for item in cache_entries.limit(tmp_path, 1500)] == [new]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_an_entry_that_a_run_copies_is_not_removed(tmp_path: Path) -> None:
    used, other = entry(tmp_path, "a", size=1000, age=30), entry(tmp_path, "b", size=1000, age=10)
    with cache_entries.in_use(used):
        assert [item.folder for item in cache_entries.limit(tmp_path, 0)] == [other] and used.exists()
    assert [item.folder for item in cache_entries.limit(tmp_path, 0)] == [used]
    with cache_entries.in_use(used) as exists:
        assert not exists


def test_a_run_keeps_its_cache_below_the_limit(cached: Runner, scripts: Scripts, tmp_path: Path) -> None:
    cached.cache = replace(cached.cache, most_bytes=1)
    assert ran(cached, scripts, tmp_path) == "PT"
    assert list((tmp_path / "cache").glob(f"*/{ENTRY}")) == []
    cached.cache = replace(cached.cache, most_bytes=10**6)
    assert ran(cached, scripts, tmp_path) == "PT" and ran(cached, scripts, tmp_path) == ""


def test_clean_removes_cached_steps_and_leftovers_but_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    kept, gone = entry(runs / ".cache", "new", size=3000, age=10), entry(runs / ".cache", "old", size=3000, age=99)
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [runs / ".work" / f"r-{dead.pid}", runs / ".cache" / f".k-{dead.pid}", runs / ".cache" / f".j-{os.getpid()}"]
    for folder in (*left, runs / "20260101-000000-aaaa"):
        folder.mkdir(parents=True)
    words = ["clean", "--runs", str(runs), "--keep-gigabytes", "4e-6"]
    assert cli.main([*words, "--dry-run"]) == 0 and gone.exists() and left[0].exists()
    assert "1 cached steps (0.0 MB) and 2 leftovers would be removed" in capsys.readouterr().out
    assert cli.main(words) == 0
    assert (kept.exists(), gone.exists(), *(folder.exists() for folder in left)) == (True, False, False, False, True)
    assert (runs / "20260101-000000-aaaa").exists()
    assert cli.main(["clean", "--runs", str(tmp_path / "none")]) == 2
    assert cli.main([*words[:-1], "-1"]) == 2
    assert "--keep-gigabytes -1: must be a number of at least 0" in capsys.readouterr().err
