"""Auxiliary targets: values and masks, the loss, and a training whose model contains no heads."""

import math
from dataclasses import replace

import pytest
import torch

from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View
from mammopipe.processing.errors import ConfigError
from mammopipe.training.auxiliary import VALUES, Auxiliary
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.auxiliary.heads import AuxiliaryHeads, WithAuxiliary
from mammopipe.training.fitting.auxiliary.targets import AuxiliaryTargets
from mammopipe.training.networks.registry import build_model

RECORD = ImageRecord("a", "p", "rsna", Laterality.LEFT, View.MLO, Label.NORMAL, age=40.0, density="A", birads="1")
RECORDS = [
    RECORD,
    replace(RECORD, image_id="b", age=60.0, density="", view=View.CC, label=Label.BENIGN, implant=True),
    replace(RECORD, image_id="c", age=None, density="C", birads="", label=Label.MALIGNANT, finding="invasive"),
]


def test_values_come_from_the_manifest_and_may_be_absent() -> None:
    found = {name: [VALUES[name](record) for record in RECORDS] for name in Auxiliary}
    assert found[Auxiliary.DENSITY] == ["A", None, "C"] and found[Auxiliary.BIRADS] == ["1", "1", None]
    assert found[Auxiliary.BIOPSY] == ["False", "True", "True"]
    assert found[Auxiliary.INVASIVE] == ["False", "False", "True"]
    assert found[Auxiliary.IMPLANT] == [None, "True", None]
    other = replace(RECORDS[2], dataset="mias")
    assert VALUES[Auxiliary.BIOPSY](other) is VALUES[Auxiliary.INVASIVE](other) is None


def test_absent_values_do_not_count_and_present_ones_count_fully() -> None:
    targets = AuxiliaryTargets(RECORDS, {Auxiliary.DENSITY: 0.5, Auxiliary.AGE: 2.0})
    values = targets.of(["c", "a", "b"])
    assert values.isnan().tolist() == [[False, True], [False, False], [True, False]]
    assert values[1:, 1].tolist() == [-1.0, 1.0]
    outputs = [torch.zeros(3, 2), torch.zeros(3, 1)]
    # Density: two images of three, each ln 2; age: two of three, each smooth L1 of 1.
    assert float(targets.losses(outputs, values).mean()) == pytest.approx(0.5 * math.log(2) + 2.0 * 0.5)
    wrong = torch.tensor([[9.0, 0.0], [0.0, 0.0], [0.0, 9.0]])
    assert float(targets.losses([wrong, outputs[1]], values)[2]) == float(targets.losses(outputs, values)[2])


def test_a_target_without_two_values_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="auxiliary_laterality=0.1: the 3 training images have 1 different values"):
        AuxiliaryTargets(RECORDS, {Auxiliary.LATERALITY: 0.1})
    with pytest.raises(ConfigError, match="auxiliary_age needs learns=all"):
        TrainConfig(cnn="modified_cnn", learns="head", auxiliary_age=0.1)


@pytest.mark.parametrize("name", ["modified_cnn", "alexnet"])
def test_the_heads_teach_the_body_and_are_no_part_of_the_network(name: str) -> None:
    targets = AuxiliaryTargets(RECORDS, {Auxiliary.DENSITY: 1.0, Auxiliary.VIEW: 1.0})
    network = build_model(name, classes=2, seed=0)
    names = set(network.state_dict())
    heads = AuxiliaryHeads(network, targets, shape=(64, 64), seed=0)
    logits, outputs = WithAuxiliary(network, heads)(torch.rand(3, 1, 64, 64))
    assert logits.shape == (3, 2) and [part.shape for part in outputs] == [(3, 2), (3, 2)]
    targets.losses(outputs, targets.of(["a", "b", "c"])).mean().backward()
    body = [p for p in network.body.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert body and set(network.state_dict()) == names
    assert not any(parameter is own for parameter in heads.parameters() for own in network.parameters())
