"""A forked command behaves like the same command started by itself."""

import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support import fork_server


def program(folder: Path, text: str) -> list[str]:
    script = folder / "program.py"
    script.write_text(text)
    return [*fork_server.shared(), str(script)]


def test_arguments_environment_folder_and_output_are_the_callers(tmp_path: Path) -> None:
    command = program(tmp_path, "import os, sys; print(sys.argv[1:], os.environ, os.getcwd()); sys.exit('no')")
    done = subprocess.run(
        [*command, "a", "b"], cwd=tmp_path, env={"ONLY": "this"}, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("['a', 'b'] environ({'ONLY': 'this'") and done.stdout.endswith(f"{tmp_path}\n")
    assert "HOME" not in done.stdout
    assert (done.returncode, done.stderr) == (1, "no\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_caller_ends_the_command(tmp_path: Path, number: signal.Signals) -> None:
    command = program(tmp_path, "import signal; print('up', flush=True); signal.pause()")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None and caller.stdout.readline() == "up\n"
        os.kill(caller.pid, number)
        # The end of file comes only when the command, which holds the other end of the pipe, has ended.
        assert select.select([caller.stdout], [], [], 30)[0], "the command outlives its caller"
        assert caller.stdout.read() == "" and caller.wait(30) == -number


def test_commands_send_no_telemetry(tmp_path: Path) -> None:
    command = program(tmp_path, "import sys; print(sys.modules['openvino_telemetry'], 'openvino' in sys.modules)")
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "None True\n"


def test_what_a_command_registers_for_its_end_is_called(tmp_path: Path) -> None:
    text = (
        "import atexit, weakref\nclass Held: pass\nheld = Held()\n"
        "weakref.finalize(held, print, 'finalised')\natexit.register(print, 'left')\n"
    )
    done = subprocess.run(program(tmp_path, text), capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == ["finalised", "left"]
