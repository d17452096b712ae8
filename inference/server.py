"""Console script `serve`: what SageMaker starts in an inference container, and what answers on a laptop.

    GET  /ping                        200 when the model has answered a warm-up image and nothing stops it, else 503
    POST /invocations                 one image in, one answer out: `inference.schema`; refusals: `inference.errors`
    POST /endpoints/NAME/invocations  the same for a `sagemaker-runtime` client; errors are wrapped as AWS wraps them

One process. The event loop takes requests in; one thread loads, warms up and runs the model (`inference.worker`).
Settings come from the environment (`inference.settings`). Standard output is JSON lines and nothing else.
Source: "Custom Inference Code with Hosting Services" (SageMaker Developer Guide).
"""

import argparse
import asyncio
import os
import socket
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from inference.settings import ServerSettings, from_environment
from processing.errors import ConfigError, MammopipeError

if TYPE_CHECKING:
    from inference.predictor import Predictor

# The heavy modules are imported where they are needed, so that a missing model is told before torch is loaded.


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code: 0 stopped, 1 the user's error, told in one line."""
    argparse.ArgumentParser(prog="serve", description="Answer on /ping and /invocations; settings are environment "
                            "variables (inference/settings.py).").parse_args(arguments)
    try:
        settings = from_environment(os.environ)
        if not (settings.model / "model.json").is_file():
            raise ConfigError(f"{settings.model / 'model.json'}: is missing; a model directory holds it and "
                              "weights.safetensors")
        with _listen(settings) as listener:
            asyncio.run(serve(settings, listener))
    except MammopipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _listen(settings: ServerSettings) -> socket.socket:
    try:
        return socket.create_server((settings.host, settings.port), backlog=512)
    except OSError as error:
        raise ConfigError(f"address {settings.host} port {settings.port}: cannot listen: {error.strerror}") from None


async def serve(settings: ServerSettings, listener: socket.socket) -> None:
    """Answer on `listener` until the process is told to stop; raises what loading the model raises."""
    import uvicorn

    from inference.app import Application, log
    from inference.worker import Worker

    class Server(uvicorn.Server):
        """uvicorn, but asked to stop it first answers 503 and finishes what runs, and it ends with exit code 0."""

        stop_by = 0.0
        quiet_ticks = 0

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """Begin to stop; asked twice, stop at once."""
            if application.stopping:
                self.force_exit = self.should_exit = True
            application.stopping = True
            self.stop_by = time.monotonic() + settings.stop_seconds

        async def on_tick(self, counter: int) -> bool:
            """Return, ten times a second, whether to close the listener: when nothing has run for a whole tick."""
            self.quiet_ticks = self.quiet_ticks + 1 if application.stopping and application.idle else 0
            overdue = application.stopping and time.monotonic() > self.stop_by
            return await super().on_tick(counter) or self.quiet_ticks > 1 or overdue

    worker: Worker[Predictor] = Worker(lambda: _load(settings), capacity=settings.max_waiting)
    application = Application(settings, worker)
    server = Server(uvicorn.Config(application.asgi(), log_config=None, access_log=False, lifespan="off", ws="none",
                                   timeout_keep_alive=75, timeout_graceful_shutdown=1, server_header=False))
    host, port = listener.getsockname()[:2]
    log("listening", host=host, port=port)
    begun = time.perf_counter()

    async def start() -> None:
        try:
            await worker.start()
            log("ready", seconds=round(time.perf_counter() - begun, 2))
        except BaseException:
            server.should_exit = True
            raise

    starting = asyncio.create_task(start())
    await server.serve(sockets=[listener])
    if starting.done():
        await starting
    starting.cancel()
    log("stopped")


def _load(settings: ServerSettings) -> "Predictor":
    from inference.predictor import Predictor

    predictor = Predictor(settings.model, model_id=settings.model_id)
    predictor.warm_up()
    return predictor


if __name__ == "__main__":
    sys.exit(main())
