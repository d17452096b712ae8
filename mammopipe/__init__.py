"""From mammograms on S3 to a clinical answer: one SageMaker pipeline that also runs offline. Research use only.

    from mammopipe import PipelineConfig, start
    run = start(PipelineConfig.load("run.toml"), backend="process")

The names below load on first use: importing the package takes milliseconds, and the client of an endpoint needs
neither torch nor the SageMaker SDK. Everything else is in the sub-packages `processing`, `training`, `inference` and
`pipelines`. Imports between them go in one direction: each may import only those listed before it.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mammopipe.inference.client.client import MammographyClient
    from mammopipe.inference.prediction.predictor import Predictor
    from mammopipe.pipelines.config.pipeline import PipelineConfig
    from mammopipe.pipelines.graph.definition import build_pipeline
    from mammopipe.pipelines.runs.launch import start
    from mammopipe.pipelines.runs.run import Run
    from mammopipe.processing.images.mammogram import read_mammogram

    __version__: str

__all__ = [
    "MammographyClient",
    "PipelineConfig",
    "Predictor",
    "Run",
    "__version__",
    "build_pipeline",
    "read_mammogram",
    "start",
]

_HOMES = {
    "MammographyClient": "mammopipe.inference.client.client",
    "PipelineConfig": "mammopipe.pipelines.config.pipeline",
    "Predictor": "mammopipe.inference.prediction.predictor",
    "Run": "mammopipe.pipelines.runs.run",
    "build_pipeline": "mammopipe.pipelines.graph.definition",
    "read_mammogram": "mammopipe.processing.images.mammogram",
    "start": "mammopipe.pipelines.runs.launch",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("mammopipe")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
