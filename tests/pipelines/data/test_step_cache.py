"""A step is reused where it would make the same files, and in no other case."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.data.folder_storage import FolderStorage
from mammopipe.pipelines.data.step_cache import ENTRY, StepCache, seconds_of
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
