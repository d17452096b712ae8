"""A loaded model predicts as the saved one; altered and incompatible files are refused."""

import copy
import io
import json
import shutil
import tarfile
from contextlib import nullcontext

import pytest
import torch

from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import Pooling
from mammopipe.training.model.archive import pack, unpack
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.model.operating_points import RATES, Rate, read_operating_points
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.registry import NAMES, build_model

PREPROCESS = PreprocessConfig(height=96, width=64)


def description(**changes):
    return {
        "architecture": "modified_cnn",
        "classes": ["normal", "benign", "malignant"],
        "input": {"height": 96, "width": 64},
        "preprocess": PREPROCESS.to_json(),
        "initialisation": "scratch",
        "pretrained_weights": None,
        "calibration": {"temperature": 2.0, "fitted_on": None},
        "operating_points": {},
        "training": {},
        "metrics": {},
        "versions": {},
        **changes,
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    model_directory.save(folder, build_model("modified_cnn", classes=3, dropout=0.5, seed=3), description())
    return folder


@pytest.fixture
def saved(original, tmp_path):
    """A model directory that a test may change."""
    return shutil.copytree(original, tmp_path / "model")


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_model_predicts_as_the_saved_one(tmp_path, name):
    network = build_model(name, classes=3, dropout=0.5, seed=3).to(memory_format=torch.channels_last).eval()
    model_directory.save(tmp_path, network, description(architecture=name))
    model = model_directory.load(tmp_path)
    images = torch.rand(2, 1, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.predict_logits(images), network(images), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, model.network.state_dict()[key]) for key, value in network.state_dict().items())
    assert not model.network.training and not any(value.requires_grad for value in model.network.parameters())


def test_attributes_come_from_the_description(saved):
    model = model_directory.load(saved)
    assert model.preprocess == PREPROCESS and model.input_shape == (96, 64)
    assert model.classes == ("normal", "benign", "malignant") and model.calibration == Calibration(2.0)
    images = torch.rand(2, 1, 96, 64)
    expected = torch.softmax(model.predict_logits(images) / 2, dim=1)
    torch.testing.assert_close(model.predict_probabilities(images), expected)
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "weights.safetensors"]


def test_images_of_another_size_are_refused(saved):
    with pytest.raises(ValueError, match=r"\(N, 1, 96, 64\)"):
        model_directory.load(saved).predict_logits(torch.rand(1, 1, 64, 96))


