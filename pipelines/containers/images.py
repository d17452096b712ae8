"""Builds the three container images from infra/Dockerfile, tags them by the content of the code, pushes them to ECR.

The tag is the hash of the checkout's git tree, including uncommitted changes, followed by a digest of the build
arguments if they differ from the Dockerfile's. The same code built in the same way has the same tag; a changed file or
another base image gives a new tag.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from mammopipe.processing.errors import ConfigError

TARGETS = ("processing", "training", "serving")
DOCKERFILE = Path("infra", "Dockerfile")
REPOSITORY = "mammopipe"
"""First part of the repositories' names, as created by infra/stack.yaml (its parameter Project)."""


@dataclass(frozen=True)
class ImageBuildOptions:
    """How images are built on this machine."""

    base_image: str = ""
    """A base image other than the Dockerfile's."""
    torch_index: str = ""
    """Another package index for torch, for example that of the builds without CUDA."""
    serving_extra: str = ""
    """`inference` for a serving image with torch."""
    certificates: Path | None = None
    """Certificates for a proxy in front of the package index; they are not stored in the images."""

    @property
    def arguments(self) -> dict[str, str]:
        """The build arguments that differ from the Dockerfile's own."""
        # `serving` is the Dockerfile's own value: naming it must not change the tag.
        extra = self.serving_extra if self.serving_extra != "serving" else ""
        given = {"BASE_IMAGE": self.base_image, "TORCH_INDEX": self.torch_index, "SERVING_EXTRA": extra}
        return {name: value for name, value in given.items() if value}

    def words(self) -> list[str]:
        """Return the options of `docker build`."""
        chosen = [word for name, value in self.arguments.items() for word in ("--build-arg", f"{name}={value}")]
        # The host's network: the build's own network has no way out if the engine may not change the host's firewall.
        secret = ["--secret", f"id=ca,src={self.certificates}"] if self.certificates else []
        return [*chosen, *secret, "--network", "host"]


def tag_of(root: Path, options: ImageBuildOptions) -> str:
    """Return the tag of the images of the checkout `root`, built with these options."""
    if not options.arguments:
        return tree_of(root)
    digest = hashlib.sha256(json.dumps(options.arguments, sort_keys=True).encode()).hexdigest()
    return f"{tree_of(root)}-{digest[:8]}"


def tree_of(root: Path) -> str:
    """Return the hash of the git tree of the files in `root`, committed or not, without ignored files."""
    known = _git(root, {}, "rev-parse", "--git-path", "objects")
    with TemporaryDirectory() as scratch:
        objects = Path(scratch, "objects")
        objects.mkdir()
        # A temporary index and object store: computing the tag adds nothing to the repository.
        environment = {
            "GIT_INDEX_FILE": str(Path(scratch, "index")),
            "GIT_OBJECT_DIRECTORY": str(objects),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(root.resolve() / known),
        }
        _git(root, environment, "read-tree", "HEAD")
        _git(root, environment, "add", "--all")
        return _git(root, environment, "write-tree")


