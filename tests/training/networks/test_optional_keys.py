"""The optional keys of a model's description are checked as strictly as the required ones."""

import pytest

from mammopipe.processing.errors import ConfigError
from mammopipe.training.networks import model_directory
from tests.training.networks.test_model_directory import description

DIGEST = "0" * 64
REFERENCE = {
    "fitted_on": "validation",
    "malignancy_deciles": [index / 10 for index in range(1, 10)],
    "entropy_limit": 1.0,
    "strangeness": {"file": "reference.safetensors", "sha256": DIGEST, "limit": 2.0},
    "distributions": {"all": {"coverage": {"edges": [0.2, 0.5], "counts": [1, 2, 3], "exams": 6}}},
}
SPREAD = {"edges": [0.2, 0.5], "counts": [1, 2, 3], "exams": 6}
ENGINE = {
    "files": {name: DIGEST for name in ("network.xml", "network.bin", "head.safetensors")},
    "outputs": ["logits", "maps"],
    "activation_map": "head",
    "precision": "bfloat16",
    "largest_difference": 0.001,
    "images": 5,
}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("reference", REFERENCE | {"malignancy_deciles": [0.5] * 8}, "9 numbers within 0..1"),
        ("reference", REFERENCE | {"malignancy_deciles": [0.9] + [0.5] * 8}, "9 numbers within 0..1"),
        ("reference", REFERENCE | {"entropy_limit": float("nan")}, "entropy_limit=nan"),
        ("reference", REFERENCE | {"more": 1}, "unknown keys \\['more'\\]"),
        ("reference", REFERENCE | {"strangeness": {"file": "../x", "sha256": DIGEST, "limit": 1}}, "plain file names"),
        ("reference", REFERENCE | {"entropy_limit": 10**400}, "entropy_limit=1000"),
        ("reference", REFERENCE | {"strangeness": {"file": [], "sha256": DIGEST, "limit": 1}}, "strangeness.file"),
        *(
            ("reference", REFERENCE | {"distributions": {"all": {"coverage": SPREAD | change}}}, f"all.coverage.{key}")
            for change, key in (
                ({"edges": [0.5, 0.2]}, "edges"),
                ({"edges": [0.2, float("nan")]}, "edges"),
                ({"edges": "ab"}, "edges"),
                ({"counts": [1, 2]}, "counts"),
                ({"counts": [1, -2, 3]}, "counts"),
                ({"counts": [1, 2.5, 3]}, "counts"),
                ({"exams": 7}, "exams"),
                ({"exams": 0}, "exams"),
            )
        ),
        ("reference", REFERENCE | {"distributions": {"all": {"coverage": {}}}}, "all.coverage: unknown keys"),
        ("reference", REFERENCE | {"distributions": {"all": []}}, "reference.distributions"),
        ("engines", {"onnx": ENGINE}, "unknown keys \\['onnx'\\]"),
        ("engines", {"openvino": ENGINE | {"files": {"/etc/network.xml": DIGEST}}}, "plain file names"),
        ("engines", {"openvino": ENGINE | {"activation_map": None}}, "network.bin, network.xml"),
        ("engines", {"openvino": ENGINE | {"precision": "int8"}}, "float32 or bfloat16"),
        ("engines", {"openvino": ENGINE | {"largest_difference": 2}}, "within 0..1"),
        ("engines", {"openvino": ENGINE | {"images": 0}}, "above 0"),
    ],
)
def test_optional_keys_are_checked_strictly(tmp_path, key, value, message):
    files = {name: DIGEST for name in ("weights.safetensors", "reference.safetensors", *ENGINE["files"])}
    document = {
        "schema": 1,
        "weights_sha256": DIGEST,
        "files": files,
        **description(reference=REFERENCE, engines={"openvino": ENGINE}),
    }
    model_directory.check_description(document, tmp_path)
    with pytest.raises(ConfigError, match=message):
        model_directory.check_description({**document, key: value}, tmp_path)
