"""A registered model package is a model that `predict` and `evaluate` take, by its ARN."""

from pathlib import Path

import pytest

from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.pipelines.commands.models.predict import model_directory
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.archive import pack

SPECIFICATION = {
    "SupportedContentTypes": ["image/png"],
    "SupportedResponseMIMETypes": ["application/json"],
    "Containers": [{"Image": "image", "ModelDataUrl": "s3://mammopipe/models/model.tar.gz"}],
}


def test_the_model_of_a_package_is_fetched_from_s3(
    services: LocalServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{}")
    pack(tmp_path / "model", tmp_path / "model.tar.gz")
    services.storage.put(tmp_path / "model.tar.gz", "s3://mammopipe/models/model.tar.gz")
    for name, value in services.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", services.environment["AWS_ENDPOINT_URL_S3"])
    services.sagemaker.create_model_package_group(ModelPackageGroupName="g")
    made = services.sagemaker.create_model_package(ModelPackageGroupName="g", InferenceSpecification=SPECIFICATION)
    with model_directory(made["ModelPackageArn"], tmp_path / "runs") as folder:
        assert (folder / "model.json").read_text() == "{}"
    with (
        pytest.raises(ConfigError, match="AWS refused DescribeModelPackage"),
        model_directory(made["ModelPackageArn"] + "9", tmp_path / "runs"),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="must be the ARN of a model package"),
        model_directory("arn:aws:s3:::x", tmp_path),
    ):
        pass
