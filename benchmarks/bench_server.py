"""The server against a plain loop of the same predictor: latency, throughput, overload, start, memory.

Run `python -m benchmarks.bench_server [--rounds 10] [--requests 1000] [--engine auto|torch] [--parts PART ...]`: a JSON
list on stdout; `--model FOLDER` keeps the model for the next part. A ResNet-50 of 224 x 224 with random weights answers
an image of 1024 x 1024 (PGM, 1 MB). Server and plain loop alternate, for one client request by request, with one thread
per process; only ratios are comparable. The clients use as little processor time as possible, because they run on the
same processors; the latency with Python's `http.client` is a peer figure. Use `--requests 20000` for the slope of
memory over a long run. Memory counts each shared page once (Pss); the peer figure counts it in every process (Rss).
"""

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Barrier
from typing import Literal

import numpy as np

from benchmarks import rows
from benchmarks.rows import Row
from benchmarks.serving.harness import (
    PGM,
    Client,
    Loop,
    film,
    ideal_server,
    loop,
    memory,
    save_model,
    server,
    slope,
    together,
)

COMMAND = "python -m benchmarks.bench_server"
CLIENTS, CROWD = 8, 48
SPELL_SECONDS = 3.0
LEAST_REQUESTS = 10_000
"""Fewer requests only show the filling of caches and memory arenas."""
PARTS = ("latency", "throughput", "overload", "heatmap", "memory", "start")


def row(
    name: str, value: float, unit: str, bar: float | None, better: Literal["lower", "higher"], **peers: float
) -> Row:
    """Return one figure of the table."""
    return rows.row(name, value, unit, bar, better, COMMAND, **peers)


def latency(port: int, plain: Loop, body: bytes, rounds: int) -> list[Row]:
    """Return the rows for one client."""
    usual = http.client.HTTPConnection("127.0.0.1", port)
    ours, usuals, theirs = [], [], []
    with closing(Client(port)) as client, closing(usual):
        client.ask(body)
        for _ in range(30 * rounds):
            # They alternate, so that other load on the machine affects all equally. The plain loop runs before each
            # request to the server, because it evicts the server's data from the processor's caches.
            theirs += plain.run("film", 1)
            status, seconds = client.ask(body)
            assert status == 200 and b'"malignancy_score"' in client.answer
            ours.append(seconds)
            theirs += plain.run("film", 1)
            usuals.append(_seconds(usual, body))
    ours, theirs = [1000 * each for each in ours], [1000 * each for each in theirs]
    p50, p99 = statistics.median(ours), float(np.percentile(ours, 99))
    loop50, loop99 = statistics.median(theirs), float(np.percentile(theirs, 99))
    return [
        row(
            "server, one client: p50, times the plain loop's",
            p50 / loop50,
            "x",
            1.10,
            "lower",
            server_ms=p50,
            plain_loop_ms=loop50,
            with_http_client_ms=1000 * statistics.median(usuals),
        ),
        row(
            "server, one client: p99 over p50, times the plain loop's own",
            (p99 / p50) / (loop99 / loop50),
            "x",
            1.15,
            "lower",
            server_p99_over_p50=p99 / p50,
            plain_loop_p99_over_p50=loop99 / loop50,
        ),
    ]


def _seconds(connection: http.client.HTTPConnection, body: bytes) -> float:
    """Return the seconds of a request of Python's own client."""
    begun = time.perf_counter()
    connection.request("POST", "/invocations", body, {"Content-Type": PGM})
    connection.getresponse().read()
    return time.perf_counter() - begun


def rate(ports: Sequence[int], body: bytes) -> tuple[float, int]:
    """Return the requests a second of eight clients, and how many were not answered 200."""
    replies = together(ports, CLIENTS, SPELL_SECONDS, body)
    # Each client's rate over its own time, because the last requests continue after the measured period.
    return CLIENTS / statistics.mean(seconds for _, seconds in replies), sum(status != 200 for status, _ in replies)


def throughput(port: int, plain: Loop, second: Loop, ideal: Sequence[int], body: bytes, rounds: int) -> list[Row]:
    """Return the rows for eight clients; two plain loops and two ideal servers at once show what is possible."""
    ours, alone, both, ideals, lost = [], [], [], [], 0
    for _ in range(rounds):
        one = plain.run("film", 20)
        alone.append(len(one) / sum(one))
        with ThreadPoolExecutor(2) as pool:
            pair = list(pool.map(lambda each: each.run("film", 20), (plain, second)))
        both.append(sum(len(seconds) / sum(seconds) for seconds in pair))
        ideals.append(rate(ideal, body)[0])
        reached, refused = rate([port], body)
        ours.append(reached)
        lost += refused
    server_rate, single, pair_rate, ideal_rate = map(statistics.median, (ours, alone, both, ideals))
    return [
        row(
            "server, 8 clients: throughput, times twice the plain loop's",
            server_rate / (2 * single),
            "x",
            0.95,
            "higher",
            server_per_second=server_rate,
            plain_loop_per_second=single,
        ),
        row(
            "server, 8 clients: throughput, times two plain loops at once",
            server_rate / pair_rate,
            "x",
            None,
            "higher",
            two_plain_loops_per_second=pair_rate,
        ),
        row(
            "server, 8 clients: throughput, times two ideal servers at once",
            server_rate / ideal_rate,
            "x",
            0.95,
            "higher",
            two_ideal_servers_per_second=ideal_rate,
            two_ideal_servers_times_twice_the_loop=ideal_rate / (2 * single),
        ),
        row("server, 8 clients: requests lost", lost, "requests", 0, "lower"),
    ]


