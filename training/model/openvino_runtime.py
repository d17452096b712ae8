"""Runs the exported network with OpenVINO, compiled for this machine's processor; needs no torch."""

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammopipe.training.model.architecture import Precision

_HINTS = {Precision.FLOAT32: "f32", Precision.BFLOAT16: "bf16"}


def load_openvino() -> Any:
    """Return the module `openvino`, imported without telemetry.

    Importing `openvino` sends an event to Google Analytics unless `openvino_telemetry` cannot be imported; OpenVINO
    then uses its own stub. All other modules of this project must import `openvino` through this function.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@cache
def _core() -> Any:
    """Return this process's only `openvino.Core`, which lives until the process ends.

    The first `Core` sets the alternate signal stack of its thread. The last one unmaps that memory, in any thread that
    releases it (OpenVINO's sigstack_manager.cpp). The next signal that Python handles in the first thread would then
    end the process with SIGSEGV.
    """
    return load_openvino().Core()


def fastest_precision() -> Precision:
    """Return bfloat16 where this processor supports it, float32 elsewhere."""
    capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return Precision.BFLOAT16 if "BF16" in capabilities else Precision.FLOAT32


def read_network(path: Path) -> Any:
    """Read a network for `CompiledNetwork`; its weights are memory-mapped from the `.bin` file in the same folder.

    To compile a network in two number formats, read it once and compile it twice.
    """
    return _core().read_model(os.fspath(path))


class CompiledNetwork:
    """A compiled network that processes one image at a time; only the thread that created it may use it."""

    def __init__(self, network: Any, *, precision: Precision, threads: int) -> None:
        """Compile a network.

        Args:
            network: The result of `read_network`.
            precision: float32 or bfloat16.
            threads: Number of threads for one image.
        """
        self.precision = precision
        self._request = (
            _core()
            .compile_model(
                network,
                "CPU",
                {
                    "PERFORMANCE_HINT": "LATENCY",
                    "NUM_STREAMS": "1",
                    "INFERENCE_NUM_THREADS": str(threads),
                    "INFERENCE_PRECISION_HINT": _HINTS[precision],
                    "CACHE_DIR": "",
                    # If two processes pinned their threads, both would use the first cores and leave others idle.
                    "ENABLE_CPU_PINNING": False,
                },
            )
            .create_infer_request()
        )

    def run(self, image: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Run the network on one image.

        Args:
            image: (H, W), in [0, 1].

        Returns:
            Logits, (classes,) float64, and the last feature maps, (channels, h, w) float32.
        """
        found = self._request.infer([np.ascontiguousarray(image, np.float32)[None, None]])
        logits, maps = found["logits"], found["maps"]
        # Copies, because the next image overwrites the request's output.
        return np.array(logits[0], np.float64), np.array(maps[0], np.float32)
