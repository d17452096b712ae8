"""The texts of the warnings in answers."""

from collections.abc import Mapping, Sequence

from mammopipe.inference.contract.exclusions import Exclusion
from mammopipe.inference.contract.schema import Decision, QualityWarning
from mammopipe.processing.breast.preprocess import Preprocessed
from mammopipe.processing.images.mammogram import Mammogram
from mammopipe.training.model.reference import Reference

WARNINGS: Mapping[str, str] = {
    "coverage-low": "the breast covers less of the image than usual; the segmentation may have lost some of it",
    "coverage-high": "the breast covers more of the image than usual; the segmentation may include something else",
    "skin-cut-off": "the breast runs into the edge of the image opposite the chest wall; some of it is missing",
    "chest-side-unclear": "the picture does not show clearly that the chest wall lies on the assumed side",
    "chest-side-against-laterality": "the breast does not touch the side that the laterality states",
    "pectoral-not-found": "no pectoral muscle was found in a view that normally shows it",
    "view-inferred": "neither the file nor the request says which view this is; it was taken from the picture",
    "view-unclear": "nothing says which view this is, and the picture does not show it clearly; no muscle was removed",
    "implant": "the breast contains an implant, which hides tissue",
    "laterality-inferred": "neither the file nor the request says which breast this is; it was taken from the picture",
    "no-operating-point": "the model has no such operating point; it gives a score but no decision",
    "no-reference": "the model has no reference data, so only a poor segmentation refers the image to a reader",
}
"""Meaning of each warning; the first nine are those of `mammopipe.processing.breast.quality.Flag`."""


def warnings(
    mammogram: Mammogram,
    prepared: Preprocessed,
    decision: Decision | None,
    exclusions: Sequence[Exclusion],
    reference: Reference | None,
) -> tuple[QualityWarning, ...]:
    """Return the warnings of an image: its exclusions, what pixels and header show, and what the model lacks."""
    excluded = {str(each.flag): each.reason for each in exclusions}
    codes = [code for code in prepared.quality["flags"] if code not in excluded]
    if mammogram.facts.get("laterality_inferred"):
        codes.append("laterality-inferred")
    if decision is None:
        codes.append("no-operating-point")
    if reference is None:
        codes.append("no-reference")
    texts = excluded | {code: WARNINGS[code] for code in codes}
    return tuple(QualityWarning(code=code, message=message) for code, message in texts.items())
