"""Estimates of the cost follow their formulas and their dated files."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines import cli
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.config.recipes import recipes
from mammopipe.pipelines.costs import beside, estimate
from mammopipe.pipelines.costs.page import page
from mammopipe.pipelines.costs.prices import PRICES, THROUGHPUT, Prices, Throughput
from mammopipe.processing.classes import Question
from mammopipe.training.model.architecture import Cnn
from tests.infra.template import Template

Capture = pytest.CaptureFixture[str]


def said(capture: Capture, *arguments: str) -> dict[str, Any]:
    assert cli.main(["cost", *arguments, "--json"]) == 0
    return dict(json.loads(capture.readouterr().out))


def test_a_hand_calculation_gives_the_same(capsys: Capture) -> None:
    steps = {step["step"]: step for step in said(capsys, "--dataset", "rsna", "--profile", "full")["steps"]}
    prepare = (54706 * 0.787 / 4 + 180) / 3600
    assert steps["Prepare"]["hours"] == pytest.approx(prepare, abs=1e-4)
    assert steps["Prepare"]["usd"] == pytest.approx(prepare * 0.23, abs=1e-3)
    learnt = 54706 * 0.8 * 0.8
    images = learnt * 0.9458 * 3 * 4
    assert steps["Augment"]["units"] == round(images - learnt)
    assert steps["Segment"]["units"] == round(54706 + images - learnt)
    seconds = images * 25 * 0.0681 * (384 * 256) / 17920
    train = (seconds / 16 + 180) / 3600
    assert steps["Train-resnet50"]["hours"] == pytest.approx(train, rel=1e-3)
    assert steps["Train-resnet50"]["usd"] == pytest.approx(train * 0.7364, rel=1e-3)
    assert steps["Train-resnet50"]["measured"] is False and steps["Prepare"]["measured"] is True


def test_start_to_end_counts_candidates_once_and_their_dollars_all(capsys: Capture) -> None:
    facts = said(capsys)
    trained = [step for step in facts["steps"] if step["step"].startswith("Train-")]
    others = sum(step["hours"] for step in facts["steps"] if step not in trained)
    assert facts["hours"] == pytest.approx(others + max(step["hours"] for step in trained), abs=2e-3)
    assert facts["usd"] == pytest.approx(sum(step["usd"] for step in facts["steps"]), abs=0.01)


def test_instances_shorten_the_hours_and_leave_the_instance_hours(capsys: Capture) -> None:
    one, ten = (said(capsys, "--images", "1000000", "--instances", count) for count in ("1", "10"))
    for first, other in zip(one["steps"][:3], ten["steps"][:3], strict=True):
        assert first["hours"] == pytest.approx(10 * (other["hours"] - 0.05) + 0.05, rel=1e-3)
        assert other["instance_hours"] == pytest.approx(first["instance_hours"] + 9 * 0.05, rel=1e-3)


def test_ten_million_images_cost_so_many_times_more(capsys: Capture) -> None:
    small, large = (said(capsys, "--dataset", "rsna", "--images", count)["usd"] for count in ("1000000", "10000000"))
    assert large == pytest.approx(10 * small, rel=0.01)


def test_the_table_names_date_and_assumptions_within_100_columns(capsys: Capture) -> None:
    assert cli.main(["cost", "--dataset", "rsna", "--images", "10000000", "--profile", "full"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    prices, throughput = Prices.load(), Throughput.load()
    assert prices.dated in text and throughput.dated in text and "* holds an assumption" in text


def test_prices_and_measurements_can_be_replaced(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(PRICES.read_text().replace('"ml.m5.xlarge" = 0.23', '"ml.m5.xlarge" = 2.30'))
    dear, usual = said(capsys, "--prices", str(file)), said(capsys)
    for first, other in zip(dear["steps"][:3], usual["steps"][:3], strict=True):
        assert first["usd"] == pytest.approx(10 * other["usd"], rel=1e-2, abs=1e-3)
    faster = tmp_path / "throughput.toml"
    faster.write_text(THROUGHPUT.read_text().replace("core_seconds = 0.201", "core_seconds = 2.01"))
    assert said(capsys, "--throughput", str(faster))["steps"][1]["hours"] > 5 * (usual["steps"][1]["hours"] - 0.05)


def test_a_type_without_a_price_and_a_wrong_key_are_one_line(tmp_path: Path, capsys: Capture) -> None:
    config = tmp_path / "p.toml"
    config.write_text('[compute]\nprocessing_instance_type = "ml.x9.huge"\n')
    assert cli.main(["cost", "--config", str(config)]) == 2
    assert "ml.x9.huge" in capsys.readouterr().err
    broken = tmp_path / "prices.toml"
    broken.write_text(PRICES.read_text() + "gb = 3\n")
    assert cli.main(["cost", "--prices", str(broken)]) == 2
    assert "unknown key 'storage.gb'" in capsys.readouterr().err
    assert cli.main(["cost", "--instances", "0"]) == 2
    assert capsys.readouterr().err == "error: --instances 0: must be at least 1\n"
    assert cli.main(["cost", "--images", "0"]) == 2


def test_the_page_on_growing_shows_what_the_command_gives(capsys: Capture) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "how-to" / "growing.md").read_text()
    blocks = re.findall(r"^    \$ mammopipe (.*)\n((?:(?:    .*)?\n)+?)(?=^\S)", page, re.MULTILINE)
    assert len(blocks) == 2
    for command, shown in blocks:
        assert cli.main(command.split()) == 0
        printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
        assert [line[4:].rstrip() for line in shown.rstrip().splitlines()] == printed, command


def test_the_page_of_the_recipes_is_the_generated_one() -> None:
    kept = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "recipes.md").read_text()
    assert kept == page(), "run make docs"


@pytest.mark.parametrize("recipe", [recipe.name for recipe in recipes()])
def test_a_recipe_fits_its_instances(capsys: Capture, recipe: str) -> None:
    facts = said(capsys, "--recipe", recipe)
    assert facts["obstacles"] == [] and facts["usd"] > 0


def test_the_baseline_on_rsna_takes_less_than_a_day(capsys: Capture) -> None:
    assert said(capsys, "--recipe", "rsna-baseline")["hours"] < 24


def test_folds_in_one_job_cost_what_they_cost_side_by_side_and_the_refit(capsys: Capture, tmp_path: Path) -> None:
    config, units = tmp_path / "folds.toml", {}
    for jobs in ("false", "true"):
        config.write_text(
            f'cnns = ["resnet50"]\n[training]\nfolds = 4\n[compute]\nfold_jobs = {jobs}\ntraining_jobs = 2\n'
        )
        facts = said(capsys, "--config", str(config))
        units[jobs] = [step for step in facts["steps"] if step["step"].startswith("Train-")]
        others = sum(step["hours"] for step in facts["steps"]) - sum(step["hours"] for step in units[jobs])
        waves = 1 if jobs == "false" else 2
        assert facts["hours"] == pytest.approx(others + waves * units[jobs][0]["hours"], abs=2e-3)
    assert [step["step"] for step in units["true"]] == [f"Train-resnet50-fold-{fold}" for fold in range(4)]
    one, refit = units["true"][0]["units"], units["true"][0]["units"] * 4 / 3
    assert units["false"][0]["units"] == pytest.approx(4 * one + refit, abs=3)


@pytest.mark.parametrize(
    ("once", "again", "times"),
    [
        ('level = "breast"', "other_side = true", 2),
    ],
    ids=["the other breast is computed, too"],
)
def test_work_done_several_times_is_counted_as_often(
    capsys: Capture, tmp_path: Path, once: str, again: str, times: int
) -> None:
    config, units = tmp_path / "once.toml", []
    for more in ("", again):
        config.write_text(f'cnns = ["resnet50"]\n[training]\n{once}\n{more}\n')
        (step,) = [s for s in said(capsys, "--config", str(config))["steps"] if s["step"].startswith("Train-")]
        units.append(step["units"])
    assert units[1] == pytest.approx(times * units[0], abs=2)


def test_a_head_costs_one_forward_pass_and_its_epochs(capsys: Capture, tmp_path: Path) -> None:
    config = tmp_path / "head.toml"

    def trained(*more: str) -> dict[str, Any]:
        lines = ['cnns = ["efficientnet_lite0"]', "pretrained = true", "[training]", 'learns = "head"', *more]
        config.write_text("\n".join(lines))
        (step,) = [s for s in said(capsys, "--config", str(config))["steps"] if s["step"].startswith("Train-")]
        return dict(step)

    throughput = Throughput.load()
    body, head = throughput.of("train-efficientnet-lite0"), throughput.of("train-head")
    places = {32: 160 * 112 / 32**2, 16: 160 * 112 / 16**2}
    for stride, epochs in ((32, 4), (32, 40), (16, 4)):
        step = trained(f"stride = {stride}", f"epochs = {epochs}")
        one = body.core_seconds / 3 / epochs + head.core_seconds * places[stride] / 1000
        assert step["core_seconds"] == pytest.approx(one, abs=1e-5), (stride, epochs)
        assert body.row in step["row"] and head.row in step["row"]


def test_a_head_computes_its_maps_once_for_all_deals() -> None:
    throughput, seconds = Throughput.load(), []
    for deals in (1, 3):
        training = {"learns": "head", "folds": 5, "final": "mean", "epochs": 4, "head_epochs": 0, "deals": deals}
        config = PipelineConfig.load(cnns=["efficientnet_lite0"], pretrained=True, training=training)
        lines = estimate.estimate(config, Prices.load(), throughput)
        (line,) = [line for line in lines if line.step.startswith("Train-")]
        seconds.append((line.hours * 3600 - throughput.job.overhead_seconds) * line.cores)
    developed = estimate.images_read(config, estimate.Size.of(config, throughput))
    maps = developed * throughput.of("train-efficientnet-lite0").core_seconds / 3
    head = developed * 4 / 5 * 5 * 4 * throughput.of("train-head").core_seconds * (160 * 112 / 32**2) / 1000
    assert seconds == pytest.approx([maps + head, maps + 3 * head])


def test_disks_memory_and_downloads_are_counted(capsys: Capture, tmp_path: Path) -> None:
    config = tmp_path / "large.toml"
    config.write_text(
        'dataset = "rsna"\ncnns = ["resnet50"]\n[augmentation]\ncopies = 0\n'
        '[compute]\ntraining_instance_type = "ml.g4dn.xlarge"\ntraining_volume_gb = 500\n[training]\nworkers = 30\n'
    )
    facts = said(capsys, "--config", str(config))
    assert any("Prepare holds 315 GB of files" in text for text in facts["obstacles"])
    assert any("1 training processes with 30 workers each" in text for text in facts["obstacles"])
    assert facts["downloads"][0] == {"what": "Prepare: 315 GB of files", "hours": 0.875}
    sharded = said(capsys, "--config", str(config), "--instances", "9")
    assert sharded["downloads"][0]["hours"] == pytest.approx(0.875 / 9, abs=1e-3)
    assert "Prepare holds 35 GB of files" in str(sharded["obstacles"])


def test_fast_file_reads_while_training_computes_and_downloads_nothing(capsys: Capture, tmp_path: Path) -> None:
    text = 'dataset = "rsna"\ncnns = ["alexnet"]\n[augmentation]\ncopies = 0\n[training]\ncache = "{}"\nepochs = 10\n'
    config = tmp_path / "fast.toml"
    config.write_text(text.format("disk") + '[compute]\ninput_mode = "FastFile"\ntraining_volume_gb = 1\n')
    facts = said(capsys, "--config", str(config))
    gigabytes = 54706 * 0.8 * 0.8 * 10 * 160 * 112 * 2 / 1e9
    assert [item["what"] for item in facts["downloads"]] == ["Prepare: 315 GB of files"]
    (read,) = facts["reads"]
    assert read["hours"] == pytest.approx(gigabytes / 0.1 / 3600, rel=0.01)
    assert not any("training_volume_gb" in text for text in facts["obstacles"])
    config.write_text(text.format("memory") + '[compute]\ninput_mode = "FastFile"\n')
    (once,) = said(capsys, "--config", str(config))["reads"]
    assert once["hours"] == pytest.approx(read["hours"] / 10, abs=1e-3)
    config.write_text(text.format("disk"))
    assert said(capsys, "--config", str(config))["reads"] == []


def test_what_would_stop_the_run_is_said_before_it_starts(capsys: Capture) -> None:
    assert said(capsys)["obstacles"] == []
    first, *_, last = said(capsys, "--dataset", "rsna", "--profile", "full")["obstacles"]
    assert "Train-resnet50 takes 64 hours and is stopped after 24" in first
    assert "compute.processing_volume_gb is 50" in last and "Prepare holds 315 GB" in last


@pytest.mark.parametrize("cnn", Cnn)
def test_every_network_has_a_measured_cost(capsys: Capture, tmp_path: Path, cnn: Cnn) -> None:
    config = tmp_path / "one.toml"
    config.write_text(f'cnns = ["{cnn}"]\n')
    (line,) = [step for step in said(capsys, "--config", str(config))["steps"] if step["step"].startswith("Train-")]
    assert line["step"] == f"Train-{cnn.replace('_', '-')}" and line["core_seconds"] > 0


def test_every_instance_with_a_price_has_cores() -> None:
    prices, throughput = Prices.load(), Throughput.load()
    for instance in (*prices.processing, *prices.hosting):
        if instance.startswith(("ml.m5", "ml.c5")):
            assert throughput.cores(instance, trains=False)[1]
    for instance in prices.training:
        assert throughput.cores(instance, trains=True)[0] > 0


def test_the_estimate_follows_the_configuration() -> None:
    config = PipelineConfig.load(cnns=["alexnet"], compute={"training_instance_type": "ml.m5.4xlarge"})
    lines = estimate.estimate(config, Prices.load(), Throughput.load())
    assert [line.step for line in lines if line.step.startswith("Train")] == ["Train-alexnet"]
    assert all(line.measured for line in lines)


def test_a_search_costs_all_its_trials_and_takes_as_long_as_its_waves(capsys: Capture, tmp_path: Path) -> None:
    config, steps = tmp_path / "search.toml", {}
    plain = 'cnns = ["resnet50"]\n[compute]\ntraining_instance_count = 2\n[training]\nbatch_size = 16\n'
    for ranges in ("", '[tuning]\ntrials = 10\nparallel = 4\nranges.dropout = "uniform(0,0.5)"\n'):
        config.write_text(f"{plain}{ranges}")
        facts = said(capsys, "--config", str(config))
        (steps[bool(ranges)],) = [step for step in facts["steps"] if step["step"].endswith("-resnet50")]
    once, search = steps[False], steps[True]
    assert search["step"] == "Tune-resnet50" and search["units"] == pytest.approx(10 * once["units"], abs=10)
    assert search["usd"] == pytest.approx(10 * once["usd"], abs=1e-3)
    assert search["instance_hours"] == pytest.approx(10 * once["instance_hours"], abs=1e-3)
    assert search["hours"] == pytest.approx(3 * once["hours"], abs=1e-3), "four at a time: 4, 4, 2"
    assert facts["hours"] == pytest.approx(sum(step["hours"] for step in facts["steps"]), abs=2e-3)


def test_a_search_for_epochs_is_estimated_at_the_most(capsys: Capture, tmp_path: Path) -> None:
    config, units = tmp_path / "search.toml", []
    for ranges in ('dropout = "uniform(0,0.5)"', 'epochs = "int(3,6)"', 'epochs = "choice(3,6)"'):
        config.write_text(f'cnns = ["resnet50"]\n[tuning.ranges]\n{ranges}\n')
        steps = said(capsys, "--config", str(config))["steps"]
        units += [step["units"] for step in steps if step["step"] == "Tune-resnet50"]
    assert units[1] == units[2] == pytest.approx(2 * units[0], abs=1)


def test_the_networks_interface_endpoints_are_counted(capsys: Capture, tmp_path: Path) -> None:
    assert "interface" not in str(said(capsys)["beside"])
    config = tmp_path / "vpc.toml"
    config.write_text('dataset = "rsna"\n[security]\nsubnets = ["subnet-1", "subnet-2"]\nsecurity_groups = ["sg-1"]\n')
    *_, month, requests = said(capsys, "--config", str(config))["beside"]
    assert month["what"].startswith("8 interface endpoints of the VPC in 2 zones")
    assert month["usd"] == pytest.approx(2 * 8 * 730 * 0.01)
    assert requests == {"what": "315 GB of requests through one of them", "usd": 3.15}


def test_the_interface_endpoints_are_those_of_the_stack() -> None:
    doors = Template({}, {}).raw["Resources"].values()
    names = [item["Properties"]["ServiceName"]["Fn::Sub"] for item in doors if item["Type"] == "AWS::EC2::VPCEndpoint"]
    services = {name.partition("${AWS::Region}.")[2] for name in names}
    assert services == {*beside.INTERFACES, "s3"}


def test_copies_balance_as_many_classes_as_the_question_has() -> None:
    throughput = Throughput.load()
    three = PipelineConfig.load(dataset="rsna")
    two = three.replace(training=three.training.replace(question=Question.BINARY))
    learnt, copies = 54706 * 0.8 * 0.8, 1 + three.augmentation.copies
    assert estimate.Size.of(three, throughput).trained == pytest.approx(learnt * 0.9458 * 3 * copies)
    assert estimate.Size.of(two, throughput).trained == pytest.approx(learnt * (1 - 0.0212) * 2 * copies)
    own = throughput.dataset["own"].replace(classes=2, largest_class=0.9)
    changed = throughput.replace(dataset={"rsna": own})
    assert estimate.Size.of(three, changed, images=100).trained == pytest.approx(64 * 0.9 * 2 * copies)


def test_a_dataset_without_measurements_is_one_line(capsys: Capture) -> None:
    assert cli.main(["cost", "--dataset", "cmmd"]) != 0
    error = capsys.readouterr().err
    assert "dataset = 'cmmd'" in error and "mias, rsna, own" in error and "Traceback" not in error
