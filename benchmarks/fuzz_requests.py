"""Fuzz a real server over loopback: `python -m benchmarks.fuzz_requests --cases 50000 --seed 0`.

A server process with two workers gets the cases of `benchmarks.serving.request_cases`, from two clients at once, and
the requests that schemathesis generates from its OpenAPI document. The rules: no 5xx answer except the documented 503
and 504, no worker dies, no answer exceeds the time limit, and no answer or log line names a person. Prints one JSON
object; on a broken rule, exits with code 1 and the numbers of the cases. `--case N` sends only that case.

The long run uses seed 0; `tests/inference/server/test_requests_fuzz.py` sends 300 cases of seed 4.
"""

import argparse
import http.client
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import requests

from benchmarks.serving.exam_images import IDENTITY
from benchmarks.serving.request_cases import DICOM, Case, make
from benchmarks.serving.request_schema import send_generated
from tests.inference.conftest import Server, poll, save_model, start

CLIENTS = 2
LIMITS = {
    "MAMMOPIPE_WORKERS": "2",
    "MAMMOPIPE_MAX_BYTES": "2000000",
    "MAMMOPIPE_MAX_PIXELS": "1000000",
    "MAMMOPIPE_MAX_SECONDS": "20",
}
"""Limits of the server; low, so that requests reach them."""
MAX_SECONDS = 25.0
"""Seconds from request to answer: the server's limit, plus an allowance for a busy machine."""
UVICORN_REFUSAL = "Invalid HTTP request received."
"""Message on standard error for bytes that are not HTTP."""
ALLOWED = {(503, "busy"), (504, "time_limit")}
"""The 5xx answers that the server may give; the answer for a lost worker is not among them."""


@dataclass
class Outcome:
    """The answers to all cases, and the rules that they broke."""

    answers: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    slowest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, kind: str, answer: str, seconds: float, problem: str | None) -> None:
        """Count an answer and record the rule that it broke, if any."""
        with self.lock:
            self.answers[answer] += 1
            self.kinds[f"{kind} {answer[:3]}"] += 1
            self.slowest = max(self.slowest, seconds)
            if not self.answers.total() % 1000:
                print(f"{self.answers.total()} cases, {len(self.problems)} problems", file=sys.stderr, flush=True)
            if problem is not None:
                self.problems.append(f"{name} ({kind}): {problem}")


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; status 0 means that the connection was closed without one."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> tuple[int, str]:
        """Status and code of the container's error, unwrapped from AWS's own error if necessary."""
        content = json.loads(self.body)
        if "OriginalMessage" in content:
            return int(content["OriginalStatusCode"]), str(json.loads(content["OriginalMessage"])["error"]["code"])
        return self.status, str(content["error"]["code"])


def problem(answer: Answer, *, head: bool = False) -> str | None:
    """Return the rule that an answer breaks, or `None`; an answer to HEAD has no body."""
    text = answer.body + repr(dict(answer.headers)).encode()
    report = answer.status == 200 and answer.headers.get("content-type") == DICOM  # a report must name its patient
    if not report and (named := [name for name in IDENTITY if name.encode() in text]):
        return f"the answer names {named}"
    if answer.status < 400 or head or answer.headers.get("content-type") != "application/json":
        return None if answer.status < 500 else f"status {answer.status} without an error"
    try:
        status, code = answer.error
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status} with a body that is not an error: {answer.body[:80]!r}"
    return f"{status} {code}" if status >= 500 and (status, code) not in ALLOWED else None


def received(response: http.client.HTTPResponse) -> Answer:
    """Return the response with header names in lower case."""
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


