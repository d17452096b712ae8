"""OpenVINO in a separate process: signals after the last network."""

import subprocess
import sys

SIGNALLED = """
import faulthandler, os, signal, threading
import numpy as np
from mammopipe.training.model import openvino_runtime as runtime

faulthandler.enable()  # as pytest does; Python then handles signals on an alternate stack
signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
runtime.load_openvino()
from openvino import Model, save_model
from openvino import opset13 as ops

image = ops.parameter([1, 1, 4, 4], np.float32, name="image")
save_model(Model([ops.relu(image)], [image]), "network.xml")
held = [runtime.read_network("network.xml")]
held.append(runtime.CompiledNetwork(held[0], precision=runtime.fastest_precision(), threads=1))
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_signal_after_the_last_network_does_not_end_the_process(tmp_path):
    ended = subprocess.run([sys.executable, "-c", SIGNALLED], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "handled\n"), ended.stderr
