"""Views for notebooks: `from mammopipe.pipelines import notebook as view`. Needs IPython."""

from importlib import import_module
from typing import Any

_HOMES = {
    **dict.fromkeys(
        ("NotebookProgress", "answer", "client", "costs", "delete", "estimate", "figures", "images", "follow", "graph",
         "images_of", "pictures", "roc", "staged"),
        "mammopipe.pipelines.notebook.views",
    ),
    **dict.fromkeys(
        ("check", "model_of", "own_table", "sweep", "trials_picture"), "mammopipe.pipelines.notebook.own_and_search"
    ),
    **dict.fromkeys(
        ("browse", "curves", "mistakes", "report", "roc_and_pr"), "mammopipe.pipelines.notebook.results"
    ),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
