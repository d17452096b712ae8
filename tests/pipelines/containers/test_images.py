"""The images: their names, how they are built, and what is pushed to ECR; with a Docker client that only records."""

import base64
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from mammopipe.pipelines.containers import images
from mammopipe.processing.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
CLIENT = """#!{python}
import json, pathlib, sys
given = sys.stdin.read() if "--password-stdin" in sys.argv else ""
with pathlib.Path({log!r}).open("a") as log:
    print(json.dumps({{"words": sys.argv[1:], "given": given}}), file=log)
if sys.argv[1:3] == ["image", "inspect"]:
    print("\\n".join("1000000" for _ in sys.argv[5:]))
sys.exit({code} if sys.argv[1] == "build" else 0)
"""


class Client:
    """A command that replaces `docker` and records its arguments."""

    def __init__(self, folder: Path, code: int = 0):
        self.path, self.log = folder / "client", folder / "client.log"
        self.path.write_text(CLIENT.format(python=sys.executable, log=str(self.log), code=code))
        self.path.chmod(0o755)

    def asked(self, verb: str) -> list[list[str]]:
        return [item["words"] for item in self._read() if item["words"][0] == verb]

    def given(self) -> str:
        return "".join(item["given"] for item in self._read())

    def _read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", "-C", str(folder), *own, *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / ".gitignore").write_text("runs/\n")
    (folder / "code.py").write_text("one = 1\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "one")
    return folder


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[boto3.Session]:
    for name, value in {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        yield boto3.Session(region_name="eu-central-1")


def with_repositories(account: boto3.Session) -> Any:
    ecr = account.client("ecr")
    for target in images.TARGETS:
        ecr.create_repository(repositoryName=f"mammopipe/{target}")
    return ecr


def test_a_clean_checkout_is_tagged_with_its_commits_tree(checkout: Path) -> None:
    assert images.tree_of(checkout) == git(checkout, "rev-parse", "HEAD^{tree}").strip()


def test_the_tag_follows_every_file_that_counts_and_leaves_the_index_alone(checkout: Path) -> None:
    clean, stored = images.tree_of(checkout), git(checkout, "count-objects")
    (checkout / "new.py").write_text("two = 2\n")
    changed = images.tree_of(checkout)
    (checkout / "runs").mkdir()
    (checkout / "runs" / "result").write_text("ignored")
    assert clean != changed == images.tree_of(checkout)
    assert git(checkout, "status", "--porcelain") == "?? new.py\n"
    assert git(checkout, "count-objects") == stored


def test_a_folder_without_git_has_no_tag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot compute the images' tag: git rev-parse failed"):
        images.tree_of(tmp_path)


PLAIN = images.ImageBuildOptions()
OPTIONS = images.ImageBuildOptions("local/python:base", "https://index", "inference", Path("/ca.pem"))


def test_images_built_otherwise_never_share_a_tag(checkout: Path) -> None:
    options = [
        PLAIN,
        images.ImageBuildOptions(base_image="python:3.12"),
        images.ImageBuildOptions(torch_index="https://index"),
        images.ImageBuildOptions(serving_extra="inference"),
        OPTIONS,
    ]
    tags = [images.tag_of(checkout, chosen) for chosen in options]
    assert len(set(tags)) == len(tags) and tags[0] == images.tree_of(checkout)
    assert all(re.fullmatch(f"{tags[0]}-[0-9a-f]{{8}}", tag) for tag in tags[1:])
    for same in (
        images.ImageBuildOptions(serving_extra="serving"),
        images.ImageBuildOptions(certificates=Path("/ca.pem")),
    ):
        assert images.tag_of(checkout, same) == tags[0], "neither changes what is in the image"


def test_all_three_are_built_with_what_was_asked(checkout: Path, tmp_path: Path) -> None:
    client, tag = Client(tmp_path), images.tag_of(checkout, OPTIONS)
    assert images.build(checkout, OPTIONS, client=str(client.path)) == [f"mammopipe/{t}:{tag}" for t in images.TARGETS]
    built = client.asked("build")
    assert [words[words.index("--target") + 1] for words in built] == list(images.TARGETS)
    for words in built:
        assert {"BASE_IMAGE=local/python:base", "TORCH_INDEX=https://index", "SERVING_EXTRA=inference"} <= set(words)
        assert "id=ca,src=/ca.pem" in words and f"REVISION={images.tree_of(checkout)}" in words


@pytest.mark.parametrize("options", [PLAIN, OPTIONS])
def test_what_is_pushed_is_what_the_same_options_built(
    checkout: Path, tmp_path: Path, account: boto3.Session, options: images.ImageBuildOptions
) -> None:
    with_repositories(account)
    client = Client(tmp_path)
    built = images.build(checkout, options, client=str(client.path))
    pushed = images.push(checkout, options, account, client=str(client.path))
    assert [words[1] for words in client.asked("tag")] == built
    assert [name.rpartition(":")[2] for name in (*built, *pushed.values())] == [images.tag_of(checkout, options)] * 6


def test_a_build_that_fails_is_one_line(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="build failed with exit code 3"):
        images.build(checkout, images.ImageBuildOptions(), client=str(Client(tmp_path, code=3).path))


def test_a_client_that_is_missing_is_one_line(checkout: Path) -> None:
    with pytest.raises(ConfigError, match="no such command; install Docker"):
        images.build(checkout, images.ImageBuildOptions(), client="/no/such/docker")
    with pytest.raises(ConfigError, match="no such command; install Docker"):
        images.sizes(["mammopipe/serving:x"], client="/no/such/docker")


def test_a_push_logs_in_without_showing_the_password_and_names_what_the_configuration_takes(
    checkout: Path, tmp_path: Path, account: boto3.Session
) -> None:
    ecr, client, tag = with_repositories(account), Client(tmp_path), images.tree_of(checkout)
    pushed = images.push(checkout, PLAIN, account, client=str(client.path))
    password = base64.b64decode(ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"])
    assert client.given() and client.given() in password.decode()
    assert client.given() not in str(client.asked("login"))
    place = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/mammopipe"
    assert pushed == {target: f"{place}/{target}:{tag}" for target in images.TARGETS}
    assert [words[1] for words in client.asked("push")] == list(pushed.values())
    assert tomllib.loads(images.as_toml(pushed)) == {"images": pushed}


def test_what_ecr_has_is_not_pushed_again(
    checkout: Path, tmp_path: Path, account: boto3.Session, capfd: pytest.CaptureFixture[str]
) -> None:
    ecr, client, tag = with_repositories(account), Client(tmp_path), images.tree_of(checkout)
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    content = {"schemaVersion": 2, "mediaType": kind, "config": {"digest": "sha256:" + "0" * 64}, "layers": []}
    manifest = json.dumps(content)
    ecr.put_image(repositoryName="mammopipe/training", imageManifest=manifest, imageTag=tag)
    images.push(checkout, PLAIN, account, client=str(client.path))
    assert [words[1].split("/")[2].split(":")[0] for words in client.asked("push")] == ["processing", "serving"]
    assert f"mammopipe/training:{tag}: already in ECR" in capfd.readouterr().err


def test_without_repositories_a_push_says_what_makes_them(
    checkout: Path, tmp_path: Path, account: boto3.Session
) -> None:
    with pytest.raises(ConfigError, match=r"ECR refused DescribeRepositories: .* infra/stack.yaml creates"):
        images.push(checkout, PLAIN, account, client=str(Client(tmp_path).path))


@pytest.mark.parametrize("extra", ["processing", "training", "serving"])
def test_an_image_installs_only_pinned_packages(extra: str) -> None:
    command = [sys.executable, str(ROOT / "infra" / "requirements.py"), str(ROOT / "pyproject.toml"), extra]
    wanted = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {line.partition("==")[0].lower().replace("_", "-") for line in pinned}
    names = {re.split(r"[<>=\[]", item)[0].lower() for item in wanted}
    assert names <= pins
    assert ("torch" in names) is (extra == "training")
    assert "mammopipe" not in names
