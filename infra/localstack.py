"""Local replacements of AWS, on loopback only: LocalStack for S3, IAM, STS, CloudFormation; moto for the SageMaker API.

    python infra/localstack.py install     Installs LocalStack into .services/venv: its pins conflict with ours.
    python infra/localstack.py up          Starts both, in containers if Docker can get the images, else as processes.
    python infra/localstack.py down        Stops both.

`up` returns once both respond, and prints the environment variables that make our commands use them. Their output is in
.services/*.log; the ports are LOCALSTACK_PORT (4566) and MOTO_PORT (5566).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mammopipe.pipelines.backends.jobs import last_line
from mammopipe.pipelines.backends.processes import SupervisedProcess, stop_kept
from mammopipe.pipelines.containers.docker_cli import compose
from mammopipe.processing.errors import ConfigError, MammopipeError
from mammopipe.processing.files import write_json

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".services"
COMPOSE_FILE = ROOT / "localstack-compose.yml"
COMPOSE_WORDS = ("--file", str(COMPOSE_FILE), "--project-name", "mammopipe-services")
REQUIREMENTS = (
    "localstack-core[runtime]==4.12.0",
    "cbor2<5.8",
    "cryptography<45",
    "pyopenssl<25",
    "service_identity",
)
"""4.12 is the last release that starts without a token; newer releases of the other packages break it."""
START_SECONDS = 300.0
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Service:
    """LocalStack or moto."""

    name: str
    port: int
    health: str
    """Path that answers 200 when the service is ready."""
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """URL of the service."""
        return f"http://{LOOPBACK}:{self.port}"

    def is_up(self) -> bool:
        """Return whether the service responds."""
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.url + self.health, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


def services(folder: Path, localstack_port: int, moto_port: int, *, installed: Path) -> tuple[Service, Service]:
    """Return LocalStack and moto on these ports; they write below `folder`; LocalStack runs from `installed/venv`."""
    python = installed / "venv" / "bin" / "python"
    own = {
        "GATEWAY_LISTEN": f"{LOOPBACK}:{localstack_port}",
        "SERVICES": "s3,iam,sts,cloudformation",
        "FILESYSTEM_ROOT": str(folder / "localstack"),
        "DNS_ADDRESS": "0",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "DISABLE_EVENTS": "1",
    }
    words = [str(python), "-m", "localstack.runtime.main"]
    moto = [sys.executable, "-m", "moto.server", "--host", LOOPBACK, "--port", str(moto_port)]
    return (
        Service("localstack", localstack_port, "/_localstack/health", words, own),
        Service("moto", moto_port, "/moto-api/data.json", moto),
    )


def install(folder: Path) -> None:
    """Install LocalStack into `folder/venv`, unless it is installed already."""
    marker = folder / "venv" / ".installed"
    if marker.is_file() and marker.read_text() == "\n".join(REQUIREMENTS):
        return
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = [str(folder / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", *REQUIREMENTS]
    subprocess.run(pip, check=True)
    marker.write_text("\n".join(REQUIREMENTS))


def start(folder: Path, wanted: Sequence[Service]) -> dict[str, SupervisedProcess]:
    """Start services as processes and return them by name once all respond; raises `ConfigError` if one does not.

    They stop with the caller's process unless they are kept.
    """
    running: dict[str, SupervisedProcess] = {}
    try:
        for service in wanted:
            if service.is_up():
                raise ConfigError(
                    f"{service.name}: {service.url} is in use; run make services-down, or choose another port"
                )
            environment = {key: word for key, word in os.environ.items() if not key.startswith("AWS_")}
            running[service.name] = SupervisedProcess.start(
                service.command,
                environment=environment | dict(service.environment),
                folder=folder,
                log=folder / f"{service.name}.log",
            )
        for service in wanted:
            _wait(service, folder, running[service.name])
    except BaseException:
        for process in running.values():
            process.stop()
        raise
    return running


def _wait(service: Service, folder: Path, process: SupervisedProcess | None) -> None:
    """Wait until a service responds."""
    deadline = time.monotonic() + START_SECONDS
    while not service.is_up():
        if process is not None and process.poll() is not None:
            log = folder / f"{service.name}.log"
            raise ConfigError(f"{service.name} ended with exit code {process.poll()}; its last line: {last_line(log)}")
        if time.monotonic() > deadline:
            raise ConfigError(f"{service.name} does not answer at {service.url} within {START_SECONDS:.0f} s")
        time.sleep(0.1)  # a program that starts sends no event to wait for


def variables(localstack: Service, moto: Service) -> dict[str, str]:
    """Return the environment that directs our commands, and any AWS SDK, to the two services."""
    return {
        "AWS_ENDPOINT_URL_S3": localstack.url,
        "AWS_ENDPOINT_URL_STS": localstack.url,
        "AWS_ENDPOINT_URL_IAM": localstack.url,
        "AWS_ENDPOINT_URL_CLOUDFORMATION": localstack.url,
        "AWS_ENDPOINT_URL_SAGEMAKER": moto.url,
        "AWS_ACCESS_KEY_ID": "offline",
        "AWS_SECRET_ACCESS_KEY": "offline",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def up(folder: Path, *, docker: bool) -> None:
    """Start both services, in containers or as processes that outlive this one, and print how to use them."""
    wanted = _configured(folder)
    if all(service.is_up() for service in wanted):
        print("Both are running already.")
    elif docker and _compose_up(folder):
        for service in wanted:
            _wait(service, folder, None)
        write_json(folder / "running.json", {"containers": True})
    else:
        install(folder)
        running = start(folder, wanted)
        write_json(folder / "running.json", {"processes": {name: process.pid for name, process in running.items()}})
        for process in running.values():
            process.keep()
    for name, word in variables(*wanted).items():
        print(f"export {name}={word}")


def down(folder: Path) -> None:
    """Stop both services; leaves only their logs and LocalStack's installation."""
    file = folder / "running.json"
    if not file.is_file():
        print("Neither service is running.")
        return
    running = json.loads(file.read_text(encoding="utf-8"))
    if running.get("containers"):
        subprocess.run([*(compose() or ["docker-compose"]), *COMPOSE_WORDS, "down", "--volumes"], check=True)
    for name, pid in running.get("processes", {}).items():
        print(f"{name} {'stopped' if stop_kept(pid) else 'had already ended'}")
    shutil.rmtree(folder / "localstack", ignore_errors=True)
    file.unlink()


