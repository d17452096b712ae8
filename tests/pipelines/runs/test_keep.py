"""A run keeps the models and images that `keep` names."""

from pathlib import Path

import pytest

from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.pipelines.config.pipeline import Keep, PipelineConfig
from mammopipe.pipelines.runs.results import keep
from tests.pipelines.conftest import OUT

STEPS = {
    "Segment": {
        "ProcessingOutputConfig": {
            "Outputs": [{"OutputName": "data_segmentation", "S3Output": {"S3Uri": f"{OUT}/data_segmentation"}}]
        }
    },
    "Train-alexnet": {"ModelArtifacts": {"S3ModelArtifacts": f"{OUT}/models/alexnet/model.tar.gz"}},
    "Train-modified-cnn": {"ModelArtifacts": {"S3ModelArtifacts": f"{OUT}/models/modified_cnn/model.tar.gz"}},
}


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        ((), []),
        ((Keep.MODELS,), ["models/alexnet.tar.gz"]),
        ((Keep.IMAGES,), ["images/data_segmentation/train/a.png"]),
    ],
)
def test_models_that_lost_and_images_are_kept_where_asked(
    services: LocalServices, tmp_path: Path, kinds: tuple[Keep, ...], names: list[str]
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    models = [f"models/{name}/model.tar.gz" for name in ("alexnet", "modified_cnn")]
    for key in (*models, "data_segmentation/images/train/a.png"):
        services.storage.put(tmp_path / "file", f"{OUT}/{key}")
    keep(STEPS, services.storage, tmp_path / "run", kinds, "modified_cnn")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    found = sorted(path.relative_to(tmp_path / "run").as_posix() for path in files)
    assert found == names


def test_by_default_the_models_that_lost_are_kept() -> None:
    assert PipelineConfig().keep == (Keep.MODELS,)
    assert PipelineConfig.load(assignments=["keep=models,images"]).keep == (Keep.MODELS, Keep.IMAGES)
