from pathlib import Path

import pytest

from mammopipe.pipelines.config import reference
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.config.profiles import PROFILES
from mammopipe.pipelines.config.recipes import recipes
from mammopipe.pipelines.config.toml import keys
from mammopipe.pipelines.runs.preflight import with_parameters
from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import Learns, TrainConfig
from mammopipe.training.evaluation.config import Profile
from mammopipe.training.model.architecture import Cnn
from mammopipe.training.networks.registry import NAMES


def write(folder: Path, text: str) -> Path:
    path = folder / "pipeline.toml"
    path.write_text(text)
    return path


def test_the_defaults_are_those_of_the_quick_profile() -> None:
    assert PipelineConfig() == PipelineConfig.load() == PipelineConfig.load(profile="quick")


def test_the_candidates_by_default_are_all_that_can_be_trained_without_staged_weights() -> None:
    assert sorted([*PipelineConfig().cnns, Cnn.EFFICIENTNET_LITE0]) == sorted(Cnn) == sorted(NAMES)


def test_training_settings_that_a_candidate_has_not_are_refused() -> None:
    with pytest.raises(ConfigError, match="cnn=alexnet has no logits of single places"):
        PipelineConfig.load(training={"pooling": "peaks"})
    assert PipelineConfig.load(training={"pooling": "peaks"}, cnns=["resnet50"]).training.pooling == "peaks"


def test_settings_of_one_network_are_taken_where_it_is_the_candidate(tmp_path: Path) -> None:
    path = tmp_path / "lite0.toml"
    path.write_text('cnns = ["efficientnet_lite0"]\n[training]\nstride = 16\nlearns = "head"\npooling = "top"\n')
    config = PipelineConfig.load(path)
    assert (config.training.stride, config.training.learns, config.training.pooling) == (16, "head", "top")
    with pytest.raises(ConfigError, match="stride=16 needs cnn=efficientnet_lite0, one of timm, not resnet50"):
        PipelineConfig.load(path, cnns=["efficientnet_lite0", "resnet50"])


def test_a_network_can_have_settings_to_itself(tmp_path: Path) -> None:
    config = PipelineConfig.load(
        write(
            tmp_path,
            """
cnns = ["alexnet", "efficientnet_lite0"]
[training]
learning_rate = 1e-3
[per_cnn.alexnet]
learning_rate = 1e-4
[per_cnn.efficientnet_lite0]
stride = 16
learns = "head"
""",
        )
    )
    alexnet, lite0 = map(config.training_of, config.cnns)
    assert (alexnet.cnn, alexnet.learning_rate, alexnet.stride) == (Cnn.ALEXNET, 1e-4, 32)
    assert (lite0.cnn, lite0.learning_rate, lite0.stride, lite0.learns) == (
        Cnn.EFFICIENTNET_LITE0,
        1e-3,
        16,
        Learns.HEAD,
    )
    assert config.training_of(Cnn.RESNET50) == config.training_of(Cnn.RESNET50, seed=0)


@pytest.mark.parametrize("profile", Profile)
def test_a_profile_names_only_keys_that_exist(profile: Profile) -> None:
    config = PipelineConfig.load(profile=profile)
    for table, values in PROFILES[profile].items():
        for key, value in values.items():
            assert getattr(getattr(config, table), key) == value


def test_only_full_closes_the_metric_limit() -> None:
    assert PipelineConfig.load(profile="quick").evaluation.min_macro_auc == 0.0
    assert PipelineConfig.load(profile="full").evaluation.min_macro_auc == 0.6


