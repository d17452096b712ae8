"""The process that workers are forked from: `python -m mammopipe.inference.workers.fork_server DESCRIPTOR`.

`mammopipe.inference.workers.fork_server_client` starts it.

It imports torch and the image reader once and computes nothing. It therefore has one thread and may fork: a worker
starts in milliseconds, and all workers share the memory of the imported modules. On its channel it accepts

    (Order.FORK, ServerSettings), with the worker's channel as descriptor; it answers (Report.FORKED, process id)
    (Order.KILL, process id)                                    to end a worker
    and reports (Report.ENDED, process id, exit code)           negative: ended by that signal

It ends when the channel is closed. On Linux the system kills it when its parent ends, and its workers with it.
"""

import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from mammopipe.inference.settings import ServerSettings
from mammopipe.inference.workers.channel import Order, Report, receive, send
from mammopipe.inference.workers.process import end_with_parent, prevent_core_files

Share = Callable[[ServerSettings], None]
Work = Callable[[socket.socket, ServerSettings], None]


def main(arguments: Sequence[str]) -> None:
    """Fork and kill workers on order, until the channel is closed."""
    end_with_parent()
    prevent_core_files()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Only the server acts on a signal to the process group: it finishes running requests, then ends its workers.
        signal.signal(number, signal.SIG_IGN)
    child_ended = _child_end_socket()
    # Imported after `end_with_parent`, because it takes seconds during which the parent may end.
    from mammopipe.inference.workers.worker import share, work

    with socket.socket(fileno=int(arguments[0])) as channel:
        _serve(channel, child_ended, share, work)


def _serve(channel: socket.socket, child_ended: socket.socket, share: Share, work: Work) -> None:
    children: set[int] = set()
    shared = False
    while True:
        ready, _, _ = select.select([channel, child_ended], [], [])
        if child_ended in ready:
            child_ended.recv(4096)
            for process, code in _reap(children):
                send(channel, (Report.ENDED, process, code))
        if channel in ready:
            received = receive(channel)
            if received is None:
                return
            (order, value), descriptor = received
            # The worker may have ended meanwhile, and the system may have given its process id to another process.
            if order is Order.KILL and value in children:
                os.kill(value, signal.SIGKILL)
            if order is Order.FORK and descriptor is not None:
                if not shared:
                    share(value)
                    # Exclude existing objects from garbage collection, so that workers do not copy their memory pages.
                    gc.collect()
                    gc.freeze()
                    shared = True
                children.add(child := _fork(descriptor, value, work, (channel, child_ended)))
                send(channel, (Report.FORKED, child))


def _fork(descriptor: int, settings: ServerSettings, work: Work, inherited: Sequence[socket.socket]) -> int:
    """Return the process id of a new worker; the child never returns."""
    parent = os.getpid()
    if child := os.fork():
        os.close(descriptor)
        return child
    code = 1
    try:
        end_with_parent(parent)
        # The child must not write to its parent's wakeup socket, which the fork copied.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for one in inherited:
            one.close()
        with socket.socket(fileno=descriptor) as own:
            work(own, settings)
        code = 0
    except (BrokenPipeError, ConnectionError):  # the server has closed the channel to this worker
        code = 0
    except BaseException:  # the last frame of the process; only the exit code remains
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        # Not `sys.exit`: the child must not run the exit handlers that it has copied from the fork server.
        os._exit(code)


def _reap(children: set[int]) -> list[tuple[int, int]]:
    """Return process id and exit code of each child that has ended."""
    ended = []
    for child in sorted(children):
        process, status = os.waitpid(child, os.WNOHANG)
        if process:
            children.discard(child)
            ended.append((child, os.waitstatus_to_exitcode(status)))
    return ended


def _child_end_socket() -> socket.socket:
    """Return a socket that becomes readable when a child has ended."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    # Python writes to the wakeup descriptor only for signals that have a handler.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
    return ours


if __name__ == "__main__":
    main(sys.argv[1:])
