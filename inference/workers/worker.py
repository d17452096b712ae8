"""A worker process: loads, warms up and runs one model in one thread, one request after the other.

A forward pass in a thread that did not warm up takes 1.7 times as long, because OpenMP keeps a pool of threads for each
computing thread. The worker first sends `None` once it has answered the warm-up image, or a `CannotServeError`. Then it
receives one `Task` at a time, with its body as an open file, and answers each with a `Reply`, a `RequestError` or a
`WorkerFault`.
"""

import gc
import importlib
import logging
import pickle
import socket
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache

import cv2

from mammopipe.inference.contract.errors import CannotServeError, RequestError, WorkerFault, fault_trace
from mammopipe.inference.contract.task import Reply, Task
from mammopipe.inference.engines.base import EngineSettings
from mammopipe.inference.payload.digest import Digest
from mammopipe.inference.prediction.handler import answer
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.inference.settings import EngineKind, ServerSettings
from mammopipe.inference.workers.channel import read_body, receive, send
from mammopipe.inference.workers.process import compute_in_batches
from mammopipe.processing.errors import MammopipeError
from mammopipe.processing.read_config import ReadConfig
from mammopipe.training.model.description import OPENVINO, read_description


def work(channel: socket.socket, settings: ServerSettings) -> None:
    """Load the model and answer until the other end of the channel is closed."""
    compute_in_batches()
    cv2.setNumThreads(settings.threads)
    try:
        predictor, reading = load(settings)
    except CannotServeError as error:
        send(channel, error)
        return
    _silence_libraries()
    # Objects that live as long as the process are left out of every later garbage collection.
    gc.collect()
    gc.freeze()
    send(channel, None)
    hasher = ThreadPoolExecutor(1)  # a worker has one request at a time, and so one body to hash
    while (received := receive(channel)) is not None:
        (request_id, packed, size), descriptor = received
        if descriptor is None:
            raise ValueError("a task must come with an open file, its body")
        # This frame must not keep a reference to a request, because a body can be a gigabyte.
        task = replace(_unpacked(packed), request_id=request_id, body=read_body(descriptor, size))
        outcome = _outcome(predictor, task, reading, hasher)
        del task
        send(channel, outcome)
        del outcome, received


def share(settings: ServerSettings) -> None:
    """Import the engine's modules before workers are forked, so that workers start fast and share their memory."""
    with suppress(MammopipeError, ModuleNotFoundError):  # the worker itself reports a faulty model or image
        exported = OPENVINO in read_description(settings.model).get("engines", {})
        torch = settings.engine is EngineKind.TORCH or not exported
        importlib.import_module(
            "mammopipe.inference.engines.torch" if torch else "mammopipe.inference.engines.openvino"
        )
        if torch:
            # The heatmap of the warm-up image needs both; here they are loaded once instead of in every worker.
            for name in ("captum.attr", "torch._dynamo"):
                importlib.import_module(name)


def load(settings: ServerSettings) -> tuple[Predictor, ReadConfig]:
    """Return a predictor that has answered its warm-up image, and the settings of the image reader.

    Raises:
        CannotServeError: The model cannot be used, or the settings do not suit it.
    """
    try:
        engine = EngineSettings(settings.engine, settings.threads)
        predictor = Predictor(
            settings.model,
            model_id=settings.model_id,
            engine=engine,
            prevalence=settings.prevalence,
            exclusions=settings.exclusions,
        )
        reading = settings.reading(predictor.for_processing)
        predictor.warm_up()
    except MammopipeError as error:
        raise CannotServeError(str(error)) from None
    except Exception as error:  # the boundary: there is no request yet, so the text cannot hold personal data
        traceback.print_exc()
        raise CannotServeError(f"{settings.model}: the model cannot be loaded: {error!r}") from None
    return predictor, reading


def _silence_libraries() -> None:
    """Silence warnings and log lines of libraries, because they may quote personal data from a file."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)


@lru_cache(maxsize=16)
def _unpacked(packed: bytes) -> Task:
    """Return a task without request id and body."""
    task: Task = pickle.loads(packed)
    return task


def _outcome(
    predictor: Predictor, task: Task, reading: ReadConfig, hasher: ThreadPoolExecutor
) -> Reply | RequestError | WorkerFault:
    digest = Digest(task.body, hasher)
    try:
        reply = answer(predictor, task, reading, digest)
        return replace(reply, facts={**reply.facts, "sha256": digest.result()})
    except RequestError as refusal:
        return refusal
    except Exception as fault:  # the boundary: the request gets an answer and the worker continues, whatever it is
        return WorkerFault(fault_trace(fault))
