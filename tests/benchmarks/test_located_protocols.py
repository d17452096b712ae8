"""The script that trains the recommended network under three protocols: splits, figures, resuming."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.studies import located_protocols
from benchmarks.studies.located_protocols import MACRO, MALIGNANT, Cell, division
from mammopipe.processing.datasets.manifest import Split, SplitProtocol
from mammopipe.processing.datasets.mias import LABEL_TABLE, read_labels
from mammopipe.processing.phantoms.mias_tree import write_mias_tree


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mias")
    write_mias_tree(folder, films=24)
    return folder


@pytest.mark.parametrize("protocol", SplitProtocol)
def test_what_crosses_into_the_test_is_what_the_protocol_lets_cross(films: Path, protocol: SplitProtocol) -> None:
    divided = division(read_labels(films / LABEL_TABLE), Cell(protocol, 0, False))
    test = [record for record in divided if record.split is Split.TEST]
    others = [record for record in divided if record.split is not Split.TEST]
    patients = {record.patient_id for record in test} & {record.patient_id for record in others}
    sources = {record.source_image_id or record.image_id for record in test}
    crossing = sources & {record.source_image_id or record.image_id for record in others}
    assert bool(patients) is (protocol is not SplitProtocol.PATIENT)
    assert bool(crossing) is (protocol is SplitProtocol.PUBLISHED)
    if protocol is not SplitProtocol.PUBLISHED:
        assert not any(record.source_image_id for record in test)


def test_figures_give_each_pair_of_classes_the_same_weight() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [60, 9, 5])
    probabilities = random.dirichlet([1, 1, 1], len(labels)) * 0.7 + 0.3 * np.eye(3)[labels]
    pairs = {}
    for one in range(3):
        for other in {0, 1, 2} - {one}:
            kept = np.isin(labels, [one, other])
            pairs[one, other] = roc_auc_score(labels[kept] == one, probabilities[kept, one])
    assert MACRO(labels, probabilities) == pytest.approx(np.mean(list(pairs.values())))
    assert MALIGNANT(labels, probabilities) == pytest.approx((pairs[2, 0] + pairs[2, 1]) / 2)
    # More images of one class, alike those that there are, change nothing.
    more = np.concatenate([np.arange(len(labels)), np.repeat(np.flatnonzero(labels == 0), 4)])
    assert MALIGNANT(labels[more], probabilities[more]) == pytest.approx(MALIGNANT(labels, probabilities))


def test_a_stopped_command_goes_on_and_its_table_is_that_of_its_cells(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = replace(located_protocols.LOCATED, config=located_protocols.LOCATED.config.replace(epochs=1))
    monkeypatch.setattr(located_protocols, "LOCATED", small)
    monkeypatch.setattr(located_protocols, "FOLDS", 2)
    arguments = [str(films), str(tmp_path / "weights"), str(tmp_path / "work"), "--seeds", "0", "--threads", "1"]
    arguments += ["--height", "96", "--width", "64"]
    located_protocols.main([*arguments, "--no-noise"])
    lines = capsys.readouterr().out.splitlines()
    measured = [line.removesuffix(": measured") for line in lines if line.endswith(": measured")]
    assert measured == ["patient-films-0", "film-films-0", "published-films-0"]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*") if path.is_file()}
    located_protocols.main([*arguments, "--no-noise"])
    again = capsys.readouterr().out.splitlines()
    assert again == lines[-7:] and len(again) == 7
    assert again[0] == "At 96 x 64 pixels; 3 of 3 cells are measured."
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
