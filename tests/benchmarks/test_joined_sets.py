"""The table of joined sets: which differences stand in which row, and which sets are phantoms."""

import numpy as np

from benchmarks.studies.ablation import LOCATED
from benchmarks.studies.joined_sets import BOTH, LEFT_OUT, OWN, described, table
from mammopipe.processing.breast.harmonisation import Harmonisation
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View
from mammopipe.training.model.predictions import Floats

LABELS = (Label.NORMAL, Label.BENIGN, Label.MALIGNANT)


def records(dataset: str, *, synthetic: bool) -> list[ImageRecord]:
    return [
        ImageRecord(
            f"{dataset}-{number}", f"{dataset}-{number // 2}", dataset, list(Laterality)[number % 2], View.MLO,
            LABELS[number % 3], synthetic=synthetic,
        )
        for number in range(60)
    ]  # fmt: skip


def logits(signal: float) -> list[Floats]:
    """Return the logits of one deal that rank malignant images the better, the greater the signal is."""
    random = np.random.default_rng(0)
    return [random.normal(size=(60, 3)) + signal * np.eye(3)[np.arange(60) % 3]]


def test_a_row_is_compared_with_its_own_set_alone_and_with_no_harmonisation() -> None:
    signals = {OWN: 0.5, BOTH: 1.5, LEFT_OUT: 0.0}
    found = {
        ("mias", training, kind): logits(signal + (kind is Harmonisation.QUANTILES))
        for training, signal in signals.items()
        for kind in (Harmonisation.NONE, Harmonisation.QUANTILES)
    }
    _, _, *rows = table(found, {"mias": records("mias", synthetic=False)})
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert [row[:3] for row in cells] == [["mias", training, str(kind)] for _, training, kind in found]
    signs = [[cell[:1] for cell in row[4:]] for row in cells]
    assert signs == [["", ""], ["", "+"], ["+", ""], ["+", "+"], ["-", ""], ["-", "+"]]


def test_phantoms_are_named_as_such() -> None:
    both = [*records("mias", synthetic=False), *records("vindr-mammo", synthetic=True)]
    lines = "\n".join(described(both, ["mias"], 3, LOCATED))
    assert "- mias: 60 mammograms of 30 patients (20 normal, 20 benign, 20 malignant); judged" in lines
    assert "- vindr-mammo: 60 **phantoms** of 30 patients" in lines and "only trained on" in lines