def _git(root: Path, environment: Mapping[str, str], *words: str) -> str:
    command, variables = ["git", "-C", str(root), *words], {**os.environ, **environment}
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ConfigError(f"{root}: cannot compute the images' tag: no git command found") from None
    if done.returncode:
        raise ConfigError(f"{root}: cannot compute the images' tag: git {words[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def build(root: Path, options: ImageBuildOptions, *, client: str = "docker") -> list[str]:
    """Build the images of the checkout and also tag them `latest`.

    Args:
        root: The checkout.
        options: How to build.
        client: The command to run; its output goes to standard error.

    Returns:
        The names of the images, each with its tag.

    Raises:
        ConfigError: A build failed.
    """
    tag, tree, names = tag_of(root, options), tree_of(root), []
    for target in TARGETS:
        name = f"{REPOSITORY}/{target}"
        tags = ["--tag", f"{name}:{tag}", "--tag", f"{name}:latest", "--build-arg", f"REVISION={tree}"]
        words = ["--file", str(root / DOCKERFILE), "--target", target, *tags, *options.words()]
        _run(client, "build", *words, str(root))
        names.append(f"{name}:{tag}")
    return names


def sizes(names: list[str], *, client: str = "docker") -> dict[str, int]:
    """Return the size of each image in bytes, including its base."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    done = _docker(client, "image", "inspect", "--format", "{{.Size}}", *names, **pipes)
    if done.returncode:
        raise ConfigError(f"{' '.join(names)}: not on this machine; build them first, with the same options")
    return dict(zip(names, map(int, done.stdout.split()), strict=True))


def push(root: Path, options: ImageBuildOptions, session: Any, *, client: str = "docker") -> dict[str, str]:
    """Push the images built from the checkout with these options to ECR.

    A tag that ECR already has is skipped: its repositories are immutable, and equal tags mean the same code built the
    same way.

    Args:
        root: The checkout.
        options: The options of the build.
        session: A boto3 session.
        client: The command to run.

    Returns:
        The images' names in ECR, by target.

    Raises:
        ConfigError: An image or a repository is missing, or AWS refuses.
    """
    tag = tag_of(root, options)
    # Fails before anything is pushed if an image is missing.
    sizes([f"{REPOSITORY}/{target}:{tag}" for target in TARGETS], client=client)
    ecr = session.client("ecr")
    with _ecr_errors():
        found = ecr.describe_repositories(repositoryNames=[f"{REPOSITORY}/{target}" for target in TARGETS])
        places = {item["repositoryName"]: item["repositoryUri"] for item in found["repositories"]}
        _log_in(ecr, client)
        pushed = {}
        for target in TARGETS:
            name = f"{REPOSITORY}/{target}"
            pushed[target] = f"{places[name]}:{tag}"
            if _has(ecr, name, tag):
                print(f"{pushed[target]}: already in ECR, so it was not pushed again", file=sys.stderr)
            else:
                _run(client, "tag", f"{name}:{tag}", pushed[target])
                _run(client, "push", pushed[target])
    return pushed


def as_toml(pushed: Mapping[str, str]) -> str:
    """Return the section of a configuration file that names pushed images."""
    return "\n".join(["[images]", *(f'{target} = "{name}"' for target, name in pushed.items())])


def _has(ecr: Any, repository: str, tag: str) -> bool:
    try:
        ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])
    except ecr.exceptions.ImageNotFoundException:
        return False
    return True


def _log_in(ecr: Any, client: str) -> None:
    """Log Docker in to the registry; passes the password on standard input, since other users can read arguments."""
    granted = ecr.get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(granted["authorizationToken"]).decode().partition(":")
    _run(client, "login", "--username", user, "--password-stdin", granted["proxyEndpoint"], given=password)


def _docker(client: str, *words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    # The Dockerfile mounts a secret and files, which only BuildKit supports.
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    try:
        return subprocess.run([client, *words], env=environment, text=True, check=False, **options)
    except FileNotFoundError:
        raise ConfigError(f"{client}: no such command; install Docker") from None


def _run(client: str, *words: str, given: str | None = None) -> None:
    done = _docker(client, *words, input=given, stdout=sys.stderr)
    if done.returncode:
        raise ConfigError(f"{client} {words[0]} failed with exit code {done.returncode}; see what it printed")


@contextmanager
def _ecr_errors() -> Iterator[None]:
    """Turn ECR's exceptions into a one-line `ConfigError`."""
    try:
        yield
    except ClientError as error:
        text = f"{error.response['Error'].get('Message', '')}; infra/stack.yaml creates the repositories"
        raise ConfigError(f"ECR refused {error.operation_name}: {text}") from None
    except BotoCoreError as error:
        raise ConfigError(f"ECR cannot be reached: {' '.join(str(error).split())}") from None