def _configured(folder: Path) -> tuple[Service, Service]:
    folder.mkdir(parents=True, exist_ok=True)
    ports = [int(os.environ.get(name, default)) for name, default in (("LOCALSTACK_PORT", 4566), ("MOTO_PORT", 5566))]
    return services(folder, ports[0], ports[1], installed=folder)


def _compose_up(folder: Path) -> bool:
    """Start the containers; returns False, with a message, if there is no engine or no access to the images."""
    if shutil.which("docker") is None or subprocess.run(["docker", "version"], capture_output=True).returncode:
        print("No Docker engine answers: both services run as processes.")
        return False
    command = compose()
    if command is None:
        print("Docker Compose is not installed: both services run as processes.")
        return False
    with (folder / "compose.log").open("wb") as log:
        done = subprocess.run([*command, *COMPOSE_WORDS, "up", "--detach"], stdout=log, stderr=log, check=False)
    if done.returncode:
        print(f"Docker cannot start them ({last_line(folder / 'compose.log')}): both services run as processes.")
    return done.returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(description="Local replacements of AWS, LocalStack and moto, on loopback only.")
    parser.add_argument("command", choices=["install", "up", "down"])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: .services in the checkout")
    parser.add_argument("--processes", action="store_true", help="no containers, even where Docker runs")
    options = parser.parse_args(arguments)
    try:
        if options.command == "install":
            install(options.folder)
        elif options.command == "up":
            up(options.folder, docker=not options.processes)
        else:
            down(options.folder)
    except MammopipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
