"""The real definition with each job replaced by a small script, so that a run of the whole graph takes seconds."""

import json
from functools import cache
from pathlib import Path

from mammopipe.pipelines import PipelineConfig, build_pipeline
from mammopipe.pipelines.backends.supported import all_steps

HEAD = (
    "import json, os, signal, sys\nfrom pathlib import Path\n"
    "from mammopipe.processing.container.paths import ContainerPaths\n"
    "paths = ContainerPaths.from_environment()\n"
    "def write(folder, *names):\n"
    "    for name in names:\n"
    "        (folder / name).parent.mkdir(parents=True, exist_ok=True)\n"
    "        (folder / name).write_text('{}')\n"
)
STAGE = (
    "write(paths.processing_output({output!r}), 'manifest.csv', 'stage.json', 'unseen.csv', 'montage.png', {images})\n"
)
SPLITS = "'images/train/a.png', 'images/validation/b.png', 'images/test/c.png'"
EVALUATION = {
    "profile": "quick",
    "dataset": "mias",
    "protocol": "patient",
    "protocol_verdict": "patient, all images of one in one split",
    "leakage": {"passed": True, "verdict": "nothing crosses from one split into another"},
    "selected": {
        "cnn": "alexnet",
        "figure": "0.5120",
        "validation": {"macro_auc": {"value": 0.512, "low": 0.4, "high": 0.6}},
        "test": {"macro_auc": {"value": 0.5, "low": 0.3, "high": 0.7}},
    },
}
BODIES = {
    "Prepare": STAGE.format(output="prepared", images=SPLITS),
    "Augment": STAGE.format(output="data_augmentation", images="'images/train/a-1.png'"),
    "Segment": STAGE.format(output="data_segmentation", images=SPLITS),
    "Train-alexnet": "write(paths.model, 'model.json')\n",
    "Evaluate": (
        "write(paths.processing_output('model'), 'model.tar.gz')\n"
        "write(paths.processing_output('evaluation'), 'report.html')\n"
        f"evaluation = json.loads({json.dumps(EVALUATION)!r})\n"
        "(paths.processing_output('evaluation') / 'evaluation.json').write_text(json.dumps(evaluation))\n"
        "(paths.processing_output('evaluation') / 'registration.json').write_text('{\"model_card\": \"{}\"}')\n"
    ),
}
CONFIG = {"cnns": ["alexnet"], "deploy": False}


@cache
def _compile() -> str:
    return build_pipeline(PipelineConfig.load(**CONFIG)).definition()


def compile_scripted(folder: Path, changes: dict[str, str] | None = None) -> str:
    """Return the definition of one candidate without an endpoint; its jobs are the scripts above with `changes`."""
    folder.mkdir(parents=True, exist_ok=True)
    compiled = json.loads(_compile())
    bodies = BODIES | (changes or {})
    for step in all_steps(compiled["Steps"]):
        if step["Name"] in bodies:
            script = folder / f"{step['Name']}.py"
            script.write_text(HEAD + bodies[step["Name"]])
            key = "AlgorithmSpecification" if step["Type"] == "Training" else "AppSpecification"
            step["Arguments"][key]["ContainerEntrypoint"] = ["python", str(script)]
    return json.dumps(compiled)


class Compiled:
    """Replaces the result of `build_pipeline`."""

    def __init__(self, text: str):
        self.text = text

    def definition(self) -> str:
        return self.text
