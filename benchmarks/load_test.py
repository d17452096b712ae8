"""Ten minutes of load: latency and memory over time, as a table and a plot.

Run `python -m benchmarks.load_test [--minutes 10] [--clients 8] [--hostile] [-o FOLDER]`. It writes load_test.csv (one
line per second: seconds, requests answered, answers other than 200, median and longest ms in that second, MiB of the
server's process, its fork server and its workers) and load_test.svg. The exit code is 1 if any answer was not 200.

With `--hostile`, additional clients disconnect in the middle of a body or before the answer, close the connection by a
reset (RST), or stop after half a header, and the disk of the server's log is full (/dev/full). The normal clients may
then get 503 `busy`; any other failure counts. The printed lines have the memory at the beginning and at the end, and
its slope over the last two thirds of the run, in total and by process.
"""

import argparse
import contextlib
import csv
import io
import itertools
import queue
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from benchmarks.serving.harness import PGM, Client, film, memory_by_role, save_model, server, slope
from mammopipe.processing.files import write_bytes

WIDTH, HEIGHT, EDGE = 900, 220, 50
HOSTILE_CLIENTS = 4
PAUSE_SECONDS = 0.05
"""Pause of a hostile client between two connections."""
FULL_DISK = Path("/dev/full")
BUSY = 503


@dataclass(frozen=True)
class Second:
    """One row of the table."""

    seconds: float
    answered: int
    failed: int
    median_ms: float
    slowest_ms: float
    server_mib: float
    fork_server_mib: float
    workers_mib: float

    @property
    def memory_mib(self) -> float:
        """Memory of all processes."""
        return self.server_mib + self.fork_server_mib + self.workers_mib


def misbehave(port: int, body: bytes, manner: int) -> None:
    """Open a connection and abort it: after half a body, before the answer, by a reset, or after half a header."""
    head = (
        f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: {PGM}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    sent = (head + body[: len(body) // 2], head + body, head + body, head[:20])[manner % 4]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        if manner % 4 == 2:  # SO_LINGER with 0 seconds: closing resets the connection (socket(7))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)


def run(port: int, process: int, minutes: float, clients: int, *, hostile: bool = False) -> list[Second]:
    """Return the measurements of each second of the load."""
    body, begun = film(), time.monotonic()
    until = begun + 60 * minutes
    replies: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()

    def one() -> None:
        with contextlib.closing(Client(port)) as client:
            while time.monotonic() < until:
                replies.put(client.ask(body))

    def other() -> None:
        for manner in itertools.count():
            if time.monotonic() >= until:
                return
            misbehave(port, body, manner)
            time.sleep(PAUSE_SECONDS)

    threads = [threading.Thread(target=one) for _ in range(clients)]
    threads += [threading.Thread(target=other) for _ in range(HOSTILE_CLIENTS if hostile else 0)]
    for thread in threads:
        thread.start()
    rows = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(1)
        got = [replies.get() for _ in range(replies.qsize())]
        times = [1000 * seconds for _, seconds in got] or [0.0]
        rows.append(
            Second(
                round(time.monotonic() - begun, 1),
                len(got),
                sum(status != 200 and not (hostile and status == BUSY) for status, _ in got),
                round(statistics.median(times), 1),
                round(max(times), 1),
                *(round(size, 1) for size in memory_by_role(process).values()),
            )
        )
    return rows


def growth(rows: Sequence[Second], name: str) -> str:
    """Return the first and the last value of a column, and its slope over the last two thirds, as text."""
    settled = rows[len(rows) // 3 :]
    counts = list(itertools.accumulate(row.answered for row in settled))
    per_request, error = slope(counts, [getattr(row, name) for row in settled])
    first, last = getattr(rows[0], name), getattr(rows[-1], name)
    return f"{first:.1f} to {last:.1f}, {1000 * per_request:.2f} (standard error {1000 * error:.2f}) for 1,000 requests"


def table(rows: Sequence[Second]) -> bytes:
    """Return the rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Second)])
    writer.writerows(map(astuple, rows))
    return text.getvalue().encode()


def picture(rows: Sequence[Second]) -> bytes:
    """Return memory and latency over time as one SVG."""
    panels = (
        ("memory of all processes, MiB", [row.memory_mib for row in rows]),
        ("median latency of a second, ms", [row.median_ms for row in rows]),
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {2 * HEIGHT}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for place, (title, values) in enumerate(panels):
        parts.append(_panel(title, [row.seconds for row in rows], values, place * HEIGHT))
    return "\n".join([*parts, "</svg>\n"]).encode()


def _panel(title: str, seconds: Sequence[float], values: Sequence[float], top: int) -> str:
    highest, last = 1.1 * max(values) or 1.0, seconds[-1] or 1.0
    width, height = WIDTH - 2 * EDGE, HEIGHT - EDGE
    floor = top + HEIGHT - EDGE / 2
    points = " ".join(
        f"{EDGE + width * second / last:.1f},{floor - height * value / highest:.1f}"
        for second, value in zip(seconds, values, strict=True)
    )
    return (
        f'<text x="{EDGE}" y="{top + 16}">{title}</text>'
        f'<path d="M{EDGE} {floor - height}V{floor}H{EDGE + width}" fill="none" stroke="#888"/>'
        f'<text x="4" y="{floor}">0</text><text x="4" y="{floor - height + 10}">{highest:.0f}</text>'
        f'<text x="{EDGE + width}" y="{floor + 14}" text-anchor="end">{last / 60:.1f} min</text>'
        f'<polyline points="{points}" fill="none" stroke="#0b6"/>'
    )


def main() -> int:
    """Run the load, write both files and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument(
        "--hostile", action="store_true", help="add clients that abort connections, and fill the log's disk"
    )
    parser.add_argument("--engine", choices=("auto", "torch"), default="auto")
    parser.add_argument("-o", "--output", type=Path, default=Path("load_test"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(save_model(Path(name) / "model", export=options.engine == "auto"), file=sys.stderr)
        with server(Path(name), FULL_DISK if options.hostile else None) as (port, process, _):
            rows = run(port, process, options.minutes, options.clients, hostile=options.hostile)
    write_bytes(options.output / "load_test.csv", table(rows))
    write_bytes(options.output / "load_test.svg", picture(rows))
    failed = sum(row.failed for row in rows)
    print(f"{sum(row.answered for row in rows)} requests, {failed} failed")
    for name in ("memory_mib", "server_mib", "fork_server_mib", "workers_mib"):
        print(f"{name}: {growth(rows, name)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
