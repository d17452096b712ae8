"""One film to one prediction: the preprocessing of training, the network, calibration and the operating point."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.explain import Evidence, evidence
from inference.schema import Decision, Finding, ModelInfo, OperatingPoint, QualityWarning
from processing.errors import ConfigError
from processing.imaging import Mammogram
from processing.phantom import make_film
from processing.preprocess import Preprocessed, preprocess
from processing.records import Label, Laterality, View
from training import artifact
from training.gradcam import grad_cam
from training.predictions import softmax

WARNINGS: Mapping[str, str] = {
    "coverage-low": "the breast covers less of the film than usual; the segmentation may have lost some of it",
    "coverage-high": "the breast covers more of the film than usual; the segmentation may hold something else",
    "skin-cut-off": "the breast runs into the edge of the film opposite the chest wall; some of it is missing",
    "chest-side-unclear": "the picture does not show clearly on which side the chest wall lies",
    "chest-side-against-laterality": "the chest wall lies on the other side than the laterality says",
    "pectoral-not-found": "no pectoral muscle was found in a view that normally shows it",
    "laterality-inferred": "neither the file nor the request says which breast this is; it was taken from the picture",
    "no-operating-point": "the model has no such operating point; it gives a score but no decision",
}
"""What a warning means; the first six are the flags of `processing.breast`."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of one film."""

    probabilities: Mapping[Label, float]
    """Calibrated, by class; they sum to 1."""
    malignancy_score: float
    """100 times the probability of malignant."""
    decision: Decision | None
    """What the operating point says; `None` where the model has none."""
    warnings: tuple[QualityWarning, ...]
    prepared: Preprocessed
    """The network's input and where in the film it came from."""


class Predictor:
    """A model directory, loaded and verified; not thread-safe, and fastest in the thread that made it."""

    def __init__(self, model_dir: Path, *, model_id: str = "") -> None:
        """Load the model; `ConfigError` where a file is missing, altered or does not fit."""
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = artifact.load(model_dir)
        self._network = self._model.network.to(self._device)
        self._preprocess = self._model.preprocess
        where = str(model_dir / artifact.DESCRIPTION_FILE)
        self._classes = _classes(self._model.classes, where)
        self._points = _operating_points(self._model.description["operating_points"], where)
        digest = str(self._model.description["weights_sha256"])
        architecture = str(self._model.description["architecture"])
        self.info = ModelInfo(id=model_id or f"{architecture}-{digest[:12]}", architecture=architecture,
                              weights_sha256=digest, preprocess_digest=self._preprocess.digest)

    def predict(self, mammogram: Mammogram, *,
                operating_point: OperatingPoint = OperatingPoint.SENSITIVITY) -> Prediction:
        """Return what the model says of the film; `ImageError` where there is no breast in it."""
        return self.judge(mammogram, self.prepare(mammogram), operating_point=operating_point)

    def prepare(self, mammogram: Mammogram) -> Preprocessed:
        """Return the network's input, made exactly as for training; `ImageError` where there is no breast."""
        return preprocess(mammogram, self._preprocess)

    def judge(self, mammogram: Mammogram, prepared: Preprocessed, *, operating_point: OperatingPoint) -> Prediction:
        """Return what the model says of a film that has been prepared."""
        with torch.inference_mode():
            logits = self._network(tensor(prepared).to(self._device)).cpu().numpy().astype(np.float64)
        shares = softmax(logits / self._model.temperature)[0]
        probabilities = {label: float(share) for label, share in zip(self._classes, shares, strict=True)}
        malignant = probabilities[Label.MALIGNANT]
        decision = self._decide(malignant, operating_point)
        return Prediction(probabilities, 100 * malignant, decision, _warnings(mammogram, prepared, decision), prepared)

    def explain(self, prepared: Preprocessed, mammogram: Mammogram, target: Label) -> Evidence:
        """Return the evidence for `target` over the film (Grad-CAM)."""
        image = tensor(prepared).to(self._device)
        heat = grad_cam(self._network, image, self._classes.index(target))
        return evidence(heat, prepared, mammogram.pixels.shape)

    def warm_up(self) -> None:
        """Answer a synthetic film, with heatmap, so that the first caller waits for nothing but the answer."""
        film = make_film(0, label=Label.MALIGNANT, laterality=Laterality.LEFT, height=512, width=512)
        mammogram = Mammogram(film.pixels, Laterality.LEFT, View.MLO)
        self.explain(self.predict(mammogram).prepared, mammogram, Label.MALIGNANT)

    def _decide(self, malignant: float, name: OperatingPoint) -> Decision | None:
        point = self._points.get(name)
        if point is None:
            return None
        finding = Finding.SUSPICIOUS if malignant >= point["threshold"] else Finding.NOT_SUSPICIOUS
        return Decision(operating_point=name, finding=finding, threshold=point["threshold"],
                        sensitivity=point["sensitivity"], specificity=point["specificity"])


def _warnings(mammogram: Mammogram, prepared: Preprocessed, decision: Decision | None) -> tuple[QualityWarning, ...]:
    codes = list(prepared.quality["flags"])
    if mammogram.facts.get("laterality_inferred"):
        codes.append("laterality-inferred")
    if decision is None:
        codes.append("no-operating-point")
    return tuple(QualityWarning(code=code, message=WARNINGS.get(code, code)) for code in codes)


def tensor(prepared: Preprocessed) -> Tensor:
    """Return the network's input, float32 (1, 1, height, width) in [0, 1]: bit for bit what training takes."""
    return torch.from_numpy(prepared.image)[None, None]


def _classes(names: tuple[str, ...], where: str) -> tuple[Label, ...]:
    if set(names) != set(Label):
        raise ConfigError(f"{where}: classes={list(names)} must be {', '.join(Label)} to be served")
    return tuple(map(Label, names))


def _operating_points(points: Mapping[str, Any], where: str) -> dict[OperatingPoint, dict[str, float]]:
    """Return the numbers that a decision needs, by operating point; `ConfigError` where one is missing or no number."""
    keys = ("threshold", "sensitivity", "specificity")
    found: dict[OperatingPoint, dict[str, float]] = {}
    for name, values in points.items():
        try:
            found[OperatingPoint(name)] = {key: float(values[key]) for key in keys}
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"{where}: operating_points[{name!r}]={values!r} must be one of "
                              f"{', '.join(OperatingPoint)} with the numbers {', '.join(keys)}") from None
    return found