class Client:
    """One client's connection, reused from case to case while the server keeps it open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: http.client.HTTPConnection | None = None

    def send(self, case: Case) -> Answer:
        """Return the answer to a case; raises `OSError` if there is none in time."""
        if case.wire is not None:
            return self._send_bytes(case.wire)
        try:
            return self._send(case)
        except (http.client.HTTPException, ConnectionError):
            # The last answer may have closed a reused connection; a new connection must bring an answer.
            self.close()
            return self._send(case)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next case opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _send(self, case: Case) -> Answer:
        self._connection = self._connection or http.client.HTTPConnection("127.0.0.1", self._port, timeout=MAX_SECONDS)
        self._connection.putrequest(case.method, case.path, skip_accept_encoding=True)
        named = {name.lower() for name, _ in case.headers}
        for name, value in case.headers:
            self._connection.putheader(name, value.encode("utf-8"))
        if not named & {"content-length", "transfer-encoding"}:
            self._connection.putheader("Content-Length", str(len(case.body)))
        self._connection.endheaders(case.body)
        response = self._connection.getresponse()
        answer = received(response)
        if response.will_close or named & {"content-length", "transfer-encoding", "expect"}:
            self.close()
        return answer

    def _send_bytes(self, data: bytes) -> Answer:
        with socket.create_connection(("127.0.0.1", self._port), timeout=MAX_SECONDS) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                response = http.client.HTTPResponse(connection)
                response.begin()
                return received(response)
            except (http.client.HTTPException, ConnectionError):
                return Answer(0, {}, b"")


def generated_answer(session: requests.Session, arguments: Mapping[str, Any]) -> Answer:
    """Return the answer to a request that schemathesis generated."""
    response = session.request(**arguments, timeout=MAX_SECONDS, allow_redirects=False)
    return Answer(
        response.status_code, {name.lower(): value for name, value in response.headers.items()}, response.content
    )


def attempt(send: Callable[[], Answer], outcome: Outcome, name: str, kind: str, method: str = "POST") -> None:
    """Send a case and record its outcome."""
    begun = time.perf_counter()
    try:
        answer = send()
        label = f"{answer.status}" if answer.status in (0, 200) else _label(answer)
        wrong = problem(answer, head=method == "HEAD")
    except (OSError, http.client.HTTPException) as error:
        label, wrong = "none", f"no answer: {type(error).__name__}: {error}"
    outcome.add(name, kind, label, time.perf_counter() - begun, wrong)


def _label(answer: Answer) -> str:
    try:
        return "{} {}".format(*answer.error)
    except (ValueError, KeyError, TypeError):
        return f"{answer.status}"


def send_all(server: Server, seed: int, numbers: Sequence[int], outcome: Outcome) -> None:
    """Send the cases with these numbers, divided among the clients."""

    def run(share: Iterable[int]) -> None:
        client = Client(server.port)
        for number in share:
            case = make(seed, number)
            attempt(partial(client.send, case), outcome, f"case {number}", case.kind, case.method)
        client.close()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(run, (numbers[first::CLIENTS] for first in range(CLIENTS))))


def processes(parent: int) -> set[int]:
    """Return the process and all its living descendants (Linux, /proc/PID/stat)."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, above = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            parents[int(folder.name)] = int(above)
    family = {parent} & set(parents)
    while more := {child for child, above in parents.items() if above in family} - family:
        family |= more
    return family


def log_problems(server: Server) -> list[str]:
    """Return forbidden content in the server's log: a person, an error, a lost worker, a line that is not JSON."""
    problems = []
    for line in server.stdout.read_text(errors="replace").splitlines():
        facts = json.loads(line)
        status, code = facts.get("status", 0), facts.get("code", "")
        if any(name in line for name in IDENTITY) or facts.get("fault") or "lost" in str(facts.get("event")):
            problems.append(f"log: {line[:400]}")
        elif status >= 500 and (status, code) not in ALLOWED:
            problems.append(f"log: {line[:400]}")
    unexpected = set(server.stderr.read_text(errors="replace").splitlines()) - {UVICORN_REFUSAL}
    return problems + [f"standard error: {line[:400]}" for line in unexpected]


def fuzz(server: Server, *, cases: int, seed: int, only: int | None = None) -> Outcome:
    """Return the outcome of the cases; the server must be ready, and keeps running."""
    outcome = Outcome()
    before = processes(server.process.pid)
    generated = 0 if only is not None else cases // 20
    send_all(server, seed, [only] if only is not None else range(cases - generated), outcome)
    with requests.Session() as session:
        send_generated(
            server.url,
            seed,
            generated,
            lambda name, sent: attempt(lambda: generated_answer(session, sent), outcome, name, "schema"),
        )
    if dead := before - processes(server.process.pid):
        outcome.problems.append(f"{len(dead)} of the server's {len(before)} processes died")
    if server.ping() != 200:
        outcome.problems.append("the server is not healthy afterwards")
    outcome.problems += log_problems(server)
    return outcome


def main(arguments: Sequence[str]) -> int:
    """Return 1 if a rule was broken, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_requests", description=__doc__)
    parser.add_argument("--cases", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="send only the case with this number")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model")
        server = start(Path(folder), Path(folder), **LIMITS)
        try:
            poll(lambda: server.ping() == 200, 120)
            outcome = fuzz(server, cases=options.cases, seed=options.seed, only=options.case)
        finally:
            server.process.kill()
            server.process.wait()
    print(
        json.dumps(
            summary(outcome)
            | {"seed": options.seed, "minutes": round((time.monotonic() - begun) / 60, 1), "cores": os.cpu_count()},
            indent=2,
        )
    )
    return 1 if outcome.problems else 0


def summary(outcome: Outcome) -> dict[str, Any]:
    """Return the summary of an outcome."""
    return {
        "cases": outcome.answers.total(),
        "answers": dict(sorted(outcome.answers.items())),
        "kinds": dict(sorted(outcome.kinds.items())),
        "slowest_seconds": round(outcome.slowest, 2),
        "problems": outcome.problems[:50],
        "problem_count": len(outcome.problems),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
