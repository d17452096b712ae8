"""The study of pre-training: no held-out patient in it, and views that show the same places."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.studies import located_variants, pretraining
from benchmarks.studies.ablation import LOCATED, Row
from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.datasets.manifest import Split
from mammopipe.processing.datasets.mias import LABEL_TABLE, read_labels
from mammopipe.processing.phantoms.mias_tree import write_mias_tree
from mammopipe.processing.splits.assignment import assign_splits


def test_each_fold_is_pretrained_without_its_held_out_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mias_tree(tmp_path / "films", films=16)
    for record in assign_splits(read_labels(tmp_path / "films" / LABEL_TABLE)):
        if record.split is Split.TEST:
            (tmp_path / "films" / record.path).unlink()
    small = Row("small", LOCATED.config.replace(epochs=1), PreprocessConfig(height=256, width=240, max_height=512))
    monkeypatch.setattr(pretraining, "LOCATED", small)
    for module in (pretraining, located_variants):
        monkeypatch.setattr(module, "FOLDS", 2)
    monkeypatch.setattr(pretraining, "STEPS", 1)
    monkeypatch.setattr(pretraining, "CROPS", 4)
    monkeypatch.setattr(pretraining, "TISSUE", 0.3)
    seen: list[set[int]] = []

    def spy(blocks: nn.Module, views: torch.Tensor, places: np.ndarray, seed: int) -> nn.Module:
        seen.append(set(places[:, 0].tolist()))
        return whole(blocks, views, places, seed)

    whole = pretraining.pretrained
    monkeypatch.setattr(pretraining, "pretrained", spy)
    judged: list[tuple[set[str], set[str]]] = []

    def counted(films, config, rest, held, inner_deals):  # type: ignore[no-untyped-def]
        patients = [record.patient_id for record in films.records]
        judged.append(({patients[n] for n in np.flatnonzero(held)}, set(patients)))
        return of_fold(films, config, rest, held, inner_deals)

    of_fold = located_variants.of_fold
    monkeypatch.setattr(pretraining, "of_fold", counted)
    work = tmp_path / "work"
    pretraining.main([str(tmp_path / "films"), str(tmp_path / "none"), str(work), "--deals", "1", "--threads", "1"])
    records, _ = pretraining.development_images(tmp_path / "films", work, small.preprocess)
    assert len(seen) == 2 and all(seen)
    for images, (held, everyone) in zip(seen, judged[2:], strict=True):
        learnt = {records[image].patient_id for image in images}
        assert not learnt & held and learnt | held <= everyone
        assert not any(records[image].source_image_id for image in images)
    table = json.loads((work / "pretraining.json").read_text())
    assert len(table["figures"]) == 4 and len(table["recognised"]) == 2


def test_two_views_of_a_crop_are_at_one_place_but_for_the_movement() -> None:
    # A map whose two channels hold the row and the column of each place.
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(30.0), indexing="ij")
    views = torch.stack([rows, columns]).expand(3, 5, 2, 40, 30)
    tissue = torch.zeros(5, 40, 30)
    tissue[2:] = 1
    places = pretraining.crop_places(tissue, np.array([1, 3]))
    assert set(places[:, 0]) == {3}, "image 1 has no tissue, the others were not asked for"
    first, second = pretraining.crops(views, places[:50], np.random.default_rng(0))
    moved = (second - first)[:, :, 0, 0]
    assert first[0, :, 0, 0].tolist() == places[0, 1:].tolist()
    assert set(moved.flatten().tolist()) == {-1.0, 0.0, 1.0}


def test_the_loss_punishes_views_that_differ_and_features_that_are_alike() -> None:
    random = torch.Generator().manual_seed(0)
    spread = 2 * torch.randn(64, 8, generator=random)
    same = pretraining.vicreg(spread, spread)
    assert pretraining.vicreg(spread, spread + 1) > same
    assert pretraining.vicreg(torch.zeros(64, 8), torch.zeros(64, 8)) > same, "collapsed"
    copied = spread[:, :1].expand(64, 8)
    assert pretraining.vicreg(copied, copied) > same, "one feature eight times"
