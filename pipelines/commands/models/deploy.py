"""`mammopipe deploy` and `delete`: start and stop the endpoint of a model."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from mammopipe.pipelines.commands.arguments import Subparsers, command, configuration, configured, identified, refuse
from mammopipe.processing.errors import ConfigError


def add(subparsers: Subparsers) -> None:
    """Add the parser of `deploy`."""
    parser = command(
        subparsers,
        "deploy",
        "serve a run's model on this machine until it is deleted, or a registered package on AWS",
        "deploy latest",
    )
    parser.add_argument(
        "--capture",
        action="store_true",
        help="keep requests and answers in the run's folder for mammopipe monitor: the newest 5 GB of the last 90 days",
    )
    identified(parser, default=None)
    aws = parser.add_mutually_exclusive_group()
    aws.add_argument("--package", metavar="ARN", help="serve this approved package on AWS, without downtime")
    aws.add_argument("--rollback", action="store_true", help="serve the approved package before the one on AWS now")
    parser.add_argument("--no-wait", action="store_true", help="with --package or --rollback: do not wait for the end")
    configured(parser)
    parser.set_defaults(command=deploy)


def add_delete(subparsers: Subparsers) -> None:
    """Add the parser of `delete`."""
    text = "stop the endpoint that a run keeps, or delete an endpoint on AWS with its configuration and models"
    parser = command(subparsers, "delete", text, "delete latest")
    identified(parser, default=None)
    parser.add_argument(
        "--endpoint", metavar="NAME", help="delete this endpoint of the configuration on AWS, a candidate or approved"
    )
    parser.add_argument("--yes", action="store_true", help="with --endpoint: delete without asking")
    configured(parser)
    parser.set_defaults(command=delete)


def deploy(options: argparse.Namespace) -> int:
    """Serve a run's model on this machine and keep it running, or serve a registered package on AWS."""
    on_aws = bool(options.package or options.rollback)
    if on_aws:
        refuse(options, "capture", rule="only for an endpoint on this machine; on AWS, set endpoint.capture_percent")
        if options.id:
            raise ConfigError(
                f"{options.id}: IDs name runs of this machine; on AWS, state what to serve by --package ARN or "
                "--rollback"
            )
    else:
        of_aws = ("no_wait", "recipe", "config", "profile", "dataset", "protocol", "cnns")
        refuse(options, *of_aws, rule="only with --package or --rollback")
    return _deploy_on_aws(options) if on_aws else _deploy_here(options)


def _deploy_on_aws(options: argparse.Namespace) -> int:
    from mammopipe.pipelines.backends import sessions
    from mammopipe.pipelines.runs import aws_rollout

    config = configuration(options)
    session = sessions.caller_session(config)
    sagemaker, scaling = session.client("sagemaker"), session.client("application-autoscaling")
    package = options.package or aws_rollout.previous(config, sagemaker)
    aws_rollout.deploy(config, sagemaker, scaling, package, wait=not options.no_wait, say=print)
    return 0


def _deploy_here(options: argparse.Namespace) -> int:
    from mammopipe.pipelines.backends import local_endpoint
    from mammopipe.pipelines.backends.jobs import unpack_model
    from mammopipe.pipelines.backends.processes import RunningProcesses
    from mammopipe.pipelines.runs.folder import LATEST, find_run
    from mammopipe.pipelines.runs.progress import waiting
    from mammopipe.processing.container.job import cores

    folder = find_run(options.runs, options.id or LATEST)
    if (folder.path / local_endpoint.FILE).is_file():
        raise ConfigError(
            f"run {folder.id} already keeps an endpoint, at {local_endpoint.read_kept(folder.path)['url']}; "
            f"mammopipe delete {folder.id} stops it"
        )
    archive = folder.path / "model.tar.gz"
    if not archive.is_file():
        raise ConfigError(f"run {folder.id} has no model.tar.gz: it ended before that (mammopipe status {folder.id})")
    unpack_model(archive, folder.path / "endpoint" / "model")
    with waiting("starting the endpoint"):
        endpoint = local_endpoint.serve(
            f"mammopipe-{folder.id}",
            folder.path / "endpoint",
            folder.logs / "Endpoint.log",
            RunningProcesses(),
            threads=cores(),
            environment=_capture(folder.path) if options.capture else {},
        )
    endpoint.keep(folder.path)
    print(f"Endpoint {endpoint.name} answers at {endpoint.url}; mammopipe delete {folder.id} stops it")
    return 0


def _capture(folder: Path) -> dict[str, str]:
    """Return the variables that make an endpoint capture requests, within the caller's limits."""
    limits = ("MAMMOPIPE_CAPTURE_GB", "MAMMOPIPE_CAPTURE_DAYS")
    given = {name: os.environ[name] for name in limits if name in os.environ}
    return {"MAMMOPIPE_CAPTURE": str((folder / "captures").resolve()), **given}


def delete(options: argparse.Namespace) -> int:
    """Stop the endpoint that a run keeps, or delete one on AWS."""
    if options.endpoint:
        if options.id:
            raise ConfigError(
                f"{options.id}: IDs name runs of this machine; on AWS, state what to delete by --endpoint NAME"
            )
        return _delete_on_aws(options)
    of_aws = ("yes", "recipe", "config", "profile", "dataset", "protocol", "cnns", "assignments")
    refuse(options, *of_aws, rule="only with --endpoint")
    from mammopipe.pipelines.backends.local_endpoint import delete_kept
    from mammopipe.pipelines.runs.folder import LATEST, find_run

    folder = find_run(options.runs, options.id or LATEST)
    stopped = delete_kept(folder.path)
    shutil.rmtree(folder.path / "endpoint", ignore_errors=True)
    print(f"Endpoint of run {folder.id} {'stopped' if stopped else 'had already ended'}")
    return 0


def _delete_on_aws(options: argparse.Namespace) -> int:
    """Show what would be deleted, ask, and delete it."""
    from mammopipe.pipelines.account import removal
    from mammopipe.pipelines.backends import sessions

    config = configuration(options)
    session = sessions.caller_session(config)
    names = ("sagemaker", "application-autoscaling", "cloudwatch")
    services = removal.Services(*(session.client(name) for name in names))
    found = removal.plan(config, services.sagemaker, options.endpoint)
    print("\n".join(f"  {line}" for line in found.lines()))
    if not options.yes and not _agreed():
        print("Nothing was deleted")
        return 1
    removal.remove(found, services, print)
    return 0


def _agreed() -> bool:
    """Ask at the terminal; raises `ConfigError` where nobody can answer."""
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to confirm this; add --yes to delete it")
    return input("Delete all of these? [y/N] ").strip().lower() in ("y", "yes")
