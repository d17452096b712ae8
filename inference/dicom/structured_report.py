"""The content of a structured report: one measurement group for each exam, breast, image and region.

Groups follow TID 1501 and, for regions, TID 1410 of PS3.16. Concepts have the standard's codes if there are any. All
others have codes of the private scheme `99MAMMOPIPE` with their meanings.

Viewers draw every group below "Imaging Measurements", and OHIF 3.13 throws on a group without coordinates. That section
therefore holds only groups of regions. The groups of exam, breasts and images have no coordinates. They are in the
section "Findings", which TID 1500 allows because it is extensible.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    ContainerContentItem,
    ContentSequence,
    CoordinatesForMeasurement,
    FindingSite,
    ImageContentItem,
    ImageRegion,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)
from highdicom.sr.value_types import ContentItem
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from mammopipe.inference.dicom.source import SourceImage
from mammopipe.inference.dicom.wording import Facts, plain, probability_in_percent, sentences
from mammopipe.processing.datasets.manifest import Laterality, View

Group = MeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations

SCHEME = "99MAMMOPIPE"
SIDES = {Laterality.LEFT: codes.SCT.Left, Laterality.RIGHT: codes.SCT.Right}
"""PS3.16 CID 244."""
VIEWS = {
    View.CC: codes.cid4014.CranioCaudal,
    View.MLO: codes.cid4014.MedioLateralObliqueProjection,
    View.ML: codes.cid4014.MedioLateralProjection,
    View.LM: codes.cid4014.LateroMedial,
    View.LMO: codes.cid4014.LateroMedialOblique,
    View.AT: Code("399011000", "SCT", "Axillary Tail"),
}
"""PS3.16 CID 4014, and CID 4015 for the axillary tail."""
MODALITIES = {
    "CR": codes.cid29.ComputedRadiography,
    "DX": codes.cid29.DigitalRadiography,
    "MG": codes.cid29.Mammography,
}
"""PS3.16 CID 29."""
DRAWN_AS = "cornerstoneTools@^4.0.0:RectangleRoi"
"""Prefix of a region's Tracking Identifier, from which dcmjs chooses the tool that draws the group."""
_PERCENT = Code("%", "UCUM", "Percent")
_PLAIN = Code("1", "UCUM", "no units")
_NAT = Code("{nat}", "UCUM", "nat")
_PIXELS = Code("{pixels}", "UCUM", "Pixels")


def private(value: str, meaning: str) -> Code:
    """Return a concept of the private scheme; `value` has at most 16 characters (PS3.3 8.1)."""
    return Code(value, SCHEME, meaning)


class Writer:
    """Writes the groups of one document, which all name the same algorithm."""

    def __init__(self, model: Facts, document_uid: str, derive: Any) -> None:
        self._model, self._document, self._derive = model, document_uid, derive

    def judged(self, name: str, facts: Facts, images: Sequence[SourceImage], side: str | None) -> Group:
        """Return the group of an exam, a breast or an image: scores, decision, referral and reasons in words.

        Args:
            name: Name of the group; its first word is the level (`exam`, `breast` or `image`).
            facts: The answer for it.
            images: Its images.
            side: Its laterality, if known.
        """
        level = name.split()[0]
        group = MeasurementsAndQualitativeEvaluations(
            tracking_identifier=self._tracking(name),
            finding_category=private(level.upper(), f"Judgement of one {level}"),
            algorithm_id=self._algorithm(),
            finding_sites=[_site(side)],
            measurements=list(_measurements(facts)),
            qualitative_evaluations=list(_evaluations(facts)),
            source_images=[SourceImageForMeasurementGroup(image.sop_class, image.instance) for image in images],
        )
        group[0].ContentSequence.extend(comment(text) for text in sentences(facts))
        return group

    def region(self, name: str, facts: Facts, target: str, image: SourceImage, side: str | None) -> Group:
        r"""Return the group of a heatmap's region: its box as a closed polyline, its area and its peak.

        Coordinates are (column, row). 0\0 is the top left corner of the top left pixel (PS3.3 C.18.6.1.1), so the
        centre of a pixel has an offset of half a pixel.
        """
        left, top, right, bottom = (facts[key] for key in ("left", "top", "right", "bottom"))
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], np.float32)
        area, unit = _area(right - left, bottom - top, image.pixel_spacing)
        group = PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=self._tracking(f"{DRAWN_AS}:{name}"),
            referenced_region=ImageRegion("POLYLINE", corners, SourceImageForRegion(image.sop_class, image.instance)),
            finding_category=private("HEATMAP-REGION", f"Where the evidence for {target} lies, not a lesion outline"),
            algorithm_id=self._algorithm(),
            finding_sites=[_site(side)],
            measurements=[
                _number(codes.SCT.Area, area, unit),
                _number(private("HEAT", "Heat at the peak, 0 to 1"), facts["strength"], _PLAIN),
                _number(private("PEAK-COLUMN", "Column of the peak"), facts["peak_x"] + 0.5, _PIXELS),
                _number(private("PEAK-ROW", "Row of the peak"), facts["peak_y"] + 0.5, _PIXELS),
            ],
        )
        first = next(item for item in group[0].ContentSequence if item.ValueType == "NUM")
        # dcmjs and Cornerstone's adapters read coordinates only below the first number item, not next to it.
        first.ContentSequence = ContentSequence(
            [
                CoordinatesForMeasurement(
                    "POLYLINE", corners, SourceImageForRegion(image.sop_class, image.instance), codes.DCM.ImageRegion
                )
            ]
        )
        return group

    def _tracking(self, name: str) -> TrackingIdentifier:
        return TrackingIdentifier(uid=self._derive("tracking", self._document, name), identifier=name)

    def _algorithm(self) -> AlgorithmIdentification:
        model = self._model
        return AlgorithmIdentification(
            name=f"mammopipe {model['architecture']}",
            version=plain(model["id"]),
            manufacturer="mammopipe",
            parameters=[f"weights sha256 {model['weights_sha256']}", f"preprocessing {model['preprocess_digest']}"],
        )


