"""Writes a Mammography CAD SR, the report from which mammography workstations mark regions on the images.

The model does not name the kind of a lesion. Each region is therefore a "Selected region", which the templates provide
for regions without a specific finding. A region is "Presentation Required" if its image or its breast is suspicious at
the operating point; otherwise it is "Presentation Optional" at CAD operating point 1.

The templates have no place for the score of an exam, a breast or an image, except in a composite feature. The
impressions therefore state every score in words.

Source: PS3.3 A.35.5 (the IOD) and PS3.16 TID 4000 to 4023 (its templates; they are not extensible), edition 2026a.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ComprehensiveSR,
    ContainerContentItem,
    LanguageOfContentItemAndDescendants,
    ScoordContentItem,
    TextContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID

from mammopipe.inference.contract.schema import NOTICE
from mammopipe.inference.dicom.cad_items import (
    PERCENT,
    Relation,
    by_reference,
    integer,
    number,
    plain_code,
    with_content,
)
from mammopipe.inference.dicom.cad_library import entry
from mammopipe.inference.dicom.instance import Images, ResultSeries, identifiers, places
from mammopipe.inference.dicom.wording import Facts, chances, plain, probability_in_percent, sentences, validation

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.88.50"
"""Mammography CAD SR Storage (PS3.4 B.5)."""
REQUIRED = codes.DCM.PresentationRequiredRenderingDeviceIsExpectedToPresent
OPTIONAL = codes.DCM.PresentationOptionalRenderingDeviceMayPresent
LARGEST_POINT = 1
"""Largest CAD operating point (TID 4023). Point 0 shows regions that are suspicious, point 1 shows every region."""
LANGUAGE = CodedConcept("en-US", "RFC5646", "English (United States)")
SIDES_IN_WORDS = {"L": "left breast", "R": "right breast"}
_ARBITRARY = Code("[arb'U]", "UCUM", "arbitrary unit")
_ALL_POINTS = Code(f"{{0:{LARGEST_POINT}}}", "UCUM", f"range: 0:{LARGEST_POINT}")
_POINTS_OF_FINDINGS = Code(f"{{1:{LARGEST_POINT}}}", "UCUM", f"range: 1:{LARGEST_POINT}")
"""TID 4006 row 3: the operating point of an optional finding is never 0."""
_CONTAINS, _PROPERTY, _MODIFIER, _INFERRED = Relation.CONTAINS, Relation.PROPERTY, Relation.MODIFIER, Relation.INFERRED


def cad_report(images: Images, facts: Facts) -> ComprehensiveSR:
    """Return the CAD report of an answer, still without identity, times and UIDs.

    Args:
        images: Each source with its part of the answer.
        facts: The whole answer, for one image or for an exam.

    Raises:
        NoSourceIdentityError: The laterality or view of an image is unknown; marks are hung by both.
    """
    tree = _Tree(facts["model"], images)
    root = ContainerContentItem(codes.DCM.MammographyCADReport, template_id="4000")
    library = with_content(
        ContainerContentItem(codes.DCM.ImageLibrary, relationship_type=_CONTAINS),
        (entry(index, source, part["image"]) for index, (source, part) in enumerate(images)),
    )
    with_content(root, [*LanguageOfContentItemAndDescendants(LANGUAGE), library])
    report = ComprehensiveSR(
        evidence=[source.evidence() for source, _ in images],
        content=root,
        **identifiers(ResultSeries.CAD_REPORT, facts["model"]),
    )
    # highdicom has no class for this IOD: the report is built as a Comprehensive SR and gets its own SOP class here.
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = UID(SOP_CLASS)
    report.CompletionFlagDescription = NOTICE
    # The constructor requires a concept name and a value type in every item. Row 1 of TID 4020 has no concept name, and
    # an item by reference has neither, so both are changed after the construction.
    for image in report.ContentSequence[-1].ContentSequence:
        del image.ConceptNameCodeSequence
    impressions = list(tree.impressions(facts))
    summaries = [tree.overall(facts, impressions), tree.detections(facts), tree.analyses(facts)]
    with_content(report, [*report.ContentSequence, *summaries])
    return report


@dataclass(frozen=True)
class _Tree:
    """Creates the content items of one report, which share the algorithm and the image library."""

    model: Facts
    images: Images

    def overall(self, facts: Facts, impressions: Sequence[Dataset]) -> Dataset:
        """Return the overall impression (TID 4001): the score of the exam or image, with all impressions below it."""
        found = codes.DCM.AllAlgorithmsSucceededWithFindings
        value = found if impressions else codes.DCM.AllAlgorithmsSucceededWithoutFindings
        whole = {**facts["exam"], "warnings": facts.get("warnings", [])} if facts.get("exam") else facts
        scores = [("exam" if facts.get("exam") else "image", whole)]
        scores += [(_breast_in_words(breast), breast) for breast in facts.get("breasts") or []]
        summary = CodeContentItem(codes.DCM.CADProcessingAndFindingsSummary, value, _CONTAINS)
        return with_content(summary, [*self._body(whole, scores, _PROPERTY), *impressions])

    def impressions(self, facts: Facts) -> Iterator[Dataset]:
        """Yield the individual impressions (TID 4003) of each breast of an exam, or of the image, if it has regions."""
        if not facts.get("exam"):
            findings = self._findings(0, _is_suspicious(facts))
            if findings:
                yield self._impression("image", facts, findings)
            return
        place = places(self.images)
        for breast in facts["breasts"]:
            suspicious = _is_suspicious(breast)
            found = {index: self._findings(place[index], suspicious) for index in breast["images"]}
            findings = [finding for of_image in found.values() for finding in of_image]
            # A composite feature is inferred from two items or more (TID 4004).
            items = [self._feature(breast, found)] if len(findings) > 1 else findings
            if items:
                yield self._impression(_breast_in_words(breast), breast, items)

    def detections(self, facts: Facts) -> Dataset:
        """Return the summary of detections (TID 4015, 4017) with the CAD operating points (TID 4023)."""
        detection = CodeContentItem(codes.DCM.DetectionPerformed, codes.DCM.SelectedRegion, _CONTAINS)
        below = [*self._algorithm(_PROPERTY), *self._all_images(), *_operating_points(facts)]
        done = with_content(
            ContainerContentItem(codes.DCM.SuccessfulDetections, relationship_type=_INFERRED),
            [with_content(detection, below)],
        )
        return with_content(CodeContentItem(codes.DCM.SummaryOfDetections, codes.DCM.Succeeded, _CONTAINS), [done])

    def analyses(self, facts: Facts) -> Dataset:
        """Return the summary of analyses (TID 4016, 4018), which were attempted only for exams."""
        if not facts.get("exam"):
            return CodeContentItem(codes.DCM.SummaryOfAnalyses, codes.DCM.NotAttempted, _CONTAINS)
        kind = plain_code(codes.DCM.OverallImpressionRecommendationAnalysis)
        analysis = CodeContentItem(codes.DCM.AnalysisPerformed, kind, _CONTAINS)
        below = [*self._algorithm(_PROPERTY), *self._all_images()]
        done = with_content(
            ContainerContentItem(codes.DCM.SuccessfulAnalyses, relationship_type=_INFERRED),
            [with_content(analysis, below)],
        )
        return with_content(CodeContentItem(codes.DCM.SummaryOfAnalyses, codes.DCM.Succeeded, _CONTAINS), [done])

    def _impression(self, subject: str, facts: Facts, found: Sequence[Dataset]) -> Dataset:
        name = codes.DCM.IndividualImpressionRecommendation
        impression = ContainerContentItem(plain_code(name), relationship_type=_INFERRED)
        for item in found:
            item.RelationshipType = str(_CONTAINS)
        body = self._body(facts, [(subject, facts)], _CONTAINS)
        return with_content(impression, [_intent(any(map(_is_required, found))), *body, *found])

    def _feature(self, breast: Facts, found: dict[int, list[Dataset]]) -> Dataset:
        """Return the composite feature of a breast (TID 4004, 4005): the regions of all its images."""
        findings = [finding for of_image in found.values() for finding in of_image]
        many = sum(map(bool, found.values())) > 1
        scope = codes.DCM.FeatureDetectedOnMultipleImages if many else codes.DCM.FeatureDetectedOnOnlyOneOfTheImages
        if len(found) == 1:
            scope = codes.DCM.FeatureDetectedOnTheOnlyImage
        feature = CodeContentItem(codes.DCM.CompositeFeature, codes.DCM.SelectedRegion, _CONTAINS)
        return with_content(
            feature,
            [
                _intent(any(map(_is_required, findings))),
                CodeContentItem(codes.DCM.CompositeType, codes.DCM.TargetContentItemsAreRelatedSpatially, _PROPERTY),
                CodeContentItem(codes.DCM.ScopeOfFeature, scope, _PROPERTY),
                *self._algorithm(_PROPERTY),
                number(codes.DCM.ProbabilityOfCancer, probability_in_percent(breast), PERCENT, _PROPERTY),
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
        # 0\\0 is the corner of the first pixel (PS3.3 C.18.6.1.1), so the centre of a pixel is half a pixel further.
        peak = [(region["peak_x"] + 0.5, region["peak_y"] + 0.5)]
        text = f"Evidence for {target} in the heatmap, strength {region['strength']:.2f} of 1; not a lesion outline"
        finding = CodeContentItem(codes.DCM.SingleImageFinding, codes.DCM.SelectedRegion, _INFERRED)
        return with_content(
            finding,
            [
                _intent(suspicious, at_point=True),
                *self._algorithm(_PROPERTY),
                self._drawn(codes.DCM.Center, "POINT", peak, index),
                self._drawn(codes.DCM.Outline, "POLYLINE", corners, index),
                TextContentItem(codes.DCM.SelectedRegionDescription, text, _PROPERTY),
            ],
        )

    def _drawn(self, name: Code, kind: str, points: Sequence[tuple[float, float]], index: int) -> Dataset:
        """Return coordinates (TID 4021) that refer to the image with this index in the image library."""
        item = ScoordContentItem(name, kind, np.array(points, np.float32), relationship_type=_PROPERTY)
        return with_content(item, [by_reference(Relation.SELECTED, index)])

    def _body(self, facts: Facts, scores: Sequence[tuple[str, Facts]], relation: Relation) -> Iterator[Dataset]:
        """Yield the content of an impression (TID 4002): description with the scores in words, and algorithm."""
        in_words = [chances(scored, subject) for subject, scored in scores]
        text = plain(". ".join([*sentences(facts), *in_words]))
        yield TextContentItem(codes.DCM.ImpressionDescription, text, str(relation))
        yield from self._algorithm(relation)

    def _algorithm(self, relation: Relation) -> Iterator[Dataset]:
        """Yield the identification of the algorithm (TID 4019)."""
        yield TextContentItem(codes.DCM.AlgorithmName, f"mammopipe {self.model['architecture']}", relation)
        yield TextContentItem(codes.DCM.AlgorithmVersion, plain(self.model["id"]), relation)
        weights, preprocessing = self.model["weights_sha256"], self.model["preprocess_digest"]
        for text in (f"weights sha256 {weights}", f"preprocessing {preprocessing}"):
            yield TextContentItem(codes.DCM.AlgorithmParameters, text, relation)

    def _all_images(self) -> Iterator[Dataset]:
        return (by_reference(_PROPERTY, index) for index in range(len(self.images)))


def _operating_points(facts: Facts) -> Iterator[Dataset]:
    """Yield the CAD operating points (TID 4023), with the validation results of the one that decided."""
    yield integer(codes.DCM.MaximumCADOperatingPoint, LARGEST_POINT, _ARBITRARY, _PROPERTY)
    decision = (facts.get("exam") or facts).get("decision")
    if decision is None:
        return
    yield integer(codes.DCM.RecommendedCADOperatingPoint, 0, _ALL_POINTS, _PROPERTY)
    specificity = codes.DCM.CaseSpecificity if facts.get("exam") else codes.DCM.ImageSpecificity
    known = validation(decision)
    chosen = f"{decision['operating_point']} first, threshold {decision['threshold']:.4g}"
    first = [_description(f"Suspicious at {chosen}{f'; in validation {known}' if known else ''}")]
    first += _rate(specificity, decision.get("specificity"))
    # The standard has no code for the sensitivity of images.
    first += _rate(codes.DCM.CaseSensitivity, decision.get("sensitivity") if facts.get("exam") else None)
    table = ContainerContentItem(codes.DCM.CADOperatingPointTable, relationship_type=_PROPERTY)
    yield with_content(
        table,
        [
            CodeContentItem(codes.DCM.XConcept, specificity, _CONTAINS),
            CodeContentItem(codes.DCM.YConcept, codes.DCM.CaseSensitivity, _CONTAINS),
            with_content(_point(0), first),
            with_content(_point(LARGEST_POINT), [_description("Every region of the heatmaps")]),
        ],
    )


def _description(text: str) -> Dataset:
    return TextContentItem(codes.DCM.CADOperatingPointDescription, plain(text), _PROPERTY)


def _rate(name: Code, value: float | None) -> list[Dataset]:
    return [] if value is None else [number(name, 100 * value, PERCENT, _PROPERTY)]


def _point(point: int) -> Dataset:
    return integer(codes.DCM.CADOperatingPoint, point, _ALL_POINTS, _CONTAINS)


def _intent(required: bool, *, at_point: bool = False) -> Dataset:
    """Return the rendering intent; for an optional single image finding it includes the CAD operating point."""
    intent = CodeContentItem(codes.DCM.RenderingIntent, REQUIRED if required else OPTIONAL, _MODIFIER)
    if required or not at_point:
        return intent
    name = codes.DCM.CADOperatingPoint
    return with_content(intent, [integer(name, LARGEST_POINT, _POINTS_OF_FINDINGS, _PROPERTY)])


def _is_required(item: Dataset) -> bool:
    """Return whether a finding or feature must be presented; workstations follow only a chain of required items."""
    intent = next(one for one in item.ContentSequence if one.RelationshipType == _MODIFIER)
    return bool(intent.ConceptCodeSequence[0].CodeValue == REQUIRED.value)


def _is_suspicious(facts: Facts) -> bool:
    return (facts.get("decision") or {}).get("finding") == "suspicious"


def _breast_in_words(breast: Facts) -> str:
    return SIDES_IN_WORDS.get(breast["laterality"], "breast of unknown side")
