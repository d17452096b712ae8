"""A run's results as pandas tables: its manifest, predictions, learning curves and figures."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import Level

if TYPE_CHECKING:
    import pandas

MANIFESTS = ("data_segmentation", "prepared")
"""The stages whose manifest a run keeps, the most complete first."""
OF_MANIFEST = (
    *("patient_id", "laterality", "view", "fold", "path", "density", "finding"),
    *("site_id", "machine_id", "synthetic"),
)
"""The manifest's columns that are added to each prediction."""
OF_ONE_IMAGE = ("view", "path")
"""Those that a breast with several views does not have."""
SPLITS = ("validation", "test")


def manifest(folder: Path) -> "pandas.DataFrame":
    """Return one row per image, copies included, with split, fold and quality; `ConfigError` if there is none."""
    import pandas

    for stage in MANIFESTS:
        parts = sorted((folder / "stages").glob(f"{stage}-manifest*.csv"))
        if parts:
            text = {name: str for name in ("image_id", "patient_id", "source_image_id", "machine_id", "site_id")}
            frames = [
                pandas.read_csv(part, dtype=text, keep_default_na=False, na_values={"fold": [""]}) for part in parts
            ]
            found = pandas.concat(frames, ignore_index=True)
            found["fold"] = pandas.to_numeric(found["fold"].replace("", None)).astype("Int64")
            found["quality"] = [json.loads(text or "{}") for text in found["quality"]]
            found["lesions"] = [json.loads(text or "[]") for text in found["lesions"]]
            return found
    raise ConfigError(f"{folder}: this run kept no manifest: Prepare did not finish")


def predictions(folder: Path) -> "pandas.DataFrame":
    """Return `predictions.csv` with patient, side, view, fold, path and decision in each row; raises `ConfigError`.

    The decision is that of the selected network at its operating point "sensitivity"; it has no other network's. Where
    the networks judge breasts by all their views, a row is a breast, and has no view and no path.
    """
    import pandas

    path = folder / "predictions.csv"
    if not path.is_file():
        raise ConfigError(f"{folder}: this run has no predictions.csv: Evaluate did not finish")
    found = pandas.read_csv(path, dtype={"image_id": str, "patient_id": str})
    found["decision"] = _decisions(folder, found)
    try:
        known = manifest(folder)
    except ConfigError:
        return found
    of_image = OF_ONE_IMAGE if _evaluation(folder).get("level") == Level.BREAST else ()
    columns = ["image_id", *(name for name in OF_MANIFEST if name in known and name not in {*found, *of_image})]
    return found.merge(known[columns], on="image_id", how="left", validate="many_to_one")


def _decisions(folder: Path, table: "pandas.DataFrame") -> "pandas.Series[str]":
    import pandas

    from mammopipe.inference.client.answers import Finding

    found = pandas.Series(pandas.NA, index=table.index, dtype="string")
    selected = _evaluation(folder)["selected"]
    point = selected.get("operating_points", {}).get("sensitivity")
    if point is not None and {"network", "malignant"} <= set(table.columns):
        of_selected = table["network"] == selected["cnn"]
        # A probability equal to the threshold is suspicious, as at the endpoint.
        above = table["malignant"] >= point["threshold"]
        found[of_selected & above] = str(Finding.SUSPICIOUS)
        found[of_selected & ~above] = str(Finding.NOT_SUSPICIOUS)
    return found


def history(folder: Path) -> "pandas.DataFrame":
    """Return one row per epoch and network, with the figures that training printed; raises `ConfigError`."""
    import pandas

    candidates = _evaluation(folder).get("candidates", {})
    return pandas.DataFrame(
        [{"network": name, **epoch} for name, item in candidates.items() for epoch in item.get("history", [])]
    )


def metrics(folder: Path) -> "pandas.DataFrame":
    """Return one row per network, split and measure: its value and the bounds of its 95 % interval."""
    import pandas

    evaluation = _evaluation(folder)
    selected = evaluation["selected"]["cnn"]
    networks = evaluation.get("candidates") or {selected: evaluation["selected"]}
    rows = [
        {"network": name, "selected": name == selected, "split": split, **row}
        for name, item in networks.items()
        for split in SPLITS
        for row in _figures(item.get(split) or {})
    ]
    return pandas.DataFrame(rows, columns=["network", "selected", "split", "measure", "value", "low", "high"])


def _figures(scorecard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, figure in scorecard.items():
        if isinstance(figure, Mapping) and isinstance(figure.get("value"), int | float):
            yield {"measure": name, **{key: figure.get(key) for key in ("value", "low", "high")}}


def _evaluation(folder: Path) -> dict[str, Any]:
    path = folder / "evaluation.json"
    if not path.is_file():
        raise ConfigError(f"{folder}: this run has no evaluation.json: Evaluate did not finish")
    return dict(json.loads(path.read_text(encoding="utf-8")))
