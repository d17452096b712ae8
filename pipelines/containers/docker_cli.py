"""Starts, labels and removes the containers of a local run with the `docker` command.

It uses the Docker engine that the environment names (`DOCKER_HOST`, or a context).
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from mammopipe.pipelines.backends.processes import is_alive
from mammopipe.processing.errors import ConfigError

RUN_LABEL = "mammopipe.run"
"""Label of the containers that this project starts; its value is the run's id."""
OWNER_LABEL = "mammopipe.pid"
"""Label of a job's containers; its value is the id of the process that started them and must outlive them."""
HOST_LABEL = "mammopipe.host"
"""Label with the machine of that process, since several machines may share a Docker engine."""
HARDENED = ("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only", "--tmpfs", "/tmp")
"""Restrictions of a server's container: it can write only temporary files and gain no privileges."""


def docker(*words: str, check: bool = True) -> str:
    """Return the output of `docker WORDS`; raises `ConfigError` with the client's last line if it fails."""
    try:
        done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ConfigError("backend docker: no docker command found; install Docker, or use --backend process") from None
    if check and done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ConfigError(f"docker {words[0]}: {lines[-1]}")
    return done.stdout.strip()


def require(images: Sequence[str]) -> None:
    """Raise `ConfigError` unless the engine responds, Docker Compose is installed and all images are present."""
    docker("version", "--format", "{{.Server.Version}}")
    if compose() is None:
        raise ConfigError("backend docker: the SDK's local mode needs Docker Compose; install its plugin")
    for image in images:
        if not docker("image", "ls", "--quiet", image):
            raise ConfigError(f"image {image}: the Docker engine does not have it; make images builds it")


def hand_over(folder: Path, image: str, owner: tuple[int, int]) -> None:
    """Change the owner of everything below `folder`, since only root can remove what containers wrote as root."""
    ids = f"{owner[0]}:{owner[1]}"
    mount, command = f"{folder.resolve()}:/left", ["--entrypoint", "chown", image, "-R", ids, "/left"]
    docker("run", "--rm", "--network", "none", "--user", "0", "--volume", mount, *command)


def own(folder: Path, image: str) -> None:
    """Make this process's user the owner of everything below `folder`; does nothing if that user is root."""
    if os.getuid():
        hand_over(folder, image, (os.getuid(), os.getgid()))


def serve_command(name: str, run: str, image: str, model: Path, port: int, environment: Mapping[str, str]) -> list[str]:
    """Return the command that serves a model's folder on a loopback port; the container is removed on SIGTERM.

    SageMaker starts the same image in the same way: the word `serve`, the model at /opt/ml/model, read-only, port 8080.

    Args:
        name: Name of the container.
        run: The run's id, for the container's label.
        image: The serving image.
        model: Folder of the unpacked model.
        port: Port on 127.0.0.1.
        environment: Variables of the container.
    """
    variables = [word for key, value in environment.items() for word in ("--env", f"{key}={value}")]
    return [
        *("docker", "run", "--rm", "--name", name, "--label", f"{RUN_LABEL}={run}"),
        *("--publish", f"127.0.0.1:{port}:8080", "--volume", f"{model.resolve()}:/opt/ml/model:ro"),
        *(*HARDENED, *variables, image, "serve"),
    ]


def remove(*names: str) -> None:
    """Remove containers, running or not; missing ones are not an error."""
    docker("rm", "--force", *names, check=False)


def job_labels(run: str) -> dict[str, str]:
    """Return the labels of the containers of a run's jobs, which `sweep` uses to find them."""
    return {RUN_LABEL: run, OWNER_LABEL: str(os.getpid()), HOST_LABEL: socket.gethostname()}


def sweep() -> None:
    """Remove the containers of jobs whose process on this machine was killed before it could remove them."""
    here = f"label={HOST_LABEL}={socket.gethostname()}"
    shown = f'{{{{.ID}}}} {{{{.Label "{OWNER_LABEL}"}}}}'
    found = docker("ps", "--all", "--filter", here, "--format", shown).splitlines()
    orphans = [words[0] for words in map(str.split, found) if not is_alive(int(words[1]))]
    if orphans:
        remove(*orphans)


def compose_down(command: Sequence[str]) -> None:
    """Remove the containers of a `compose ... up` command, and its network unless others use it."""
    prefix = list(command[: command.index("up")])
    subprocess.run([*prefix, "down", "--remove-orphans"], capture_output=True, check=False)


def compose() -> list[str] | None:
    """Return the command of Docker Compose, plugin or standalone; None if neither is installed."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None
