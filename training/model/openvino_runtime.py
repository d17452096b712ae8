"""The exported network, compiled for this machine's processor by OpenVINO; needs no torch."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammopipe.training.model.architecture import Precision

_HINTS = {Precision.FLOAT32: "f32", Precision.BFLOAT16: "bf16"}


def load_openvino() -> Any:
    """Return the module `openvino`, imported so that it reports nothing to anyone.

    Its import sends an event to Google Analytics unless the package `openvino_telemetry` cannot be imported; OpenVINO
    then takes its own stub. Nothing else in this project may import `openvino` itself.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def fastest_precision() -> Precision:
    """Return bfloat16 where this processor computes with it, float32 elsewhere."""
    capabilities = load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return Precision.BFLOAT16 if "BF16" in capabilities else Precision.FLOAT32


def read_network(path: Path) -> Any:
    """Return the network of a file whose weights lie beside it, for `CompiledNetwork`; the weights stay in the file.

    Compiled in two formats it is best read once: the pages of the file that both keep then count once.
    """
    return load_openvino().Core().read_model(os.fspath(path))


class CompiledNetwork:
    """A network, ready for one film at a time; belongs to the thread that made it."""

    def __init__(self, network: Any, *, precision: Precision, threads: int) -> None:
        """Compile what `read_network` returned, in float32 or bfloat16, on so many threads."""
        self.precision = precision
        self._request = (
            load_openvino()
            .Core()
            .compile_model(
                network,
                "CPU",
                {
                    "PERFORMANCE_HINT": "LATENCY",
                    "NUM_STREAMS": "1",
                    "INFERENCE_NUM_THREADS": str(threads),
                    "INFERENCE_PRECISION_HINT": _HINTS[precision],
                    "CACHE_DIR": "",
                    # Two processes that both pin would share the first core and leave the others idle.
                    "ENABLE_CPU_PINNING": False,
                },
            )
            .create_infer_request()
        )

    def run(self, image: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return logits, float64 (classes,), and maps, float32 (channels, h, w), of a film, (H, W) in [0, 1]."""
        found = self._request.infer([np.ascontiguousarray(image, np.float32)[None, None]])
        logits, maps = found["logits"], found["maps"]
        # Copies: the next film is written over what the request returned.
        return np.array(logits[0], np.float64), np.array(maps[0], np.float32)
