"""Console script `serve`: what SageMaker starts in an inference container, and what answers on a laptop.

    GET  /ping                        200 when a worker has answered its warm-up image, else and while stopping 503
    POST /invocations                 image or exam in, answer out: `mammopipe.inference.contract.schema`; refusals:
    `mammopipe.inference.contract.errors`
    GET  /                            with `--demo`, and on the loopback interface only: a page to try it with
    POST /endpoints/NAME/invocations  the same for a `sagemaker-runtime` client; errors are wrapped as AWS wraps them

This process takes requests in and has neither torch nor an image reader; worker processes answer
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
    """Serve, and end with exit code 0 when stopped by a signal, or 1 and one line for what the user can mend."""
    try:
        main(sys.argv[1:])
    except MammopipeError as error:
        sys.exit(f"error: {error}")


def main(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT; raises `ConfigError` where settings, address or model cannot be used."""
    parser = argparse.ArgumentParser(
        prog="serve",
        description="Answers mammograms on POST /invocations; GET /ping says whether it can.",
        epilog=f"settings, read from environment variables:\n{describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="show a page at / to try the server with, on the loopback interface only; as MAMMOPIPE_DEMO=true",
    )
    demo = {"MAMMOPIPE_DEMO": "true"} if parser.parse_args(arguments).demo else {}
    settings = from_environment({**os.environ, **demo})
    description = settings.model / "model.json"
    if not description.is_file():
        raise ConfigError(f"{description}: is missing; a model directory holds it and weights.safetensors")
    log = Log.standard_output()
    _open_standard_streams()
    prevent_core_files()
    with _listen(settings) as listener:
        # Imported late: a mistake in the settings is reported without waiting for the web server's modules.
        from mammopipe.inference.server.lifecycle import serve

        # Bodies arrive in pieces of 256 KB; without this each would be memory taken from the system and given back.
        keep_heap()
        asyncio.run(serve(settings, listener, log))


def _open_standard_streams() -> None:
    """Have descriptors 0 to 2 taken, where the process was started without them.

    The next socket would get their numbers, and what a library prints would be sent to a client.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _listen(settings: ServerSettings) -> socket.socket:
    try:
        listener = socket.create_server((settings.host, settings.port), backlog=512)
    except OSError as error:
        raise ConfigError(f"address {settings.host} port {settings.port}: cannot listen: {error.strerror}") from None
    # Connections inherit it. asyncio sets it only where a socket names its protocol, which those accepted here do not;
    # without it the end of an answer waits some 40 ms for the client to acknowledge its beginning.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


if __name__ == "__main__":
    console()
