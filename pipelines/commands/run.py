"""The work of the commands of `mammopipe`. Heavy modules are imported only by the commands that need them."""

import argparse
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mammopipe.pipelines.commands.arguments import configuration, one_of, parameters_of, refuse
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.phantoms import FILMS, PHANTOMS

if TYPE_CHECKING:
    pass


def stage(options: argparse.Namespace) -> int:
    """Upload a dataset or weights."""
    from mammopipe.pipelines.backends import sessions
    from mammopipe.pipelines.config.pipeline import PipelineConfig
    from mammopipe.pipelines.data import staging

    config = PipelineConfig.load(options.config)
    storage = sessions.caller_storage(config)
    if options.what == "weights":
        staged = staging.stage_weights(options.source, options.to or config.storage.uri("weights"), storage)
    else:
        from mammopipe.pipelines.data.test_reads import open_register
        from mammopipe.pipelines.runs.sources import stage_source

        uri = options.to or config.storage.uri("raw", options.what)
        config = config.replace(dataset=options.what)
        staged = stage_source(config, options.source, uri, storage)
        open_register(config, storage)
    print(f"Staged {staged}" + (" (synthetic films)" if staged.synthetic else ""))
    return 0


def compile_definition(options: argparse.Namespace) -> int:
    """Write the compiled definition."""
    from mammopipe.pipelines.runs.progress import waiting
    from mammopipe.processing.files import write_bytes

    config = configuration(options, pretrained=options.pretrained or None)
    with waiting("compiling"):
        from mammopipe.pipelines.graph.definition import build_pipeline

        definition = build_pipeline(config.on_aws()).definition()
    write_bytes(options.output, definition.encode())
    print(f"Compiled {options.output} ({len(definition)} bytes)")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Report problems that would make a run fail, on this machine or on AWS."""
    from mammopipe.pipelines.backends import sessions
    from mammopipe.pipelines.doctor import machine
    from mammopipe.pipelines.doctor.aws import Verdict, examine
    from mammopipe.pipelines.runs.progress import waiting

    config = configuration(options)
    if options.aws:
        refuse(options, "runs", rule="of this machine; --aws looks at an account")
        with waiting("asking AWS"):
            found = examine(config, sessions.caller_session(config))
    else:
        found = machine.examine(options.runs or Path("runs"))
    if options.json:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        machine.show(found)
    return int(any(finding.verdict is Verdict.BLOCKS for finding in found))


def run(options: argparse.Namespace) -> int:
    """Run the pipeline and print where the results are."""
    from mammopipe.pipelines.backends.step_status import Status
    from mammopipe.pipelines.commands import runs
    from mammopipe.pipelines.runs.launch import start

    if options.backend != "aws":
        refuse(options, "detach", rule=f"only with --backend aws, not {options.backend}")
    made = options.backend != "aws" and options.source in ("", PHANTOMS)
    config = configuration(options)
    done = start(
        config,
        backend=options.backend,
        source=options.source,
        films=_films(options, made=made),
        weights=options.weights,
        parameters=parameters_of(options),
        runs=options.runs,
        keep_endpoint=options.keep_endpoint,
    )
    if done.folder is None:
        return runs.follow(options.runs, config, done.arn, detach=options.detach)
    _say_where(options.runs, done.folder)
    failed = done.status is not Status.SUCCEEDED
    if failed:
        print(f"Run {done.id} {str(done.status).lower()}: {done.reason}", flush=True)
    if done.untracked:  # printed last, to be seen
        raise ConfigError(done.untracked)
    return int(failed)


def experiment(options: argparse.Namespace) -> int:
    """Run the unfinished cells of the experiment over networks and protocols, and print where its tables are."""
    from mammopipe.pipelines.config.pipeline import PipelineConfig
    from mammopipe.pipelines.experiment import matrix
    from mammopipe.processing.datasets.manifest import SplitProtocol
    from mammopipe.training.model.architecture import find_architecture

    config = PipelineConfig.load(options.config, profile=options.profile, dataset=options.dataset, cnns=options.cnns)
    protocols = tuple(one_of(SplitProtocol, word, "--protocols") for word in options.protocols)
    noise = find_architecture(options.noise or config.cnns[0]).name if options.noise != "none" else None
    films = _films(options, made=options.source == PHANTOMS)
    plan = matrix.Experiment(config, protocols, noise, options.source, films, options.weights)
    failures = matrix.run(plan, options.out)
    print(f"\nTables and figures in {options.out}/: results.md, results.csv, *.svg; each cell's report in cells/")
    for failure in failures:
        print(f"Cell {failure}", flush=True)
    return 1 if failures else 0


def _films(options: argparse.Namespace, *, made: bool) -> int:
    """Return the number of phantoms to generate; refuses a number if none are generated."""
    if options.films is None:
        return FILMS
    if not made:
        raise ConfigError("--films: how many phantoms to make; other films are read as they are")
    return int(options.films)


def _say_where(root: Path, folder: Path) -> None:
    shown = root / "latest" if (root / "latest").resolve() == folder.resolve() else folder
    print(f"\nResults in {shown}/ ({folder.name}):")
    for name, what in _RESULTS.items():
        if (folder / name).exists():
            print(f"  {shown / name!s:<40} {what}")


_RESULTS: Mapping[str, str] = {
    "report.html": "figures, plots and example films",
    "evaluation.json": "the same figures for programs",
    "predictions.csv": "what every network says of every film that is judged",
    "model_card.md": "what the model is, for whom, and what it is not for",
    "model.tar.gz": "the chosen model",
    "invocation.json": "the endpoint's answer to a test film",
    "invocation-async.json": "the async endpoint's answer to it",
    "execution.json": "every step's status and seconds",
    "pipeline.json": "the compiled definition",
    "pictures": "augmented films, segmentation montage",
    "logs": "what each job printed",
    "endpoint.json": "the endpoint that was kept; mammopipe delete ends it",
    "endpoint-async.json": "the async endpoint that was kept",
}


def images(options: argparse.Namespace) -> int:
    """Build or push the images, and print their names."""
    from mammopipe.pipelines.containers import images as making

    chosen = making.BuildOptions(options.base_image, options.torch_index, options.serving_extra, options.certificates)
    client = options.client or "docker"
    if options.action != "build":
        refuse(options, "certificates", rule="only of images build")
    if options.action == "tag":
        refuse(options, "client", rule="only of images build and push: a tag is of the code, and no client is asked")
        print(making.tag_of(options.root, chosen))
    elif options.action == "push":
        import boto3

        print(making.as_toml(making.push(options.root, chosen, boto3.Session(), client=client)))
    else:
        names = making.build(options.root.resolve(), chosen, client=client)
        for name, size in making.sizes(names, client=client).items():
            print(f"{name:<70} {size / 1e6:>7.0f} MB")
    return 0


def deploy(options: argparse.Namespace) -> int:
    """Serve a run's model on this machine and keep it running, or serve a registered package on AWS."""
    on_aws = bool(options.package or options.rollback)
    if on_aws:
        refuse(options, "capture", rule="of an endpoint on this machine; on AWS, endpoint.capture_percent captures")
        if options.id:
            raise ConfigError(
                f"{options.id}: a run's ID is for this machine; on AWS, --package ARN or --rollback says what is served"
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
            f"run {folder.id} keeps an endpoint already, at {local_endpoint.read_kept(folder.path)['url']}; "
            f"mammopipe delete {folder.id} ends it"
        )
    archive = folder.path / "model.tar.gz"
    if not archive.is_file():
        raise ConfigError(
            f"run {folder.id} has no model.tar.gz: it did not come that far (mammopipe status {folder.id})"
        )
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
    print(f"Endpoint {endpoint.name} answers at {endpoint.url}; mammopipe delete {folder.id} ends it")
    return 0


def _capture(folder: Path) -> dict[str, str]:
    """Return the variables that make an endpoint capture requests, within the caller's limits."""
    limits = ("MAMMOPIPE_CAPTURE_GB", "MAMMOPIPE_CAPTURE_DAYS")
    given = {name: os.environ[name] for name in limits if name in os.environ}
    return {"MAMMOPIPE_CAPTURE": str((folder / "captures").resolve()), **given}


def invoke(options: argparse.Namespace) -> int:
    """Send one image, or the images of one exam, to an endpoint."""
    from mammopipe.pipelines.commands import invoke as asking

    return asking.invoke(options)


def delete(options: argparse.Namespace) -> int:
    """Stop the endpoint that a run keeps."""
    from mammopipe.pipelines.backends.local_endpoint import delete_kept
    from mammopipe.pipelines.runs.folder import find_run

    folder = find_run(options.runs, options.id)
    stopped = delete_kept(folder.path)
    shutil.rmtree(folder.path / "endpoint", ignore_errors=True)
    print(f"Endpoint of run {folder.id} {'stopped' if stopped else 'was gone already'}")
    return 0
