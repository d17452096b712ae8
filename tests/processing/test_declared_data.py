"""The declaration of the data of staged weights reaches model.json, the report and the card."""

import json
from pathlib import Path

import pytest

from mammopipe.processing import declared_data
from mammopipe.processing.errors import ConfigError
from mammopipe.training.networks.pretrained import find_weights
from mammopipe.training.reporting.report import origin_of

DECLARED = {"datasets": ["ImageNet-1k", "CBIS DDSM"], "source": "torchvision 0.24"}


def weights(folder: Path, declared: object = DECLARED) -> Path:
    path = folder / "modified_cnn-own.pth"
    path.write_bytes(b"weights")
    if declared is not None:
        path.with_name(f"{path.name}.json").write_text(declared if isinstance(declared, str) else json.dumps(declared))
    return path


def test_the_declaration_beside_the_weights_is_found_with_them(tmp_path: Path) -> None:
    weights(tmp_path)
    found = find_weights(tmp_path, "modified_cnn")
    assert found is not None and found.to_json()["declared"] == DECLARED
    assert found.to_json() == json.loads(json.dumps(found.to_json()))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("{", "must be JSON"),
        ([], "must be an object with datasets"),
        ({"source": "x"}, "must be an object with datasets"),
        ({"datasets": ["a"], "license": "x"}, "must be an object with datasets"),
        ({"datasets": []}, "a list of names, with at least one"),
        ({"datasets": "ImageNet"}, "a list of names, with at least one"),
        ({"datasets": ["a"], "note": 1}, "source and note must be text"),
    ],
)
def test_a_wrong_declaration_is_refused(tmp_path: Path, declared: object, message: str) -> None:
    weights(tmp_path, declared)
    with pytest.raises(ConfigError, match=rf"modified_cnn-own.pth.json: .*{message}"):
        find_weights(tmp_path, "modified_cnn")


def test_weights_trained_on_the_evaluated_data_and_undeclared_ones_are_named(tmp_path: Path) -> None:
    weights(tmp_path)
    known = find_weights(tmp_path, "modified_cnn").to_json()
    assert declared_data.trained_on(known, ["mias", "cbis-ddsm"]) == ["cbis-ddsm"]
    assert "trained on cbis-ddsm: they may have seen the test" in declared_data.sentence(known, ["cbis-ddsm"])
    assert declared_data.sentence(known, ["mias"]).endswith("The declaration cannot be checked here.")
    assert "cannot be known" in declared_data.sentence(known | {"declared": None}, ["mias"])
    assert declared_data.sentence(None, ["mias"]) == ""
    candidate = {"initialisation": "pretrained", "learns": "all", "pretrained_weights": known}
    assert origin_of(candidate).endswith("declared data: ImageNet-1k, CBIS DDSM")
    assert "not declared" in origin_of(candidate | {"pretrained_weights": known | {"declared": None}})
