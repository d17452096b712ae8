"""Hyperparameters arrive as strings; one that breaks a rule is refused by name."""

import pytest

from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import PLATFORM_KEYS, Sampling, TrainConfig
from mammopipe.training.model.architecture import Cnn, Precision


def test_strings_become_values():
    config = TrainConfig.from_hyperparameters(
        {"cnn": "alexnet", "epochs": "7", "learning_rate": "1e-4", "sampling": "weighted", "precision": "float32"}
    )
    assert (config.cnn, config.epochs, config.learning_rate) == (Cnn.ALEXNET, 7, 1e-4)
    assert (config.sampling, config.precision) == (Sampling.WEIGHTED, Precision.FLOAT32)


def test_what_to_json_writes_reads_back():
    config = TrainConfig(cnn=Cnn.MODIFIED_CNN, noise=0.0, seed=3)
    assert TrainConfig.from_hyperparameters({key: str(value) for key, value in config.to_json().items()}) == config


def test_keys_of_the_platform_are_ignored():
    assert TrainConfig.from_hyperparameters(dict.fromkeys(PLATFORM_KEYS, "x")) == TrainConfig()


def test_every_field_is_explained() -> None:
    for name, field in TrainConfig.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    ("key", "text", "rule"),
    [
        ("epoch", "5", "unknown; known are cnn, epochs"),
        ("sagemaker_other", "5", "unknown"),
        ("epochs", "five", "a whole number"),
        ("epochs", "2.5", "a whole number"),
        ("epochs", "0", "at least 1"),
        ("batch_size", "1", "at least 2"),
        ("seed", "-1", "at least 0"),
        ("cnn", "vgg", "one of modified_cnn, alexnet, resnet50"),
        ("sampling", "true", "one of balanced, weighted, plain"),
        ("precision", "half", "one of auto, bfloat16, float16, float32"),
        ("learning_rate", "fast", "a number"),
        ("learning_rate", "nan", "between"),
        ("learning_rate", "0", "between"),
        ("weight_decay", "-1", "between"),
        ("dropout", "1", "between"),
        ("label_smoothing", "inf", "between"),
        ("top_places", "0", "at least 1"),
        ("stride", "8", "needs cnn=one of timm, not resnet50"),
        ("stride", "7", "must be one of 4, 8, 14, 16, 32"),
        ("stride", "16", "needs cnn=efficientnet_lite0, one of timm, not resnet50"),
        ("learns", "body", "one of all, head"),
        ("location_weight", "-1", "between"),
        ("pooling", "median", "one of mean, peaks, top, max, gem"),
        ("augment", "2", "between 0 and 1"),
        ("accumulate", "3", "batch_size=16 must be a multiple of accumulate=3"),
        ("drop_path", "0.1", "needs a network of timm, not cnn=resnet50"),
        ("positive_share", "0", "above 0"),
        ("average_decay", "1", "below 1"),
        ("optimiser", "adam", "one of adamw, sgd"),
        ("cnn", "convnext_smal", "did you mean"),
        ("final", "mean", "learns=head and folds"),
        ("head_epochs", "20", "below epochs=20"),
        ("warmup_epochs", "20", "below epochs=20"),
    ],
)
def test_a_broken_rule_names_key_value_and_rule(key, text, rule):
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_hyperparameters({key: text})
    assert key in str(caught.value) and text in str(caught.value) and rule in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"pooling": "peaks"}, {"location_weight": "0.5"}, {"pooling": "top"}, {"learns": "head"}]
)
def test_alexnet_has_no_places(values):
    with pytest.raises(ConfigError, match="cnn=alexnet has no logits of single places"):
        TrainConfig.from_hyperparameters({"cnn": "alexnet", **values})
    TrainConfig.from_hyperparameters({"cnn": "efficientnet_lite0", **values})


def test_a_value_that_is_not_a_string_is_refused():
    with pytest.raises(ConfigError, match="epochs=5 must be a string"):
        TrainConfig.from_hyperparameters({"epochs": 5})  # type: ignore[dict-item]
