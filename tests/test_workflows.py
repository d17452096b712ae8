"""The GitHub workflows, checked by actionlint, which the extra `dev` installs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ACTIONLINT = Path(sys.executable).with_name("actionlint")
WORKFLOWS = sorted((Path(__file__).parents[1] / ".github" / "workflows").glob("*.yml"))


def lint(path: Path) -> tuple[int, str]:
    done = subprocess.run(
        [ACTIONLINT, "-no-color", "-oneline", path.name], cwd=path.parent, capture_output=True, text=True
    )
    assert not done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_finds_nothing(path: Path) -> None:
    assert lint(path) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("inputs.profile", "inputs.profil", 'property "profil" is not defined'),
        ("timeout-minutes:", "timeout-minuts:", 'unexpected key "timeout-minuts"'),
        ("aws-region: ${{ vars.AWS_REGION }}", "region: eu-central-1", "aws-region"),
        ("id-token: write", "id-token: rite", '"rite"'),
        ("options: [mias, rsna]", "options: [rsna]", '"mias"'),
        (
            "actions/setup-python@e797f83bcb11b83ae66e0230d6156d7c80228e7c",
            "actions/setup-python@v4",
            "node16|retired|update",
        ),
    ],
)
def test_actionlint_finds_a_broken_workflow(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    (workflow,) = (path for path in WORKFLOWS if path.name == "aws.yml")
    text = workflow.read_text(encoding="utf-8")
    assert right in text
    broken = tmp_path / "aws.yml"
    broken.write_text(text.replace(right, wrong), encoding="utf-8")
    code, found = lint(broken)
    assert code == 1 and re.search(message, found), found
