"""The model as MLflow's pyfunc flavour: `mlflow.pyfunc.load_model(uri).predict(table)`.

The table has a column `path` (image files) and, if the files do not state them, the columns `image_id`, `patient_id`,
`laterality` and `view`. The result is that of `Predictor.predict_table`.
"""

from pathlib import Path
from typing import Any

from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View

Table = Any
"""A `pandas.DataFrame`."""


class Model:
    """The object that MLflow calls."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, model_input: Table) -> Table:
        """Return the predictions of the images in the column `path`, one row per image."""
        rows = model_input.to_dict("records")
        records = [_record(row) for row in rows]
        return self.predictor.predict_table([row["path"] for row in rows], records=records)


def _record(row: dict[str, Any]) -> ImageRecord | None:
    if not {"laterality", "view", "patient_id"} & row.keys():
        return None
    side, view = row.get("laterality"), row.get("view")
    return ImageRecord(
        image_id=str(row.get("image_id") or Path(row["path"]).stem),
        patient_id=str(row.get("patient_id") or ""),
        dataset="",
        laterality=Laterality(side) if isinstance(side, str) and side else None,
        view=View(view) if isinstance(view, str) and view else None,
        label=Label.NORMAL,  # a record needs a label; nothing here reads it
    )


def _load_pyfunc(data_path: str) -> Model:
    """Load the model. MLflow calls this function by its name."""
    return Model(Predictor(Path(data_path)))