def overload(port: int, body: bytes) -> list[Row]:
    """Return the time of a refusal when 48 clients send requests at once."""
    barrier = Barrier(CROWD)

    def one(_: int) -> tuple[int, float]:
        with closing(Client(port)) as client:
            barrier.wait()
            return client.ask(body)

    with ThreadPoolExecutor(CROWD) as pool:
        replies = list(pool.map(one, range(CROWD)))
    refused = sorted(1000 * seconds for status, seconds in replies if status == 503)
    assert refused and {status for status, _ in replies} == {200, 503}
    return [
        row(
            f"server, {CROWD} clients at once: median time to a refusal",
            statistics.median(refused),
            "ms",
            100,
            "lower",
            slowest_ms=refused[-1],
            refused=len(refused),
        )
    ]


def heatmap(port: int, plain: Loop, body: bytes, rounds: int) -> list[Row]:
    """Return the extra time of a heatmap, in the predictor and in the whole answer."""
    parts: dict[str, list[float]] = {name: [] for name in ("forward", "heat", "without", "with")}
    with closing(Client(port)) as client:
        for _ in range(rounds):
            for name in ("forward", "heat"):
                parts[name] += plain.run(name, 5)
            for _ in range(5):
                parts["without"].append(client.ask(body)[1])
                parts["with"].append(client.ask(body, "?heatmap=true")[1])
    middle = {name: 1000 * statistics.median(each) for name, each in parts.items()}
    return [
        row(
            "heatmap over the film, times a forward",
            middle["heat"] / middle["forward"],
            "x",
            1.0,
            "lower",
            forward_ms=middle["forward"],
            heatmap_ms=middle["heat"],
            added_to_the_answer_ms=middle["with"] - middle["without"],
        )
    ]


def long_run(port: int, process: int, body: bytes, requests: int) -> list[Row]:
    """Return the memory of all server processes, and its growth."""
    counts, sizes, resident, done = [], [], 0.0, 0
    while done < requests:
        done += len(together([port], CLIENTS, SPELL_SECONDS, body))
        size, resident = memory(process)
        counts.append(done)
        sizes.append(size)
    print(f"{done} requests: {sizes[0]:.0f} to {sizes[-1]:.0f} MiB", file=sys.stderr)
    held = row("server: memory of all its processes", max(sizes), "MiB", 400, "lower", shared_counted_twice=resident)
    if done < LEAST_REQUESTS:
        print(f"too few requests for the memory's growth: {LEAST_REQUESTS} are needed", file=sys.stderr)
        return [held]
    # The first third fills caches and memory arenas, so it is left out.
    rise, error = slope(counts[len(counts) // 3 :], sizes[len(sizes) // 3 :])
    return [
        held,
        row(
            f"server: memory growth over {requests:,} requests",
            1000 * rise,
            "MiB / 1000 requests",
            0.5,
            "lower",
            standard_error=1000 * error,
            requests=done,
        ),
    ]


def start(base: Path, ready: float) -> list[Row]:
    """Return the seconds until /ping answers 200."""
    times = [ready]
    for _ in range(2):
        with server(base) as (_, _, seconds):
            times.append(seconds)
    return [row("server: ready after start", statistics.median(times), "s", 2.5, "lower", fastest=min(times))]


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--engine", choices=("auto", "torch"), default="auto")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--model", type=Path, help="folder that keeps the model; made if it has none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        base = options.model or Path(name)
        if not (base / "model" / "model.json").is_file():
            engine = save_model(base / "model", export=options.engine == "auto")
            print(f"engine: {engine}", file=sys.stderr)
        found = measure(base, options.parts, options.rounds, options.requests)
    print(json.dumps(found, indent=2))


def measure(base: Path, parts: Sequence[str], rounds: int, requests: int) -> list[Row]:
    """Return the rows of these parts."""
    body = film()
    found: list[Row] = []
    model = base / "model"
    with ExitStack() as stack:
        plain, second = (stack.enter_context(loop(model)) for _ in range(2))
        ideal = [stack.enter_context(ideal_server(model)) for _ in range(2)] if "throughput" in parts else []
        port, process, ready = stack.enter_context(server(base))
        works: dict[str, Callable[[], list[Row]]] = {
            "latency": lambda: latency(port, plain, body, rounds),
            "throughput": lambda: throughput(port, plain, second, ideal, body, rounds),
            "overload": lambda: overload(port, body),
            "heatmap": lambda: heatmap(port, plain, body, rounds),
            "memory": lambda: long_run(port, process, body, requests),
        }
        for name, work in works.items():
            if name in parts:
                found += work()
    return [*found, *(start(base, ready) if "start" in parts else [])]


if __name__ == "__main__":
    main()
