"""The cases of an external evaluation: images, or breasts if the model judges a breast by all its views."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mammopipe.pipelines.external_evaluation.judging import Judgement, known_class_indices
from mammopipe.processing.classes import possible_classes
from mammopipe.processing.datasets.manifest import ImageRecord, Label, breast_id
from mammopipe.training.model.predictions import Floats, TestPredictions
from mammopipe.training.model.views.attention import ViewAttention
from mammopipe.training.model.views.breasts import breasts_of


@dataclass(frozen=True)
class JudgedCases:
    """The cases with the model's predictions for them, in the same order."""

    records: tuple[ImageRecord, ...]
    """The images; or for each breast one of its images, with the most serious label of the breast and without view."""
    predictions: TestPredictions
    referred: tuple[bool, ...]
    """Whether the model refers the case to a reader."""

    def rows(self, probabilities: Floats, classes: Sequence[str]) -> Iterator[dict[str, str]]:
        """Yield one row per case for `predictions.csv`: ids, true label, calibrated probabilities, referral.

        The rows of breasts also name the judged images. `image_id` is then the image that stands for the breast.
        """
        views = self.predictions.views
        for place, (record, shares) in enumerate(zip(self.records, probabilities, strict=True)):
            yield {
                "image_id": record.image_id,
                "patient_id": record.patient_id,
                "laterality": str(record.laterality or ""),
                "view": str(record.view or ""),
                **({} if views is None else {"images": " ".join(views[place])}),
                "label": str(record.label),
                **{name: f"{share:.9g}" for name, share in zip(classes, shares, strict=True)},
                "referred": str(self.referred[place]),
            }


def judged_cases(judgement: Judgement, classes: Sequence[str], attention: ViewAttention | None) -> JudgedCases:
    """Return the cases of judged images.

    A breast is judged by those of its views that could be judged. Its label is the most serious one of all its images
    in the table. It is referred if one of its views is referred or could not be judged, as in an exam of the endpoint.

    Args:
        judgement: The model's predictions for the images.
        classes: The model's classes.
        attention: What combines the views of a breast; `None` for a model that judges images.
    """
    images = judgement.images
    records = [image.record for image in images]
    if attention is None:
        referred = tuple(image.referred for image in images)
        return JudgedCases(tuple(records), judgement.predictions(classes), referred)
    logits = np.array([image.logits for image in images], np.float64)
    features = np.array([image.features for image in images], np.float64)
    worst: dict[str, Label] = {}
    for record in (*records, *judgement.unjudged):
        name = breast_id(record)
        worst[name] = max(worst.get(name, record.label), record.label, key=lambda label: label.rank)
    missed = set(map(breast_id, judgement.unjudged))
    found, rows, referred_breasts, views = [], [], [], []
    classes_of_table = possible_classes(record.label for record in records)
    for breast in breasts_of(records, classes_of_table, other_side=attention.other is not None):
        places = [view[0] for view, _ in breast.views]
        own = [view[0] for view in breast.own]
        name = breast_id(breast.record)
        rows.append(attention.breast_logits(logits[places], features[places], [side for _, side in breast.views]))
        found.append(replace(breast.record, label=worst[name]))
        referred_breasts.append(name in missed or any(images[place].referred for place in own))
        views.append(tuple(records[place].image_id for place in own))
    predicted = TestPredictions.of(found, known_class_indices(found, classes), np.array(rows))
    return JudgedCases(tuple(found), replace(predicted, views=tuple(views)), tuple(referred_breasts))
