"""The least work that a server can do: a plain loop that receives each image over a socket, hashes it and answers.

`python -m benchmarks.serving.ideal_server MODEL` prints its port and then answers one request after the other. Two of
them at once show the most that a server could reach on two processors: they check nothing, write no log, and receive
each request in the process that computes.
"""

import hashlib
import json
import re
import selectors
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.serving.harness import film
from benchmarks.serving.plain_loop import predictor_of_one_thread
from mammopipe.processing.container.memory import keep_heap
from mammopipe.processing.images.mammogram import read_mammogram


def main(model: Path) -> None:
    """Answer the connections in turn until the process is ended."""
    keep_heap()
    predictor = predictor_of_one_thread(model)

    def answer(body: bytes) -> bytes:
        prediction = predictor.predict(read_mammogram(body))
        probabilities = {str(label): value for label, value in prediction.probabilities.items()}
        return json.dumps({"probabilities": probabilities, "sha256": hashlib.sha256(body).hexdigest()}).encode()

    answer(film())
    with socket.create_server(("127.0.0.1", 0)) as listener, selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        print(listener.getsockname()[1], flush=True)
        while True:
            for key, _ in selector.select():
                connection = key.fileobj
                if connection is listener:
                    selector.register(listener.accept()[0], selectors.EVENT_READ)
                elif isinstance(connection, socket.socket) and not serve(connection, answer):
                    selector.unregister(connection)
                    connection.close()


def serve(connection: socket.socket, answer: Callable[[bytes], bytes]) -> bool:
    """Answer one request; return `False` if the client has closed the connection instead."""
    lines, end, _ = connection.recv(2**12, socket.MSG_PEEK).partition(b"\r\n\r\n")
    found = re.search(rb"\r\nContent-Length: (\d+)", lines)
    if not end or found is None:
        return False
    connection.recv(len(lines) + len(end))
    body = connection.recv(int(found[1]), socket.MSG_WAITALL)
    if len(body) < int(found[1]):
        return False
    text = answer(body)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