def test_saving_twice_gives_the_same_bytes(saved, tmp_path):
    model_directory.save(tmp_path / "again", build_model("modified_cnn", classes=3, dropout=0.5, seed=3), description())
    for name in ("model.json", "weights.safetensors"):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_an_altered_weight_is_noticed(saved):
    content = bytearray((saved / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (saved / "weights.safetensors").write_bytes(content)
    with pytest.raises(
        ConfigError, match="weights.safetensors: its SHA-256 is not the files.weights.safetensors of model.json"
    ):
        model_directory.load(saved)


def test_weights_of_another_network_are_refused(saved, tmp_path):
    model_directory.save(tmp_path / "alexnet", build_model("alexnet", classes=3), description(architecture="alexnet"))
    for folder in (saved, tmp_path / "alexnet"):
        document = model_directory.read_description(folder)
        document["architecture"] = {"alexnet": "modified_cnn", "modified_cnn": "alexnet"}[document["architecture"]]
        (folder / "model.json").write_text(json.dumps(document))
        with pytest.raises(ConfigError, match="does not fit") as caught:
            model_directory.load(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", [False, True])
def test_the_digest_of_every_other_file_is_checked(saved, missing):
    (saved / "out_of_fold.csv").write_text("image_id\n")
    model_directory.write_description(saved, model_directory.read_description(saved))
    assert set(model_directory.read_description(saved)["files"]) == {"out_of_fold.csv", "weights.safetensors"}
    model_directory.load(saved)
    if missing:
        (saved / "out_of_fold.csv").unlink()
    else:
        (saved / "out_of_fold.csv").write_text("image_id,fold\n")
    with pytest.raises(ConfigError, match="out_of_fold.csv"):
        model_directory.load(saved)


POINT = {
    "threshold": 0.3,
    "target": 0.9,
    **dict.fromkeys(("sensitivity", "specificity", "recall_rate", "ppv"), 0.5),
    "intervals": dict.fromkeys(("sensitivity", "specificity", "recall_rate", "ppv"), [0.4, 0.6]),
    "cases": 20,
    "malignant": 4,
    "patients": 10,
    "prevalence": 0.2,
}


def test_an_operating_point_states_its_number_of_cases(tmp_path):
    network = build_model("modified_cnn", classes=3)
    model_directory.save(tmp_path, network, description(operating_points={"sensitivity": POINT}))
    point = read_operating_points(model_directory.read_description(tmp_path), "model.json")[Level.IMAGE]["sensitivity"]
    assert (point.threshold, point.target, point.prevalence, point.offered) == (0.3, 0.9, 0.2, True)
    assert point.sensitivity == point.ppv == Rate(0.5, 0.4, 0.6) and (point.cases, point.malignant) == (20, 4)


@pytest.mark.parametrize(
    "change",
    [
        *({"threshold": value} for value in (0, 1, 2.0, -1, "0.5", None, float("nan"), True)),
        {"sensitivity": 1.1},
        {"intervals": {}},
        {"cases": 0},
        {"malignant": 21},
        {"patients": 21},
        *({"prevalence": value} for value in (0.19, 0.2 + 1e-6, "0.2", None, float("nan"))),
        *({name: value} for name in RATES for value in (0.39, 0.61, None, 0.0, 1.0)),
        {"patients": 2.5},
        {"prevalence": 0.5},
        *(
            {"intervals": {**POINT["intervals"], "sensitivity": value}}
            for value in ([0.6, 0.4], [None, 0.6], [0.4, None], [0.4], [], False, 0, "")
        ),
    ],
)
@pytest.mark.parametrize("level", ["image", "breast"])
def test_an_operating_point_out_of_range_is_refused(saved, change, level):
    document = model_directory.read_description(saved)
    wrong = {**POINT, **change}
    if level == "image":
        document["operating_points"] = {"sensitivity": wrong}
    elif wrong["threshold"] is not None:
        counts = {name: wrong[name] for name in ("cases", "malignant", "patients")}
        document["metrics"] = {"validation": {"breast": {**counts, "operating_points": {"sensitivity": wrong}}}}
    else:
        return  # A level may lack a threshold, if validation could not determine one.
    (saved / "model.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=f"{'operating_points' if level == 'image' else 'breast'}.*sensitivity"):
        model_directory.read_description(saved)


@pytest.mark.parametrize(("level", "share"), [("image", 0.3), ("breast", 0.2 + 1e-6), ("patient", 0.0)])
def test_the_prevalence_of_probabilities_is_that_of_the_cases(saved, level, share):
    document = model_directory.read_description(saved)
    counts = {name: POINT[name] for name in ("cases", "malignant", "patients")}
    of_level = {**counts, "operating_points": {"sensitivity": POINT}}
    document["operating_points"] = {"sensitivity": POINT}
    document["metrics"] = {"validation": {"breast": of_level, "patient": {"same_as": "breast"}}}
    for calibrated, message in ((0.2, None), (share, f"calibration.prevalence.{level}={share}")):
        document["calibration"]["prevalence"] = {"image": 0.2, "breast": 0.2, "patient": 0.2, level: calibrated}
        (saved / "model.json").write_text(json.dumps(document))
        with pytest.raises(ConfigError, match=message) if message else nullcontext():
            model_directory.read_description(saved)


@pytest.mark.parametrize("place", ["calibration.scores", "calibration.comparison.scores"])
def test_the_maps_of_scores_are_checked(saved, place):
    document, right = (
        model_directory.read_description(saved),
        {"slope": 0.8, "intercept": 0, "cases": 9, "malignant": 3},
    )
    maps = {"breast": right, "patient": {"reason": "too few"}}
    document["calibration"] |= {"prevalence": {"image": 0.2, "breast": 1 / 3, "patient": 0.5}, "scores": maps}
    if place != "calibration.scores":
        maps = {"breast": {**right, "malignant": 1}, "patient": {"reason": "too few"}}
        document["calibration"]["comparison"] = {"weight": 0.5, "temperature": 1.0, "scores": maps}
        document["metrics"] = {
            "compared": {"validation": {"breast": {"same_as": "image"}, "patient": {"same_as": "image"}}}
        }
    for slope in (0.8, -0.1):
        maps["breast"]["slope"] = slope
        (saved / "model.json").write_text(json.dumps(document))
        message = f"{place}.breast.slope=-0.1 must be a number from 0 to 100"
        with pytest.raises(ConfigError, match=message) if slope < 0 else nullcontext():
            model_directory.read_description(saved)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(ConfigError, match=name):
        model_directory.load(saved)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda document: document.update(schema=2), "schema=2 is unknown; this version reads schema 1"),
        (lambda document: document.pop("schema"), "schema=None"),
        (lambda document: document.update(extra=1), "unknown keys \\['extra'\\]"),
        (lambda document: document.pop("metrics"), "missing keys \\['metrics'\\]"),
        (lambda document: document.update(classes="normal"), "classes='normal' is of the wrong type"),
        (lambda document: document.update(classes=["a", "a"]), "in this order"),
        (
            lambda document: document["classes"].reverse(),
            "\\['normal', 'benign', 'malignant'\\] or .*, in this order",
        ),
        (lambda document: document.update(classes=["malignant", "negative"]), "in this order"),
        (lambda document: document.update(architecture="vgg"), "cnn='vgg' must be one of"),
        (lambda document: document["input"].update(height=97), "the size that preprocess states"),
        (lambda document: document["preprocess"].update(height="96"), "height = '96': must be a whole number"),
        *(
            (
                lambda document, value=value: document["calibration"].update(temperature=value),
                "a finite number above 0",
            )
            for value in (0, -1, "2.0", None, float("inf"), float("nan"), True, 10**400, 1e308, 1e-9)
        ),
        (lambda document: document["calibration"].update(intercepts={"normal": 0.0}), "calibration.intercepts"),
        (
            lambda document: document["calibration"].update(intercepts=dict.fromkeys(document["classes"], "1")),
            "a finite number for",
        ),
        (
            lambda document: document["calibration"].update(intercepts=dict.fromkeys(document["classes"], 1e308)),
            "a finite number for each class, from -1000 to 1000",
        ),
        (lambda document: document["calibration"].update(method=1), "calibration.method=1 must be a text"),
        (lambda document: document.update(weights_sha256="x"), "weights_sha256='x' must be a SHA-256"),
        (lambda document: document.update(top_places=True), "top_places=True is of the wrong type"),
        (lambda document: document.update(schema=True), "schema=True is of the wrong type"),
        (lambda document: document["calibration"].update(prevalence={"image": 1.5}), "calibration.prevalence"),
        (lambda document: document["calibration"].update(prevalence={"woman": 0.1}), "calibration.prevalence"),
        (
            lambda document: document["calibration"].update(breast_rule="median"),
            "breast_rule='median' must be one of",
        ),
        (lambda document: document["calibration"].update(temprature=1.0), "an object of known keys"),
        (lambda document: document["files"].clear(), "files.weights.safetensors=None must be"),
        (lambda document: document["files"].update({"../x": "0" * 64}), "plain file names"),
        (lambda document: document["files"].update({"weights.safetensors": "0" * 64}), "as stated elsewhere"),
        (lambda document: document.update(pooling="most"), "pooling='most' must be one of mean, peaks, top"),
        (lambda document: document.update(top_places=0), "top_places=0 must be at least 1"),
        (lambda document: document.update(stride=16), "stride=16 must be one of \\[32\\]"),
        (lambda document: document.update(initialisation="guessed"), "pretrained or scratch"),
    ],
)
def test_a_description_of_another_kind_is_refused(saved, spoil, message):
    document = model_directory.read_description(saved)
    spoil(document)
    (saved / "model.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=message):
        model_directory.load(saved)


def test_the_pooling_travels_with_the_model(tmp_path):
    images = torch.rand(2, 1, 96, 64)
    for pooling in Pooling:
        network = build_model("modified_cnn", classes=3, pooling=pooling).eval()
        model_directory.save(tmp_path / pooling, network, description(pooling=str(pooling)))
        with torch.no_grad():
            expected = network(images)
        torch.testing.assert_close(model_directory.load(tmp_path / pooling).predict_logits(images), expected)


def test_the_places_of_a_network_travel_with_the_model(tmp_path):
    images = torch.rand(2, 1, 96, 64)
    network = build_model("efficientnet_lite0", classes=3, pooling=Pooling.TOP, top_places=2, stride=16).eval()
    document = description(pooling="top", top_places=2, stride=16, architecture="efficientnet_lite0")
    model_directory.save(tmp_path / "model", network, document)
    loaded = model_directory.load(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(loaded.predict_logits(images), network(images))
    assert loaded.network.top_places == 2


def test_what_load_would_refuse_is_not_saved(tmp_path):
    with pytest.raises(ConfigError, match="missing keys \\['metrics'\\]"):
        document = copy.deepcopy(description())
        del document["metrics"]
        model_directory.save(tmp_path / "model", build_model("modified_cnn", classes=3), document)
    assert not (tmp_path / "model").exists()


def test_a_packed_model_is_the_same_bytes_and_unpacks(saved, tmp_path):
    archives = [tmp_path / "a" / "model.tar.gz", tmp_path / "b.tar.gz"]
    for archive in archives:
        pack(saved, archive)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    unpack(archives[0], tmp_path / "unpacked")
    assert model_directory.load(tmp_path / "unpacked").description == model_directory.load(saved).description


def test_an_archive_that_leaves_its_folder_is_refused(tmp_path):
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        entry = tarfile.TarInfo("../outside.txt")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"bad"))
    with pytest.raises(ConfigError, match="model.tar.gz: cannot be unpacked"):
        unpack(archive, tmp_path / "inside")
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_a_damaged_archive_is_refused(tmp_path, content):
    (tmp_path / "model.tar.gz").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be unpacked"):
        unpack(tmp_path / "model.tar.gz", tmp_path / "inside")


def test_a_truncated_archive_is_refused(saved, tmp_path):
    archive = tmp_path / "model.tar.gz"
    pack(saved, archive)
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "inside")
