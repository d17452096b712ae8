"""Variants of the located network are compared in pairs with the recipe's network; no test image is read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.studies import located_variants
from benchmarks.studies.ablation import LOCATED, Row
from benchmarks.studies.mirrored_breasts import aligned
from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.datasets.manifest import Split
from mammopipe.processing.datasets.mias import LABEL_TABLE, read_labels
from mammopipe.processing.phantoms.mias_tree import write_mias_tree
from mammopipe.processing.splits.assignment import assign_splits


def test_every_variant_is_compared_with_the_first_and_no_test_image_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mias_tree(tmp_path / "films", films=40)
    for record in assign_splits(read_labels(tmp_path / "films" / LABEL_TABLE)):
        if record.split is Split.TEST:
            (tmp_path / "films" / record.path).unlink()
    small = Row("small", LOCATED.config.replace(epochs=1), PreprocessConfig(height=128, width=64, max_height=256))
    monkeypatch.setattr(located_variants, "LOCATED", small)
    monkeypatch.setattr(located_variants, "FOLDS", 2)
    work = tmp_path / "work"
    arguments = [str(tmp_path / "films"), str(tmp_path / "weights"), str(work), "--deals", "2", "--threads", "1"]
    located_variants.main(arguments)
    table = json.loads((work / "variants.json").read_text())
    assert len(table) == 2 * len(located_variants.VARIANTS)
    first, *rest = [row["malignant_auc"] for name, row in table.items() if "half of" not in name]
    assert first["difference"]["value"] == 0
    for figure in rest:
        assert len(figure["deals"]) == 2
        gain = float(np.mean(figure["deals"]) - np.mean(first["deals"]))
        assert figure["difference"]["value"] == pytest.approx(gain)
    assert len(np.unique(np.load(work / "strides 8 and 16, deal 1.npy"))) > 2
    assert len((work / "variants.md").read_text().splitlines()) == 2 + len(table)

    located_variants.main([*arguments, "--variants", "stride 16 (the recipe)", "--nested", "1", "2"])
    nested = json.loads((work / "variants.json").read_text())
    assert [name for name in nested if "half of" not in name] == [
        "stride 16 (the recipe), nested, 1 inner deal",
        "stride 16 (the recipe), nested, 2 inner deals",
    ]


def test_the_other_breast_is_aligned_by_the_outlines_of_both() -> None:
    tissue = np.zeros((2, 96, 64), bool)
    tissue[0, 8:56, :32] = True
    tissue[1, 32:96, :64] = True
    maps = torch.zeros(2, 1, 12, 8)
    # A quarter of the height below the top of the breast, in the middle of its width.
    maps[1, 0, 5:7, 3:5] = 1.0
    found = aligned(maps, tissue, np.array([1, -1]))
    strongest = np.unravel_index(int(found[0, 0].argmax()), (12, 8))
    assert strongest in {(2, 1), (2, 2), (3, 1), (3, 2)}
    assert torch.equal(found[1], maps[1])
