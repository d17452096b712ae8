"""The reading of `stage.json`, of one host or of several."""

import json
from pathlib import Path

import pytest

from mammopipe.processing.container.stage_file import read_stage_files
from mammopipe.processing.errors import ConfigError


def test_each_host_has_its_file(tmp_path: Path) -> None:
    for host in ("algo-2", "algo-1"):
        (tmp_path / f"stage-{host}.json").write_text(json.dumps({"config": {"split": {}, "host": host}}))
    (tmp_path / "manifest-algo-1.csv").write_text("not a stage file")
    found = read_stage_files(tmp_path, "split", "Prepare")
    assert [path.name for path in found] == ["stage-algo-1.json", "stage-algo-2.json"]
    assert [content["config"]["host"] for content in found.values()] == ["algo-1", "algo-2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no stage.json and no stage-<host>.json here"),
        ("{", "stage.json: cannot be read as JSON"),
        ("[]", "stage.json: must hold a JSON object"),
        ("{}", "stage.json: config.split is missing; this must be the output of the Prepare job"),
        ('{"config": []}', "config.split is missing"),
        ('{"config": {"preprocess": {}}}', "config.split is missing"),
    ],
)
def test_what_is_not_the_stage_s_file_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "stage.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_stage_files(tmp_path, "split", "Prepare")
