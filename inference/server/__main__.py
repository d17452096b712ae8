"""Console script `serve`: the server, which SageMaker starts in an inference container and which also runs locally.

    GET  /ping                        200 once a worker has answered its warm-up image; 503 before and while stopping
    POST /invocations                 image or exam in, answer out: `mammopipe.inference.contract.schema`; errors:
    `mammopipe.inference.contract.errors`
    GET  /                            the demo page, with `--demo` and on the loopback interface only
    POST /endpoints/NAME/invocations  the same for a `sagemaker-runtime` client; errors are wrapped as AWS wraps them

This process receives requests and loads neither torch nor an image reader; worker processes answer
(`mammopipe.inference.workers.pool`).
Settings come from the environment (`mammopipe.inference.settings`). Standard output is JSON lines and nothing else.
Source: "Custom Inference Code with Hosting Services" (SageMaker Developer Guide).
"""

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import Sequence

from mammopipe.inference.server.log import Log
from mammopipe.inference.settings import ServerSettings, describe, from_environment
from mammopipe.inference.workers.process import prevent_core_files
from mammopipe.processing.container.memory import keep_heap
from mammopipe.processing.errors import ConfigError, MammopipeError


def console() -> None:
    """Serve; exit with code 0 after a signal, or with code 1 and one line for an error that the user can fix."""
    try:
        main(sys.argv[1:])
    except MammopipeError as error:
        sys.exit(f"error: {error}")


def main(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT; raises `ConfigError` if settings, address or model cannot be used."""
    parser = argparse.ArgumentParser(
        prog="serve",
        description="Answers mammograms on POST /invocations; GET /ping says whether it can.",
        epilog=f"settings, read from environment variables:\n{describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="serve a page at / for trying the server, on the loopback interface only; same as MAMMOPIPE_DEMO=true",
    )
    demo = {"MAMMOPIPE_DEMO": "true"} if parser.parse_args(arguments).demo else {}
    # The option wins over the variable, which may say false.
    settings = from_environment({**os.environ, **demo})
    description = settings.model / "model.json"
    if not description.is_file():
        raise ConfigError(f"{description}: is missing; a model directory contains it and weights.safetensors")
    log = Log.standard_output()
    _open_standard_streams()
    prevent_core_files()
    with _listen(settings) as listener:
        # Imported late: a mistake in the settings is reported without waiting for the web server's modules.
        from mammopipe.inference.server.lifecycle import serve

        # Bodies arrive in pieces of 256 KB. Without this each piece would be allocated from the system and returned.
        keep_heap()
        asyncio.run(serve(settings, listener, log))


def _open_standard_streams() -> None:
    """Open descriptors 0 to 2 if the process was started without them.

    Otherwise the next socket would get one of these numbers, and the output of a library would reach a client.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _listen(settings: ServerSettings) -> socket.socket:
    try:
        listener = socket.create_server((settings.host, settings.port), backlog=512)
    except OSError as error:
        raise ConfigError(f"address {settings.host} port {settings.port}: cannot listen: {error.strerror}") from None
    # Connections inherit this option. asyncio sets it only for sockets that name their protocol, which these do not.
    # Without it the end of an answer waits some 40 ms until the client has acknowledged its beginning.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


if __name__ == "__main__":
    console()