def test_a_file_lies_over_its_profile_and_an_argument_over_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path, 'profile = "full"\ncnns = ["alexnet"]\n[training]\nepochs = 7\n[storage]\nbucket = "films"\n'
    )
    config = PipelineConfig.load(path, cnns=["resnet50"])
    assert config.profile is Profile.FULL
    assert config.training == TrainConfig(**{**PROFILES[Profile.FULL]["training"], "epochs": 7})
    assert config.cnns == (Cnn.RESNET50,)
    assert config.storage.uri("raw", "mias") == "s3://films/mammopipe/raw/mias"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datset = 'mias'", "unknown key 'datset'; did you mean dataset"),
        ("[training]\nepoch = 3", "unknown key 'training.epoch'; did you mean epochs"),
        ("[training]\nepochs = '3'", "training.epochs = '3': must be a whole number"),
        ("[training]\nseed = 3", "training.seed is set by data.seed"),
        ("[training]\nepochs = 3\nhead_epochs = 3", "head_epochs=3 must be below epochs=3"),
        ("[per_cnn.vgg]\nepochs = 3", "per_cnn.vgg: cnn='vgg' must be one of modified_cnn, alexnet"),
        ("[per_cnn.alexnet]\nlearning_rat = 1e-4", "unknown key 'per_cnn.alexnet.learning_rat'; did you mean learn"),
        ("[per_cnn.alexnet]\nlearning_rate = '1'", "per_cnn.alexnet.learning_rate = '1': must be a number"),
        ("[per_cnn.alexnet]\nlearning_rate = 2.0", "learning_rate = 2.0: between 1e-08 and 1"),
        ("[per_cnn.alexnet]\nepochs = 3", "per_cnn.alexnet.epochs is set by training.epochs, for all networks"),
        ("[per_cnn.alexnet]\nfolds = 3", "per_cnn.alexnet.folds is set by training.folds"),
        ("[per_cnn.alexnet]\nseed = 3", "per_cnn.alexnet.seed is set by data.seed"),
        ("[per_cnn.alexnet]\nstride = 16", "stride=16 needs cnn=efficientnet_lite0, one of timm, not alexnet"),
        ("[per_cnn]\nalexnet = 3", "per_cnn.alexnet = 3: must be a table"),
        ("[data]\ntest_fraction = true", "data.test_fraction = True: must be a number"),
        ("[data]\nvalidation_fold = 5", "data.validation_fold=5: must be one of the 5 folds"),
        ("cnns = ['resnet5']", "cnns: cnn='resnet5' must be one of modified_cnn, alexnet, resnet50"),
        ("cnns = ['resnet5']\n[training]\ndrop_path = 0.2", "cnns: cnn='resnet5' must be one of modified_cnn"),
        ("[training]\nlayer_decay = 0", "training.layer_decay = 0: above 0 and at most 1"),
        ("[training]\nmomentum = 1", "training.momentum = 1: at least 0 and below 1"),
        ("cnns = []", "at least one, each once"),
        ("cnns = ['alexnet', 'alexnet']", "each once"),
        ("[evaluation]\nbootstrap = 50", "evaluation.bootstrap = 50: between 100 and 100000"),
        ("[evaluation]\nmin_macro_auc = 1.5", "evaluation.min_macro_auc = 1.5: between 0 and 1"),
        ("[augmentation]\ncopies = -1", "augmentation.copies = -1: at least 0"),
        ("[augmentation]\ncopies = 2\nrarer_only = true", "rarer_only=true with copies=2, balance=true"),
        ("storage = 3", "storage = 3: must be a table"),
        ("[storage]\nbucket = 'Films'", "storage.bucket='Films'"),
        ("[storage]\nprefix = 'a//b'", "storage.prefix='a//b'"),
        ("[security]\nsubnets = ['subnet-1']", "subnets and security_groups must be set together"),
        ("[compute]\nspot = true\nmax_wait_seconds = 60", "compute.max_wait_seconds=60"),
        ("[compute]\ncache = '30 days'", "compute.cache='30 days'"),
        ("[endpoint]\nmode = 'batch'", "endpoint.mode = 'batch': must be one of realtime, async, both"),
        ("[endpoint]\nasync_concurrent = 0", "endpoint.async_concurrent = 0: between 1 and 1000"),
        ("[endpoint]\nasync_max_bytes = 2000000000", "endpoint.async_max_bytes = 2000000000: between 1 and 1073741824"),
        ("[endpoint]\nasync_max_seconds = 4000", "endpoint.async_max_seconds = 4000: between 1 and 3600"),
        ("[endpoint]\nasync_error_topic = 'films'", "endpoint.async_error_topic='films': must be an ARN"),
        (f"[endpoint]\nname = '{'a' * 25}'", "up to 24 letters"),
        ("profile = ", "not a readable TOML file"),
    ],
)
def test_what_breaks_a_rule_is_named_with_file_key_and_rule(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        PipelineConfig.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent.toml: no such configuration file"):
        PipelineConfig.load(tmp_path / "absent.toml")


def test_every_key_is_explained_and_the_reference_page_is_what_the_models_say() -> None:
    for key, field in keys(PipelineConfig):
        assert field.description, key
        assert key.rpartition(".")[2] in reference.explain(key)
    page = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"
    assert page.read_text(encoding="utf-8") == reference.page(), "python -m mammopipe.pipelines.config.reference > it"


def test_what_is_shown_gives_the_same_configuration(tmp_path: Path) -> None:
    for recipe in recipes():
        config = PipelineConfig.load(recipe=recipe.name, assignments=["tags.site=x", "evaluation.bootstrap=100"])
        assert PipelineConfig.load(write(tmp_path, reference.show(config))) == config
        assert recipe.about and not set(recipe.values) - set(PipelineConfig.model_fields)


def test_a_recipe_lies_below_the_file_and_an_assignment_over_it(tmp_path: Path) -> None:
    path = write(tmp_path, "[training]\nepochs = 9\ndropout = 0.1\n")
    config = PipelineConfig.load(path, recipe="mias-located", assignments=["training.dropout=0.2"])
    assert (config.training.epochs, config.training.dropout, config.training.stride) == (9, 0.2, 16)
    assert config.segmentation.height == 768
    with pytest.raises(ConfigError, match="recipe 'mias-lokated': no such recipe; did you mean mias-located"):
        PipelineConfig.load(recipe="mias-lokated")


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("training.learning_rate=1e-4", ("training", "learning_rate"), 1e-4),
        ("cnns=alexnet, resnet50", ("cnns",), (Cnn.ALEXNET, Cnn.RESNET50)),
        ('cnns=["alexnet"]', ("cnns",), (Cnn.ALEXNET,)),
        ("deploy=false", ("deploy",), False),
        ("data.patient_salt=1234567890123456", ("data", "patient_salt"), "1234567890123456"),
        ("tags.site=7", ("tags",), {"project": "mammopipe", "site": "7"}),
        ("per_cnn.alexnet.learning_rate=1e-3", ("per_cnn",), {"alexnet": {"learning_rate": 1e-3}}),
        ("compute.cache=P30D", ("compute", "cache"), "P30D"),
        ("profile=full", ("segmentation", "height"), 384),
    ],
)
def test_any_key_can_be_assigned(assignment: str, key: tuple[str, ...], value: object) -> None:
    found: object = PipelineConfig.load(assignments=[assignment], tags={"project": "mammopipe"})
    for part in key:
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.learning_rat=1", "unknown key 'training.learning_rat'; did you mean training.learning_rate"),
        ("learning_rate=1", "unknown key 'learning_rate'; did you mean training.learning_rate"),
        ("segmentation.hight=200", "did you mean segmentation.height"),
        ("training.pooling=median", "training.pooling = 'median': must be one of mean, peaks, top, max, gem"),
        ("training.epochs=many", "training.epochs = 'many': must be a whole number"),
        ("deploy=maybe", "deploy = 'maybe': must be true or false"),
        ("security=3", "security: is a table; set one of its keys"),
        ("dataset=mais", "dataset = 'mais': must be one of mias, rsna"),
        ("profile=quik", "profile = 'quik': must be one of quick, full"),
        ("epochs", "--set epochs: must be KEY=VALUE"),
    ],
)
def test_an_assignment_that_breaks_a_rule_is_one_line(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PipelineConfig.load(assignments=[assignment])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and "<" not in str(caught.value)


def test_a_network_that_does_not_take_the_images_is_refused(tmp_path: Path) -> None:
    small = {"height": 96, "width": 64}
    with pytest.raises(ConfigError, match="cnn=inception_v3 does not take images of 96 x 64 pixels: each side must be"):
        PipelineConfig.load(cnns=["inception_v3"], segmentation=small)
    config = PipelineConfig.load(cnns=["inception_v3"])
    with pytest.raises(ConfigError, match="ImageWidth=64: .*does not take images of 160 x 64"):
        with_parameters(config, {"ImageWidth": 64})
    with pytest.raises(ConfigError, match="stride=32: cnn=vit_tiny_patch16_224 has feature maps only at stride 16"):
        PipelineConfig.load(cnns=["vit_tiny_patch16_224"])


def test_any_network_of_timm_can_be_a_candidate(tmp_path: Path) -> None:
    name = "convnext_small.fb_in22k_ft_in1k_384"
    path = tmp_path / "timm.toml"
    path.write_text(
        f'cnns = ["{name}"]\n[training]\nstride = 16\ndrop_path = 0.2\n[per_cnn."{name}"]\npooling = "max"\n'
    )
    config = PipelineConfig.load(path)
    assert (config.training_of(name).cnn, config.training_of(name).pooling) == (name, "max")
    with pytest.raises(ConfigError, match="cnns.*did you mean convnext_small"):
        PipelineConfig.load(cnns=["convnext_smal"])
    with pytest.raises(ConfigError, match="per_cnn.vgg: "):
        PipelineConfig.load(per_cnn={"vgg": {"pooling": "max"}})
