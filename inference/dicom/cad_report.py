"""Writes a Mammography CAD SR, the report from which mammography workstations mark regions on the images.

The model does not name the kind of a lesion. Each region is therefore a "Selected region", which the templates provide
for regions without a specific finding. A region is "Presentation Required" if its image or its breast is suspicious at
the operating point; otherwise it is "Presentation Optional" at CAD operating point 1.

Source: PS3.3 A.35.5 (the IOD) and PS3.16 TID 4000 to 4023 (its templates, which are not extensible).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ComprehensiveSR,
    ContainerContentItem,
    DateContentItem,
    ImageContentItem,
    LanguageOfContentItemAndDescendants,
    NumContentItem,
    ScoordContentItem,
    TextContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.tag import Tag as NumberedTag
from pydicom.uid import UID
from pydicom.valuerep import DA

from mammopipe.inference.contract.errors import NoSourceIdentityError
from mammopipe.inference.contract.schema import NOTICE
from mammopipe.inference.dicom.instance import Images, ResultSeries, identifiers, places
from mammopipe.inference.dicom.source import Source
from mammopipe.inference.dicom.structured_report import VIEWS
from mammopipe.inference.dicom.wording import Facts, plain, sentences, validation
from mammopipe.processing.datasets.manifest import View

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.88.50"
"""Mammography CAD SR Storage (PS3.4 B.5)."""
SIDES = {"L": codes.cid6022.LeftBreast, "R": codes.cid6022.RightBreast}
"""PS3.16 CID 6022."""
MODIFIED_VIEWS = {View.AT: (codes.cid4014.MedioLateralObliqueProjection, codes.cid4015.AxillaryTail)}
"""Views that are coded as a view of CID 4014 with a modifier of CID 4015."""
REQUIRED = codes.DCM.PresentationRequiredRenderingDeviceIsExpectedToPresent
OPTIONAL = codes.DCM.PresentationOptionalRenderingDeviceMayPresent
LARGEST_POINT = 1
"""Largest CAD operating point (TID 4023). Point 0 shows regions that are suspicious, point 1 shows every region."""
_ORIENTATION, _STUDY_DATE = 0x00200020, 0x00080020
_LIBRARY = 2
"""Position of the image library below the root, from 1; the language item precedes it."""
LANGUAGE = CodedConcept("en-US", "RFC5646", "English (United States)")
_PERCENT = Code("%", "UCUM", "Percent")
_MICROMETRE = Code("um", "UCUM", "micrometer")
_ARBITRARY = Code("[arb'U]", "UCUM", "arbitrary unit")
_RANGE = Code(f"{{0:{LARGEST_POINT}}}", "UCUM", f"range: 0:{LARGEST_POINT}")
_PROPERTY, _CONTAINS, _MODIFIER, _CONTEXT = "HAS PROPERTIES", "CONTAINS", "HAS CONCEPT MOD", "HAS ACQ CONTEXT"
_INFERRED = "INFERRED FROM"


def cad_report(images: Images, facts: Facts) -> ComprehensiveSR:
    """Return the CAD report of an answer, still without identity, times and UIDs.

    Args:
        images: Each source with its part of the answer.
        facts: The whole answer, for one image or for an exam.

    Raises:
        NoSourceIdentityError: The laterality or view of an image is unknown; TID 4020 requires both.
    """
    tree = _Tree(facts["model"], images)
    root = ContainerContentItem(codes.DCM.MammographyCADReport, template_id="4000")
    library = _with(
        ContainerContentItem(codes.DCM.ImageLibrary, relationship_type=_CONTAINS),
        (_entry(index, source, part["image"]) for index, (source, part) in enumerate(images)),
    )
    _with(root, [*LanguageOfContentItemAndDescendants(LANGUAGE), library])
    report = ComprehensiveSR(
        evidence=[source.evidence() for source, _ in images],
        content=root,
        **identifiers(ResultSeries.CAD_REPORT, facts["model"]),
    )
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = UID(SOP_CLASS)
    report.CompletionFlagDescription = NOTICE
    # The constructor requires a concept name and a value type in every item. Row 1 of TID 4020 has no concept name, and
    # an item by reference has neither, so both are changed after the construction.
    for entry in report.ContentSequence[-1].ContentSequence:
        del entry.ConceptNameCodeSequence
    impressions = list(tree.impressions(facts))
    summaries = [tree.overall(facts, impressions), tree.detections(facts), tree.analyses(facts)]
    _with(report, [*report.ContentSequence, *summaries])
    return report


@dataclass(frozen=True)
class _Tree:
    """Creates the parts of one report, which share the algorithm and the image library."""

    model: Facts
    images: Images

    def overall(self, facts: Facts, impressions: Sequence[Dataset]) -> Dataset:
        """Return the overall impression (TID 4001): the score of the exam or image, with all impressions below it."""
        found = codes.DCM.AllAlgorithmsSucceededWithFindings
        value = found if impressions else codes.DCM.AllAlgorithmsSucceededWithoutFindings
        whole = {**facts["exam"], "warnings": facts.get("warnings", [])} if facts.get("exam") else facts
        side = facts["image"]["laterality"] if "image" in facts else None
        scores = [(whole, side), *((breast, breast["laterality"]) for breast in facts.get("breasts") or [])]
        summary = CodeContentItem(codes.DCM.CADProcessingAndFindingsSummary, value, _CONTAINS)
        return _with(summary, [*self._body(whole, scores, _PROPERTY), *impressions])

    def impressions(self, facts: Facts) -> Iterator[Dataset]:
        """Yield the individual impressions (TID 4003) of each breast of an exam, or of the image, if it has regions."""
        if not facts.get("exam"):
            findings = self._findings(0, _is_suspicious(facts))
            if findings:
                yield self._impression(facts, facts["image"]["laterality"], findings)
            return
        place = places(self.images)
        for breast in facts["breasts"]:
            suspicious = _is_suspicious(breast)
            found = {index: self._findings(place[index], suspicious) for index in breast["images"]}
            if any(found.values()):
                yield self._impression(breast, breast["laterality"], [self._feature(breast, found)])

    def detections(self, facts: Facts) -> Dataset:
        """Return the summary of detections (TID 4015, 4017) with the CAD operating points (TID 4023)."""
        detection = CodeContentItem(codes.DCM.DetectionPerformed, codes.DCM.SelectedRegion, _CONTAINS)
        below = [*self._algorithm(_PROPERTY), *self._all_images(), *_operating_points(facts)]
        done = _with(
            ContainerContentItem(codes.DCM.SuccessfulDetections, relationship_type=_INFERRED), [_with(detection, below)]
        )
        return _with(CodeContentItem(codes.DCM.SummaryOfDetections, codes.DCM.Succeeded, _CONTAINS), [done])

    def analyses(self, facts: Facts) -> Dataset:
        """Return the summary of analyses (TID 4016, 4018), which were attempted only for exams."""
        if not facts.get("exam"):
            return CodeContentItem(codes.DCM.SummaryOfAnalyses, codes.DCM.NotAttempted, _CONTAINS)
        kind = _plain(codes.DCM.OverallImpressionRecommendationAnalysis)
        analysis = CodeContentItem(codes.DCM.AnalysisPerformed, kind, _CONTAINS)
        below = [*self._algorithm(_PROPERTY), *self._all_images()]
        done = _with(
            ContainerContentItem(codes.DCM.SuccessfulAnalyses, relationship_type=_INFERRED), [_with(analysis, below)]
        )
        return _with(CodeContentItem(codes.DCM.SummaryOfAnalyses, codes.DCM.Succeeded, _CONTAINS), [done])

    def _impression(self, facts: Facts, side: str | None, found: Sequence[Dataset]) -> Dataset:
        name = codes.DCM.IndividualImpressionRecommendation
        impression = ContainerContentItem(_plain(name), relationship_type=_INFERRED)
        for item in found:
            item.RelationshipType = _CONTAINS
        body = self._body(facts, [(facts, side)], _CONTAINS)
        return _with(impression, [_intent(any(map(_is_required, found))), *body, *found])

    def _feature(self, breast: Facts, found: dict[int, list[Dataset]]) -> Dataset:
        """Return the composite feature of a breast (TID 4004, 4005): the regions of all its images."""
        findings = [finding for of_image in found.values() for finding in of_image]
        many = sum(map(bool, found.values())) > 1
        scope = codes.DCM.FeatureDetectedOnMultipleImages if many else codes.DCM.FeatureDetectedOnOnlyOneOfTheImages
        if len(found) == 1:
            scope = codes.DCM.FeatureDetectedOnTheOnlyImage
        feature = CodeContentItem(codes.DCM.CompositeFeature, codes.DCM.SelectedRegion, _CONTAINS)
        return _with(
            feature,
            [
                _intent(any(map(_is_required, findings))),
                CodeContentItem(codes.DCM.CompositeType, codes.DCM.TargetContentItemsAreRelatedSpatially, _PROPERTY),
                CodeContentItem(codes.DCM.ScopeOfFeature, scope, _PROPERTY),
                *self._algorithm(_PROPERTY),
                _score(breast, _PROPERTY),
                *findings,
            ],
        )

    def _findings(self, index: int, suspicious: bool) -> list[Dataset]:
        """Return the single image findings (TID 4006) of one image: the regions of its heatmap."""
        part = self.images[index][1]
        heatmap = part.get("heatmap") or {"regions": []}
        return [
            self._finding(index, region, heatmap["target"], suspicious or _is_suspicious(part))
            for region in heatmap["regions"]
        ]

    def _finding(self, index: int, region: Facts, target: str, suspicious: bool) -> Dataset:
        left, top, right, bottom = (region[key] for key in ("left", "top", "right", "bottom"))
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        peak = [(region["peak_x"] + 0.5, region["peak_y"] + 0.5)]
        said = f"Evidence for {target} in the heatmap, strength {region['strength']:.2f} of 1; not a lesion outline"
        finding = CodeContentItem(codes.DCM.SingleImageFinding, codes.DCM.SelectedRegion, _INFERRED)
        return _with(
            finding,
            [
                _intent(suspicious, at_point=True),
                *self._algorithm(_PROPERTY),
                self._drawn(codes.DCM.Center, "POINT", peak, index),
                self._drawn(codes.DCM.Outline, "POLYLINE", corners, index),
                TextContentItem(codes.DCM.SelectedRegionDescription, said, _PROPERTY),
            ],
        )

    def _drawn(self, name: Code, kind: str, points: Sequence[tuple[float, float]], index: int) -> Dataset:
        """Return coordinates (TID 4021) that refer to the image with this index in the image library."""
        item = ScoordContentItem(name, kind, np.array(points, np.float32), relationship_type=_PROPERTY)
        return _with(item, [_by_reference("SELECTED FROM", index)])

    def _body(self, facts: Facts, scores: Sequence[tuple[Facts, str | None]], relation: str) -> Iterator[Dataset]:
        """Yield the content of an impression (TID 4002): description, algorithm, and scores with laterality."""
        yield TextContentItem(codes.DCM.ImpressionDescription, plain(". ".join(sentences(facts))), relation)
        yield from self._algorithm(relation)
        for scored, side in scores:
            item = _score(scored, relation)
            yield _with(item, [CodeContentItem(codes.SCT.Laterality, SIDES[side], _MODIFIER)]) if side else item

    def _algorithm(self, relation: str) -> Iterator[Dataset]:
        """Yield the identification of the algorithm (TID 4019)."""
        yield TextContentItem(codes.DCM.AlgorithmName, f"mammopipe {self.model['architecture']}", relation)
        yield TextContentItem(codes.DCM.AlgorithmVersion, plain(self.model["id"]), relation)
        weights, preprocessing = self.model["weights_sha256"], self.model["preprocess_digest"]
        for text in (f"weights sha256 {weights}", f"preprocessing {preprocessing}"):
            yield TextContentItem(codes.DCM.AlgorithmParameters, text, relation)

    def _all_images(self) -> Iterator[Dataset]:
        return (_by_reference(_INFERRED, index) for index in range(len(self.images)))


def _entry(index: int, source: Source, image: Facts) -> Dataset:
    """Return the entry of one image in the image library (TID 4020)."""
    side, view, modifier = SIDES.get(image["laterality"]), VIEWS.get(image["view"]), None
    if image["view"] in MODIFIED_VIEWS:
        view, modifier = MODIFIED_VIEWS[image["view"]]
    if side is None or view is None:
        lacking = "laterality" if side is None else "view"
        rule = f"image {index}: a Mammography CAD SR needs laterality and view of every image; its {lacking} is unknown"
        raise NoSourceIdentityError("no_view", rule)
    seen = CodeContentItem(codes.DCM.ImageView, view, _CONTEXT)
    if modifier is not None:
        _with(seen, [CodeContentItem(codes.DCM.ImageViewModifier, modifier, _MODIFIER)])
    entry = ImageContentItem(codes.DCM.ImageLibrary, source.sop_class, source.instance, relationship_type=_CONTAINS)
    return _with(entry, [CodeContentItem(codes.DCM.ImageLaterality, side, _CONTEXT), seen, *_acquisition(source)])


def _acquisition(source: Source) -> Iterator[Dataset]:
    """Yield orientation, date and pixel spacing of an image if its file has them."""
    orientation = source.text(_ORIENTATION).split("\\")
    if len(orientation) == 2 and all(orientation):
        names = (codes.DCM.PatientOrientationRow, codes.DCM.PatientOrientationColumn)
        for name, value in zip(names, orientation, strict=True):
            yield TextContentItem(name, value, _CONTEXT)
    date = source.text(_STUDY_DATE)
    if len(date) == 8 and date.isdigit():
        yield DateContentItem(codes.DCM.StudyDate, DA(date), _CONTEXT)
    if source.pixel_spacing is not None:
        names = (codes.DCM.HorizontalPixelSpacing, codes.DCM.VerticalPixelSpacing)
        for name, millimetres in zip(names, reversed(source.pixel_spacing), strict=True):
            yield NumContentItem(name, float(f"{millimetres * 1000:.6g}"), _MICROMETRE, relationship_type=_CONTEXT)


def _operating_points(facts: Facts) -> Iterator[Dataset]:
    """Yield the CAD operating points (TID 4023), with the validation results of the one that decided."""
    yield _integer(codes.DCM.MaximumCADOperatingPoint, LARGEST_POINT, _ARBITRARY, _PROPERTY)
    decision = (facts.get("exam") or facts).get("decision")
    if decision is None:
        return
    yield _integer(codes.DCM.RecommendedCADOperatingPoint, 0, _RANGE, _PROPERTY)
    specificity = codes.DCM.CaseSpecificity if facts.get("exam") else codes.DCM.ImageSpecificity
    known = validation(decision)
    chosen = f"{decision['operating_point']} first, threshold {decision['threshold']:.4g}"
    first = [_description(f"Suspicious at {chosen}{f'; in validation {known}' if known else ''}")]
    first += _rate(specificity, decision.get("specificity"))
    # The standard has no code for the sensitivity of images.
    first += _rate(codes.DCM.CaseSensitivity, decision.get("sensitivity") if facts.get("exam") else None)
    table = ContainerContentItem(codes.DCM.CADOperatingPointTable, relationship_type=_PROPERTY)
    yield _with(
        table,
        [
            CodeContentItem(codes.DCM.XConcept, specificity, _CONTAINS),
            CodeContentItem(codes.DCM.YConcept, codes.DCM.CaseSensitivity, _CONTAINS),
            _with(_point(0, _CONTAINS), first),
            _with(_point(LARGEST_POINT, _CONTAINS), [_description("Every region of the heatmaps")]),
        ],
    )


def _description(text: str) -> Dataset:
    return TextContentItem(codes.DCM.CADOperatingPointDescription, plain(text), _PROPERTY)


def _rate(name: Code, value: float | None) -> list[Dataset]:
    return [] if value is None else [_number(name, 100 * value, _PROPERTY)]


def _point(number: int, relation: str) -> Dataset:
    return _integer(codes.DCM.CADOperatingPoint, number, _RANGE, relation)


def _integer(name: Code, value: int, unit: Code, relation: str) -> Dataset:
    """Return a number item without a decimal point, which TID 4023 requires and highdicom would write."""
    item = NumContentItem(name, value, unit, relationship_type=relation)
    item.MeasuredValueSequence[0].NumericValue = str(value)
    return item


def _intent(required: bool, *, at_point: bool = False) -> Dataset:
    """Return the rendering intent; for an optional single image finding it includes the CAD operating point."""
    intent = CodeContentItem(codes.DCM.RenderingIntent, REQUIRED if required else OPTIONAL, _MODIFIER)
    return _with(intent, [_point(LARGEST_POINT, _PROPERTY)]) if at_point and not required else intent


def _is_required(item: Dataset) -> bool:
    """Return whether a finding or feature must be presented; workstations follow only a chain of required items."""
    intent = next(one for one in item.ContentSequence if one.RelationshipType == _MODIFIER)
    return bool(intent.ConceptCodeSequence[0].CodeValue == REQUIRED.value)


def _is_suspicious(facts: Facts) -> bool:
    return (facts.get("decision") or {}).get("finding") == "suspicious"


def _score(facts: Facts, relation: str) -> Dataset:
    return _number(codes.DCM.ProbabilityOfCancer, facts["malignancy_score"], relation)


def _number(name: Code, percent: float, relation: str) -> Dataset:
    return NumContentItem(name, float(f"{percent:.6g}"), _PERCENT, relationship_type=relation)


def _by_reference(relation: str, index: int) -> Dataset:
    """Return a by-reference relationship (PS3.3 C.17.3.2.5) to an image of the image library."""
    item = Dataset()
    item.RelationshipType = relation
    item.ReferencedContentItemIdentifier = [1, _LIBRARY, index + 1]
    return item


def _with(item: Dataset, below: Iterable[Dataset]) -> Dataset:
    """Return the item with content items below it."""
    # A plain pydicom sequence, because highdicom's sequence class refuses items by reference.
    item.add_new(NumberedTag("ContentSequence"), "SQ", list(below))
    return item


def _plain(code: Code) -> Code:
    """Return the code with an ASCII meaning; some meanings in pydicom's dictionary contain zero width spaces."""
    return Code(code.value, code.scheme_designator, code.meaning.replace("\u200b", ""))
