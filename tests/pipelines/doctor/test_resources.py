"""A run that needs more memory or disk than there is is refused before the first step, with the key and both sizes."""

import os
import shutil
from pathlib import Path

import pytest

from mammopipe.pipelines.config.instances import gpu_memory_gib, memory_gib, vcpus_of
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.config.recipes import recipes
from mammopipe.pipelines.data.s3 import S3Object
from mammopipe.pipelines.doctor import resources
from mammopipe.pipelines.doctor.resources import Amount
from mammopipe.pipelines.runs import preflight
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.phantoms.own_tree import write_own_tree

FEW = Amount(40, 40 * 2**20)
"""A small dataset, which fits everywhere."""


def config(*assignments: str) -> PipelineConfig:
    return PipelineConfig.load(assignments=["cnns=modified_cnn", *assignments])


@pytest.fixture
def gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 8 GB of memory and 10 GB of free disk."""
    monkeypatch.setattr(resources, "host_memory", lambda: 8 * 10**9)
    monkeypatch.setattr(
        resources.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**11, 9 * 10**10, 10**10)
    )


@pytest.mark.usefixtures("gigabytes")
@pytest.mark.parametrize(
    ("key", "amount", "message"),
    [
        ("training.batch_size=100000", FEW, "training.batch_size=100000 at segmentation.height=160"),
        ("segmentation.height=16000 segmentation.width=1024", FEW, "this machine has 8.0 GB"),
        ("training.workers=40", FEW, "training.workers=40: needs at least"),
        ("training.cache=memory", Amount(500_000, 10**9), "training.cache=memory (auto or disk hold less)"),
        ("profile=quick", Amount(20_000, 2 * 10**10), "10.0 GB are free; a run on films needs about"),
        ("augmentation.copies=2000", FEW, "copies 10"),
    ],
)
def test_what_cannot_fit_this_machine_is_refused(tmp_path: Path, key: str, amount: Amount, message: str) -> None:
    resources.check_here(config(), FEW, tmp_path, "films")
    with pytest.raises(ConfigError) as caught:
        resources.check_here(config(*key.split()), amount, tmp_path, "films")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.usefixtures("gigabytes")
def test_files_on_the_same_disk_are_linked_and_a_cache_doubles_the_stages(tmp_path: Path) -> None:
    amount = Amount(300, 9 * 10**9)
    with pytest.raises(ConfigError, match="files 9.0 GB"):
        resources.check_here(config("augmentation.copies=0", "augmentation.balance=false"), amount, tmp_path, "films")
    resources.check_here(
        config("augmentation.copies=0", "augmentation.balance=false"), amount, tmp_path, "films", folder=tmp_path
    )
    with pytest.raises(ConfigError, match="step cache"):
        resources.check_here(config("compute.cache=P30D"), Amount(1500, 6 * 10**9), tmp_path, "films", folder=tmp_path)


@pytest.mark.usefixtures("gigabytes")
def test_the_images_of_an_own_table_count_not_the_table_alone(tmp_path: Path) -> None:
    write_own_tree(tmp_path / "own", images=36, height=128, width=128)
    own = config("dataset=own")
    preflight.check(own, str(tmp_path / "own"), "", {}, tmp_path / "runs")
    for path in (tmp_path / "own" / "images").iterdir():  # sparse files, as large as whole mammograms
        os.truncate(path, 10**9)
    with pytest.raises(ConfigError, match=r"36 images: files 0.0 GB, prepared 0.\d GB") as caught:
        preflight.check(own.replace(augmentation=own.augmentation.replace(copies=200)), str(tmp_path / "own"), "", {},
                        tmp_path / "runs")  # fmt: skip
    assert "copies" in str(caught.value)


@pytest.mark.usefixtures("gigabytes")
def test_a_pipeline_parameter_and_the_number_of_phantoms_count(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="segmentation.height=16000"):
        preflight.check(config(), "", "", {"ImageHeight": 16000, "ImageWidth": 1024}, tmp_path / "runs")
    with pytest.raises(ConfigError, match="a run on phantoms needs about"):
        preflight.check(config(), "", "", {}, tmp_path / "runs", phantoms=10**8)


@pytest.mark.parametrize(
    ("keys", "amount", "message"),
    [
        (["training.batch_size=100000"], FEW, "and a GPU of ml.g4dn.xlarge has 17.2 GB"),
        (["training.workers=200"], FEW, "and ml.g4dn.xlarge has 17.2 GB"),
        (["compute.training_instance_type=ml.m5.large", "training.batch_size=50000"], FEW, "ml.m5.large has 8.6 GB"),
        ([], Amount(100_000, 10**12), "compute.processing_volume_gb = 50: Prepare of s3://b/raw needs about"),
        (["compute.training_volume_gb=1", "segmentation.height=1024", "segmentation.width=768"], Amount(9000, 10**10),
         "compute.training_volume_gb = 1: Training of s3://b/raw needs about"),
    ],
)  # fmt: skip
def test_what_cannot_fit_the_instances_is_refused(keys: list[str], amount: Amount, message: str) -> None:
    resources.check_instances(config(), FEW, "s3://b/raw")
    with pytest.raises(ConfigError) as caught:
        resources.check_instances(config(*keys), amount, "s3://b/raw")
    assert message in str(caught.value)


def test_shards_share_the_volume_and_unknown_instances_are_not_checked() -> None:
    sharded = ["compute.processing_instance_count=40", "compute.distribution=ShardedByS3Key"]
    resources.check_instances(config(*sharded), Amount(100_000, 10**12), "s3://b/raw")
    resources.check_instances(
        config("compute.training_instance_type=ml.x9.huge", "training.workers=200"), FEW, "s3://b"
    )


@pytest.mark.parametrize("name", [recipe.name for recipe in recipes()])
def test_every_recipe_fits_the_instances_that_it_names(name: str) -> None:
    recipe = PipelineConfig.load(recipe=name)
    amount = Amount(54_706, 315 * 10**9) if recipe.dataset == "rsna" else Amount(322, 34 * 10**7)
    resources.check_instances(recipe, amount, "s3://b/raw")


def test_objects_on_s3_are_counted_by_their_suffix() -> None:
    objects = [S3Object("raw/train.csv", 10, "a"), S3Object("raw/1/2.dcm", 500, "b"), S3Object("raw/3.PNG", 90, "c")]
    assert resources.amount_on_s3(objects) == Amount(2, 600)


def test_instances_have_the_memory_that_amazon_states() -> None:
    # Source: EC2 User Guide, specifications of instance types.
    stated = {
        "ml.m5.large": (2, 8), "ml.m5.xlarge": (4, 16), "ml.m5.24xlarge": (96, 384), "ml.c5.9xlarge": (36, 72),
        "ml.g4dn.xlarge": (4, 16), "ml.g4dn.12xlarge": (48, 192), "ml.g5.48xlarge": (192, 768),
        "ml.g6e.xlarge": (4, 32), "ml.p3.2xlarge": (8, 61), "ml.p5.48xlarge": (192, 2048), "ml.r5.4xlarge": (16, 128),
    }  # fmt: skip
    assert {name: (vcpus_of(name), memory_gib(name)) for name in stated} == stated
    assert (gpu_memory_gib("ml.g5.xlarge"), gpu_memory_gib("ml.p4d.24xlarge"), gpu_memory_gib("ml.m5.xlarge")) == (
        24,
        40,
        0,
    )