def section(name: Code, items: Iterable[ContentItem]) -> ContainerContentItem:
    """Return a section of the document with the given content items."""
    container = ContainerContentItem(name, relationship_type="CONTAINS")
    container.ContentSequence = ContentSequence(list(items))
    return container


def comment(text: str) -> TextContentItem:
    """Return a comment item with one sentence."""
    return TextContentItem(codes.DCM.Comment, plain(text), "CONTAINS")


def image_library(images: Sequence[tuple[SourceImage, Facts]]) -> ContainerContentItem:
    """Return the image library (TID 1600): every source with modality, laterality, view and size."""
    group = section(codes.DCM.ImageLibraryGroup, [_entry(source, facts) for source, facts in images])
    return section(codes.DCM.ImageLibrary, [group])


def _entry(source: SourceImage, facts: Facts) -> ImageContentItem:
    coded = [
        (codes.DCM.Modality, MODALITIES.get(source.modality)),
        (codes.DCM.ImageLaterality, SIDES.get(facts["laterality"])),
        (codes.DCM.ImageView, VIEWS.get(facts["view"])),
    ]
    sizes = [(codes.DCM.PixelDataRows, source.rows), (codes.DCM.PixelDataColumns, source.columns)]
    entry = ImageContentItem(
        Code("260753009", "SCT", "Source"), source.sop_class, source.instance, relationship_type="CONTAINS"
    )
    entry.ContentSequence = ContentSequence(
        [
            *(CodeContentItem(name, code, "HAS ACQ CONTEXT") for name, code in coded if code is not None),
            *(NumContentItem(name, size, _PIXELS, relationship_type="HAS ACQ CONTEXT") for name, size in sizes),
        ]
    )
    return entry


def _site(side: str | None) -> FindingSite:
    return FindingSite(codes.SCT.Breast, laterality=SIDES[Laterality(side)] if side else None)


def _number(name: Code, value: float, unit: Code, *, method: Code | None = None) -> Measurement:
    # A decimal string holds at most 16 characters (PS3.5 6.2), and six digits suffice for every score.
    return Measurement(name, value if isinstance(value, int) else float(f"{value:.6g}"), unit, method=method)


def _measurements(facts: Facts) -> Iterable[Measurement]:
    yield _number(codes.DCM.ProbabilityOfCancer, probability_in_percent(facts), _PERCENT, method=_method(facts))
    if facts.get("probability") is not None:
        yield _number(private("SCORE", "Malignancy score, 0 to 100; ranks cases"), facts["malignancy_score"], _PLAIN)
    for label, probability in facts.get("probabilities", {}).items():
        yield _number(private(f"P-{label}".upper(), f"Calibrated probability of {label}"), probability, _PLAIN)
    if facts.get("decile") is not None:
        yield _number(private("DECILE", "Decile among the validation images, 1 to 10"), facts["decile"], _PLAIN)
    if facts.get("entropy") is not None:
        yield _number(private("ENTROPY", "Entropy of the class probabilities"), facts["entropy"], _NAT)
    if facts.get("decision"):
        yield _number(
            private("THRESHOLD", "Threshold of the operating point, as a probability"),
            facts["decision"]["threshold"],
            _PLAIN,
        )


def _method(facts: Facts) -> Code | None:
    """Return the code of the rule that combined a breast's views; `None` for an image or an exam."""
    rule = facts.get("rule")
    if rule is None:
        return None
    meaning = f"{rule} over the views of the breast"
    if facts["compared"]:
        return private(f"BESIDE-{rule}".upper()[:16], f"{meaning}, beside the other breast")
    return private(f"RULE-{rule}".upper()[:16], meaning)


def _evaluations(facts: Facts) -> Iterable[QualitativeEvaluation]:
    referral, decision = facts.get("referral"), facts.get("decision")
    if referral:
        judgement = private("REFER", "Refer to reader") if referral["refer"] else private("NO-REFERRAL", "Not referred")
        yield QualitativeEvaluation(private("REFERRAL", "Whether a reader must judge this instead"), judgement)
    if decision:
        point, finding = decision["operating_point"], decision["finding"]
        yield QualitativeEvaluation(
            private("OPERATING-POINT", "Operating point"),
            private(point.upper()[:16], f"The threshold that holds {point} first"),
        )
        coded = private(finding.upper().replace("_", "-")[:16], finding.replace("_", " ").capitalize())
        yield QualitativeEvaluation(private("DECISION", "What the operating point says"), coded)


def _area(columns: int, rows: int, spacing: tuple[float, float] | None) -> tuple[float, Code]:
    """Return the area of a box and its unit: square millimetres if the pixel spacing is known, else pixels."""
    if spacing is None:
        return columns * rows, _PIXELS
    return columns * spacing[1] * rows * spacing[0], codes.cid7461.SquareMillimeter
