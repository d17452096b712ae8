"""A worker process: one model, loaded, warmed up and run in one thread, one request after the other.

A forward in a thread that did not warm up takes 1.7x: OpenMP keeps one pool of threads for each thread that computes.
The worker first sends `None` when it has answered the warm-up image, or the `CannotServeError` that stops it. Then it
takes a `Task` at a time, its body as an open file, and sends a `Reply`, a `RequestError` or a `WorkerFault` for each.
"""

import hashlib
import importlib
import logging
import socket
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import cv2

from mammopipe.inference.contract.errors import CannotServeError, RequestError, WorkerFault, fault_trace
from mammopipe.inference.contract.task import Reply, Task
from mammopipe.inference.engines.base import EngineSettings
from mammopipe.inference.prediction.handler import answer
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.inference.settings import EngineKind, ServerSettings
from mammopipe.inference.workers.channel import read_body, receive, send
from mammopipe.processing.errors import MammopipeError
from mammopipe.training.model.description import OPENVINO, read_description


def work(channel: socket.socket, settings: ServerSettings) -> None:
    """Load the model and answer until the other end of the channel is closed."""
    cv2.setNumThreads(settings.threads)
    try:
        predictor = load(settings)
    except CannotServeError as error:
        send(channel, error)
        return
    _keep_quiet()
    send(channel, None)
    hasher = ThreadPoolExecutor(1)
    while (received := receive(channel)) is not None:
        task, descriptor = received
        if descriptor is None:
            raise ValueError("a task must come with an open file, its body")
        # Nothing of a request may stay behind in this frame: a body can be a gigabyte.
        send(channel, _outcome(predictor, replace(task, body=read_body(descriptor)), settings, hasher))
        del task, received


def share(settings: ServerSettings) -> None:
    """Import what computes the network, before workers are forked: they then have it at once and in common."""
    with suppress(MammopipeError, ModuleNotFoundError):  # what is wrong with model or image, the worker itself will say
        exported = OPENVINO in read_description(settings.model).get("engines", {})
        torch = settings.engine is EngineKind.TORCH or not exported
        importlib.import_module(
            "mammopipe.inference.engines.torch" if torch else "mammopipe.inference.engines.openvino"
        )
        if torch:
            # The heatmap of the warm-up image needs both: loaded once here, not again in every worker.
            for name in ("captum.attr", "torch._dynamo"):
                importlib.import_module(name)


def load(settings: ServerSettings) -> Predictor:
    """Return a predictor that has answered its warm-up image, or raise `CannotServeError` with the reason."""
    try:
        engine = EngineSettings(settings.engine, settings.threads)
        predictor = Predictor(
            settings.model,
            model_id=settings.model_id,
            engine=engine,
            prevalence=settings.prevalence,
            exclusions=settings.exclusions,
        )
        predictor.warm_up()
    except MammopipeError as error:
        raise CannotServeError(str(error)) from None
    except Exception as error:  # the boundary: there is no request yet, so all of it may be told
        traceback.print_exc()
        raise CannotServeError(f"{settings.model}: the model cannot be loaded: {error!r}") from None
    return predictor


def _keep_quiet() -> None:
    """Silence warnings and log lines of libraries: they may quote what a file says of a person."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)


def _outcome(
    predictor: Predictor, task: Task, settings: ServerSettings, hasher: ThreadPoolExecutor
) -> Reply | RequestError | WorkerFault:
    # Beside the work: hashing a body takes no lock of the interpreter's, and the caller does not wait for it.
    hashed = hasher.submit(_sha256, task.body)
    try:
        reply = answer(predictor, task, settings.reading, hashed)
        return replace(reply, facts={**reply.facts, "sha256": hashed.result()})
    except RequestError as refusal:
        return refusal
    except Exception as fault:  # the boundary: whatever it is, the request gets an answer and the worker lives on
        return WorkerFault(fault_trace(fault))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
