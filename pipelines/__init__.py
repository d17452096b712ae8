"""The SageMaker pipeline of mammopipe, and the backends that run it.

    from mammopipe.pipelines import PipelineConfig, build_pipeline, start

A notebook needs only these names. They load on first use, so commands that do not need the SageMaker SDK do not wait
for it. Nothing here needs torch.

`config` has the settings. `graph` makes the pipeline of them, with one function for each step, Prepare to Endpoint.
`backends` run it, `runs` keeps its results, `data` stages images on S3, and `commands` holds the commands. Each of the
other folders belongs to one command or one backend: `account`, `containers`, `costs`, `doctor`, `experiment`,
`external_evaluation`, `local_jobs`, `notebook`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "mammopipe.pipelines":
    raise ImportError("this folder must be imported as mammopipe.pipelines")

if TYPE_CHECKING:
    from mammopipe.pipelines.config.pipeline import PipelineConfig
    from mammopipe.pipelines.graph.definition import build_pipeline
    from mammopipe.pipelines.runs.launch import start

__all__ = ["PipelineConfig", "build_pipeline", "start"]

_HOMES = {
    "PipelineConfig": "mammopipe.pipelines.config.pipeline",
    "build_pipeline": "mammopipe.pipelines.graph.definition",
    "start": "mammopipe.pipelines.runs.launch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
