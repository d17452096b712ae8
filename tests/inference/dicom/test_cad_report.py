"""The Mammography CAD SR against the rows of PS3.16 2026a, TID 4000 to 4023, that it uses; all others are forbidden.

The templates are not extensible and their order is significant. Comments name the rows.
"""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from mammopipe.inference.contract.errors import NoSourceIdentityError
from mammopipe.inference.dicom.results import mammography_cad_report
from tests.inference.dicom.dicom_examples import (
    DECISION,
    FINE,
    REGIONS,
    SECRETS,
    changed,
    exam,
    image_facts,
    instances,
    items,
    name_of,
    numbers,
    one,
    opened,
    oriented,
    phantom_exams,
)

Condition = Callable[[Dataset], bool]


@dataclass(frozen=True)
class Row:
    """A row of a template: the content items that it allows, how many, and the rows below it."""

    relation: str
    kind: str
    """Value type; REFERENCE is an item by reference to the image library."""
    name: str = ""
    least: int = 1
    most: int = 1
    values: frozenset[str] | None = None
    """Code values of a context group, units of a number, or graphic types."""
    below: "tuple[Row, ...]" = field(default=())
    rules: "tuple[tuple[str, Condition], ...]" = ()
    """Conditions on the item with all its content, with the sentence of the standard."""


def group(*cids: int) -> frozenset[str]:
    """Return the code values of context groups of PS3.16."""
    return frozenset(code.value for cid in cids for code in getattr(codes, f"cid{cid}").concepts.values())


def count(item: Dataset, *names: str) -> int:
    """Return how many content items directly below an item have one of these concept names."""
    return sum(name_of(one) in names for one in item.get("ContentSequence", []))


def below(item: Dataset, name: str) -> list[Dataset]:
    return [one for one in item.get("ContentSequence", []) if name_of(one) == name]


MANY = 99
PROPERTY, CONTAINS, MODIFIER, CONTEXT = "HAS PROPERTIES", "CONTAINS", "HAS CONCEPT MOD", "HAS ACQ CONTEXT"
INFERRED, SELECTED = "INFERRED FROM", "SELECTED FROM"
PERCENT, LENGTHS = frozenset({"%"}), frozenset({"um", "mm"})
ALL_POINTS, POINTS_OF_FINDINGS = frozenset({"{0:1}"}), frozenset({"{1:1}"})
INTENT, FINDING, FEATURE, IMPRESSION = "111056", "111059", "111015", "111034"
REQUIRED, OPTIONAL, SUCCEEDED, NOT_ATTEMPTED = "111150", "111151", "111222", "111225"
TID_1204 = (Row(MODIFIER, "CODE", "121049"),)
TID_4020 = Row(
    CONTAINS,
    "IMAGE",  # 1; rows 13 to 28 are user options
    most=MANY,
    below=(
        Row(CONTEXT, "CODE", "111027", values=group(6022)),  # 2
        Row(
            CONTEXT,
            "CODE",
            "111031",  # 3
            values=group(4014),
            below=(Row(MODIFIER, "CODE", "111032", 0, MANY, group(4015)),),  # 4
        ),
        Row(CONTEXT, "TEXT", "111044", 0),  # 5
        Row(CONTEXT, "TEXT", "111043", 0),  # 6
        Row(CONTEXT, "DATE", "111060", 0),  # 7
        Row(CONTEXT, "TIME", "111061", 0),  # 8
        Row(CONTEXT, "DATE", "111018", 0),  # 9
        Row(CONTEXT, "TIME", "111019", 0),  # 10
        Row(CONTEXT, "NUM", "111026", 0, values=LENGTHS),  # 11
        Row(CONTEXT, "NUM", "111066", 0, values=LENGTHS),  # 12
    ),
)


def tid_4019(relation: str) -> tuple[Row, ...]:
    """Rows 1 to 3; row 1b, the name as a code, and row 4, the family, are user options."""
    names = (("111001", 1, 1), ("111003", 1, 1), ("111002", 0, MANY))
    return tuple(Row(relation, "TEXT", name, least, most) for name, least, most in names)


def tid_4002(relation: str) -> tuple[Row, ...]:
    """Rows 5 and 11: one of rows 1, 3, 5, 6, 8 and 9 is required, and row 12 allows none of our numbers (CID 6142)."""
    return (Row(relation, "TEXT", "111033"), *tid_4019(relation))


def rendering_intent(*below: Row) -> Row:
    return Row(MODIFIER, "CODE", INTENT, values=group(6034), below=below)


TO_IMAGE = (Row(SELECTED, "REFERENCE"),)
TID_4021 = (
    Row(PROPERTY, "SCOORD", "111010", values=frozenset({"POINT"}), below=TO_IMAGE),  # 1, 2
    Row(PROPERTY, "SCOORD", "111041", 0, below=TO_IMAGE),  # 3, 4
)


def one_image(finding: Dataset) -> bool:
    """Return whether center and outline reference the same image (TID 4021 row 4)."""
    drawn = [one for one in finding.ContentSequence if one.ValueType == "SCOORD"]
    return len({tuple(one.ContentSequence[0].ReferencedContentItemIdentifier) for one in drawn}) == 1


def point_iff_optional(finding: Dataset) -> bool:
    intent = below(finding, INTENT)
    return all((value_of(one) == OPTIONAL) == bool(below(one, "111071")) for one in intent)


def tid_4006(relation: str) -> Row:
    point = Row(PROPERTY, "NUM", "111071", 0, values=POINTS_OF_FINDINGS)
    region = Row(PROPERTY, "TEXT", "111058")  # 17, TID 4013
    rows = (rendering_intent(point), *tid_4019(PROPERTY), *TID_4021, region)
    rules = (("row 3: IFF Presentation Optional", point_iff_optional), ("TID 4021 row 4: the same image", one_image))
    return Row(relation, "CODE", FINDING, 0, MANY, frozenset({"111099"}), rows, rules)


TID_4004 = Row(
    CONTAINS,
    "CODE",
    FEATURE,
    0,
    MANY,
    group(6016),
    (
        rendering_intent(),  # 2
        Row(PROPERTY, "CODE", "111016", values=group(6035)),  # TID 4005 row 1
        Row(PROPERTY, "CODE", "111057", values=group(6036)),  # TID 4005 row 2
        *tid_4019(PROPERTY),
        Row(PROPERTY, "NUM", "111047", 0, values=PERCENT),  # TID 4005 row 5
        tid_4006(INFERRED),  # 6
    ),
    (("at least two of rows 5 and 6", lambda feature: count(feature, FEATURE, FINDING) > 1),),
)
TID_4003 = Row(
    INFERRED,
    "CONTAINER",
    IMPRESSION,
    0,
    MANY,
    below=(rendering_intent(), *tid_4002(CONTAINS), TID_4004, tid_4006(CONTAINS)),
    rules=(("at least one of rows 4, 5", lambda impression: count(impression, FEATURE, FINDING) > 0),),
)
TID_4001 = Row(
    CONTAINS, "CODE", "111017", values=group(6047), below=(*tid_4002(PROPERTY), TID_4003),
    rules=(("with or without findings", lambda item: (value_of(item) == "111242") == (count(item, IMPRESSION) > 0)),),
)  # fmt: skip


def axes_in_order(table: Dataset) -> bool:
    """Return whether each point has the values of the axes only, x first (rows 4, 5, 8 and 9)."""
    axes = [value_of(item) for name in ("122698", "122699") for item in below(table, name)]
    return all(
        named == [axis for axis in axes if axis in named]
        for point in below(table, "111071")
        for named in [[name_of(item) for item in point.get("ContentSequence", []) if item.ValueType == "NUM"]]
    )


def each_point_once(table: Dataset) -> bool:
    """Return whether there is one more point than the largest, each an integer that occurs once (row 6)."""
    return [str(item.MeasuredValueSequence[0].NumericValue) for item in below(table, "111071")] == ["0", "1"]


TID_4023 = (
    Row(PROPERTY, "NUM", "111072", values=frozenset({"[arb'U]"})),  # 1
    Row(PROPERTY, "NUM", "111092", 0, values=ALL_POINTS),  # 2
    Row(
        PROPERTY,
        "CONTAINER",
        "111093",  # 3
        0,
        below=(
            Row(CONTAINS, "CODE", "122698", values=group(6048)),  # 4
            Row(CONTAINS, "CODE", "122699", values=group(6048)),  # 5
            Row(
                CONTAINS,
                "NUM",
                "111071",  # 6
                1,
                MANY,
                ALL_POINTS,
                (
                    Row(PROPERTY, "TEXT", "111081", 0),  # 7
                    *(Row(PROPERTY, "NUM", axis, 0, values=PERCENT) for axis in ("111090", "111091", "111088")),
                ),
            ),
        ),
        rules=(("rows 8, 9: of rows 4, 5", axes_in_order), ("row 6: row 1 plus 1, unique", each_point_once)),
    ),
)
JUDGED = Row(PROPERTY, "REFERENCE", most=MANY)
"""TID 4017 and 4018 row 4."""


def performed(summary: str, done: str, what: str, values: frozenset[str], *more: Row) -> Row:
    """Return TID 4015 with 4017, or TID 4016 with 4018, below its summary (rows 6 to 9 of TID 4000)."""
    item = Row(CONTAINS, "CODE", what, 1, MANY, values, (*tid_4019(PROPERTY), JUDGED, *more))
    container = Row(INFERRED, "CONTAINER", done, 0, below=(item,))
    rule = ("successful IFF succeeded", lambda one: (value_of(one) == SUCCEEDED) == (count(one, done) == 1))
    states = frozenset({SUCCEEDED, NOT_ATTEMPTED})
    return Row(CONTAINS, "CODE", summary, values=states, below=(container,), rules=(rule,))


TID_4000 = (
    *TID_1204,
    Row(CONTAINS, "CONTAINER", "111028", below=(TID_4020,)),
    TID_4001,
    performed("111064", "111063", "111022", group(6014), *TID_4023),
    performed("111065", "111062", "111004", group(6043)),
)


def breaches(container: Dataset, rows: tuple[Row, ...], place: str = "1") -> list[str]:
    """Return where content breaks its template's rows: unknown, too few or many, out of order, against a condition."""
    found, counts, last = [], [0] * len(rows), 0
    for number, item in enumerate(container.get("ContentSequence", []), 1):
        at = f"{place}.{number}"
        kind = str(item.get("ValueType", "REFERENCE"))
        fitting = [
            index
            for index, row in enumerate(rows)
            if (row.relation, row.kind, row.name) == (item.RelationshipType, kind, name_of(item))
        ]
        if not fitting:
            found.append(f"{at}: {item.RelationshipType} {kind} {name_of(item)} is not in the template")
            continue
        [index] = fitting
        counts[index] += 1
        if index < last:
            found.append(f"{at}: {kind} {name_of(item)} is out of order")
        last, row = index, rows[index]
        if row.values is not None and value_of(item) not in row.values:
            found.append(f"{at}: {value_of(item)} is not allowed for {name_of(item)}")
        found += breaches(item, row.below, at)
        found += [f"{at}: {text}" for text, holds in row.rules if not holds(item)]
    wrong = [row for row, count in zip(rows, counts, strict=True) if not row.least <= count <= row.most]
    return found + [f"{place}: {row.least} to {row.most} of {row.kind} {row.name}" for row in wrong]


def value_of(item: Dataset) -> str:
    if item.ValueType == "CODE":
        return str(item.ConceptCodeSequence[0].CodeValue)
    if item.ValueType == "SCOORD":
        return str(item.GraphicType)
    return str(item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue)


def targets(report: Dataset) -> list[Dataset]:
    """Return the items that all relationships by reference lead to."""
    found = []
    for item in items(report):
        if "ReferencedContentItemIdentifier" in item:
            target = report
            for number in item.ReferencedContentItemIdentifier[1:]:
                target = target.ContentSequence[number - 1]
            found.append(target)
    return found


def named(report: Dataset, code: Any) -> list[Dataset]:
    return [item for item in items(report) if name_of(item) == code.value]


def intents(report: Dataset) -> list[str]:
    return [value_of(item) for item in named(report, codes.DCM.RenderingIntent)]


CALM = {**DECISION, "finding": "not_suspicious"}


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return [oriented(data, **SECRETS, PixelSpacing=[0.07, 0.07]) for data in phantom_exams()[0]]


def of_exam(files: list[bytes]) -> Dataset:
    return opened(mammography_cad_report(files, exam(files)))


def of_image(data: bytes, **other: Any) -> Dataset:
    return opened(mammography_cad_report([data], one(data, **other)))


def test_an_exam_conforms_to_the_templates(files: list[bytes]) -> None:
    report = of_exam(files)
    assert report.SOPClassUID == report.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.88.50"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "4000"
    assert breaches(report, TID_4000) == []
    assert all(target.ValueType == "IMAGE" for target in targets(report))
    assert len(targets(report)) == 2 * len(files) + 2 * 2 * (len(files) - 1)


@pytest.mark.parametrize("other", [{}, {"heatmap": None}, {"decision": None}, {"decision": CALM}])
def test_an_image_conforms_to_the_templates(files: list[bytes], other: dict[str, Any]) -> None:
    assert breaches(of_image(files[1], **other), TID_4000) == []


def test_the_checker_of_templates_finds_what_breaks_them(files: list[bytes]) -> None:
    report = of_exam(files)
    feature = named(report, codes.DCM.CompositeFeature)[0].ContentSequence
    intent = feature.pop(0)
    assert breaches(report, TID_4000) == ["1.3.6.7: 1 to 1 of CODE 111056"]
    feature.append(intent)
    assert "out of order" in breaches(report, TID_4000)[0]
    intent.ConceptCodeSequence[0].CodeValue = "111222"
    assert any("111222 is not allowed" in breach for breach in breaches(report, TID_4000))
    del named(report, codes.DCM.CompositeFeature)[0].ContentSequence[7:]
    assert "1.3.6.7: at least two of rows 5 and 6" in breaches(report, TID_4000)
    drawn = named(report, codes.DCM.Outline)[-1].ContentSequence[0]
    drawn.ReferencedContentItemIdentifier = [1, 2, 1]
    assert any("TID 4021 row 4" in breach for breach in breaches(report, TID_4000))
    report.ContentSequence.append(named(report, codes.DCM.ImpressionDescription)[0])
    assert any(
        "1.6: HAS PROPERTIES TEXT 111033 is not in the template" == breach for breach in breaches(report, TID_4000)
    )


def test_a_suspicious_image_must_be_presented_and_a_calm_one_may_be(files: list[bytes]) -> None:
    assert set(intents(of_image(files[1]))) == {REQUIRED}
    calm = of_image(files[1], decision=CALM)
    assert set(intents(calm)) == {OPTIONAL}
    findings = named(calm, codes.DCM.SingleImageFinding)
    points = [value_of(item) for finding in findings for item in items(finding) if name_of(item) == "111071"]
    assert points == ["{1:1}"] * len(REGIONS)
    assert len(named(of_image(files[1]), codes.DCM.CADOperatingPoint)) == 2, "those of the table alone"


def test_a_required_finding_is_below_required_items_only(files: list[bytes]) -> None:
    """A workstation follows Required items from the root and stops at the first that is not."""
    said = exam(files)
    quiet = [image.model_copy(update={"decision": None}) for image in said.images[:3]]
    report = opened(mammography_cad_report(files, said.model_copy(update={"images": [*quiet, said.images[3]]})))
    left, right = map(intents, named(report, codes.DCM.IndividualImpressionRecommendation))
    assert left == [OPTIONAL] * 4, "the impression, its feature, the two regions of one image"
    assert right == [REQUIRED, REQUIRED, OPTIONAL, OPTIONAL, REQUIRED, REQUIRED]


def test_a_region_has_its_peak_its_box_and_its_image(files: list[bytes]) -> None:
    report = of_exam(files)
    finding = named(report, codes.DCM.SingleImageFinding)[0]
    center, outline = (item for item in finding.ContentSequence if item.ValueType == "SCOORD")
    assert list(center.GraphicData) == [60.5, 99.5] and center.GraphicType == "POINT"
    assert list(outline.GraphicData) == [10, 20, 110, 20, 110, 220, 10, 220, 10, 20]
    [reference] = center.ContentSequence
    assert list(reference.ReferencedContentItemIdentifier) == [1, 2, 2]
    library = report.ContentSequence[1].ContentSequence
    assert [entry.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for entry in library] == instances(files)


def test_the_impressions_state_every_score_in_words(files: list[bytes]) -> None:
    """TID 4002 has no number for a probability; only a composite feature has (TID 4005 row 5)."""
    report = of_exam(files)
    overall, left, right = (item.TextValue for item in named(report, codes.DCM.ImpressionDescription))
    exam_score, left_score, right_score = (
        f"Probability of cancer, {subject} %" for subject in ("exam: 64", "left breast: 61", "right breast: 61")
    )
    assert overall.endswith(". ".join([exam_score, left_score, right_score]))
    assert left.endswith(left_score) and right.endswith(right_score)
    features = named(report, codes.DCM.CompositeFeature)
    assert [numbers(feature)["111047"] for feature in features] == [61, 61]
    assert len(named(report, codes.DCM.ProbabilityOfCancer)) == len(features)


def test_the_operating_point_states_its_validation(files: list[bytes]) -> None:
    first = named(of_exam(files), codes.DCM.CADOperatingPoint)[0]
    assert "sensitivity first, threshold 0.31; in validation sensitivity 0.920" in first.ContentSequence[0].TextValue
    assert numbers(first) == {"111088": 92}


def test_a_single_region_of_a_breast_is_no_composite_feature(files: list[bytes]) -> None:
    said = exam(files)
    none = [image.model_copy(update={"heatmap": None}) for image in said.images]
    heatmap = said.images[1].heatmap
    assert heatmap is not None
    none[1] = said.images[1].model_copy(update={"heatmap": heatmap.model_copy(update={"regions": heatmap.regions[:1]})})
    report = opened(mammography_cad_report(files, said.model_copy(update={"images": none})))
    assert breaches(report, TID_4000) == []
    [impression] = named(report, codes.DCM.IndividualImpressionRecommendation)
    assert count(impression, FINDING) == 1 and not named(report, codes.DCM.CompositeFeature)


STATED = {
    "StudyDate": ("111060", "20260101"),
    "StudyTime": ("111061", "101112"),
    "ContentDate": ("111018", "20260102"),
    "ContentTime": ("111019", "101314.5"),
}


@pytest.mark.parametrize("keyword", STATED)
def test_the_library_states_the_moments_that_the_file_states(files: list[bytes], keyword: str) -> None:
    """TID 4020 rows 7 to 10: each shall be present if its attribute is in the image."""
    name, value = STATED[keyword]
    data = changed(files[1], **{each: text for each, (_, text) in STATED.items()})
    entry = library(opened(mammography_cad_report([data], one(data))))[0]
    [item] = below(entry, name)
    assert str(item.get("Date", item.get("Time"))) == value
    without = changed(data, **{keyword: None})
    assert count(library(opened(mammography_cad_report([without], one(without))))[0], name) == 0


@pytest.mark.parametrize(
    ("keyword", "value"), [("StudyDate", "20261399"), ("ContentTime", "996000"), ("StudyTime", "10:11:12")]
)
def test_a_moment_that_is_none_is_left_out(files: list[bytes], keyword: str, value: str) -> None:
    data = with_raw(files[1], keyword, value)
    report = opened(mammography_cad_report([data], one(data)))
    assert breaches(report, TID_4000) == [] and count(library(report)[0], STATED[keyword][0]) == 0


def test_the_library_has_the_spacing_at_the_detector_where_no_other_is_known(files: list[bytes]) -> None:
    """TID 4020 rows 11 and 12: of (0018,1164) or (0028,0030)."""
    data = changed(files[1], PixelSpacing=None, ImagerPixelSpacing=[0.085, 0.085])
    entry = library(opened(mammography_cad_report([data], one(data))))[0]
    assert [numbers(entry)[name] for name in ("111026", "111066")] == [85, 85]


def test_the_library_has_the_files_view_and_its_modifiers(files: list[bytes]) -> None:
    """TID 4020 rows 3 and 4; codes of SNOMED RT become those of the context groups."""
    displaced, rolled = (("R-102D5", "SRT"), ("399197002", "SCT"))
    view = coded_item("399192008", "SCT")
    view.ViewModifierCodeSequence = [coded_item(*displaced), coded_item(*rolled), coded_item("X1", "99SITE")]
    data = changed(files[1], ViewCodeSequence=[view])
    facts = image_facts(data)
    answer = one(data, image={**facts["image"], "view": "CC"})
    report = opened(mammography_cad_report([data], answer))
    assert breaches(report, TID_4000) == []
    [seen] = below(library(report)[0], "111031")
    assert value_of(seen) == "399192008"
    assert {value_of(item) for item in seen.ContentSequence} == {"399209000", "399197002"}


def library(report: Dataset) -> list[Dataset]:
    return list(report.ContentSequence[1].ContentSequence)


def coded_item(value: str, scheme: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "as stated"
    return item


def with_raw(data: bytes, keyword: str, value: str) -> bytes:
    """Return the file with a value that pydicom's checks would refuse."""
    dataset = opened(data)
    dataset.add(DataElement(tag_for_keyword(keyword) or 0, dictionary_VR(keyword), value, validation_mode=IGNORE))
    stream = BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def test_a_referral_stands_in_the_impression(files: list[bytes]) -> None:
    text = named(of_exam(files), codes.DCM.ImpressionDescription)[0].TextValue
    assert text.startswith("research use only: not for diagnosis. Refer to reader: ")


def test_without_regions_there_are_no_findings(files: list[bytes]) -> None:
    summary = named(of_image(files[1], heatmap=None, referral=FINE), codes.DCM.CADProcessingAndFindingsSummary)[0]
    assert value_of(summary) == "111241" and not named(summary, codes.DCM.IndividualImpressionRecommendation)


@pytest.mark.parametrize("lacking", ["laterality", "view"])
def test_an_image_of_unknown_side_or_view_is_refused_by_name(files: list[bytes], lacking: str) -> None:
    image = {**image_facts(files[0])["image"], lacking: None}
    with pytest.raises(NoSourceIdentityError, match=f"image 0: .* its {lacking} is unknown") as caught:
        of_image(files[0], image=image)
    assert caught.value.code == "no_view"


@pytest.mark.parametrize("program", ["dciodvfy", "dsrdump"])
def test_a_validator_finds_no_error(files: list[bytes], program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} (Debian's dicom3tools, dcmtk) is not installed")
    reports = [mammography_cad_report(files, exam(files)), mammography_cad_report(files[:1], one(files[0]))]
    for number, data in enumerate(reports):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(data)
        done = subprocess.run([program, path], capture_output=True, text=True, check=False, errors="replace")
        said = (done.stderr + done.stdout).splitlines()
        assert done.returncode == 0 and not [line for line in said if line.startswith(("Error", "E:", "F:"))]
        assert any("Mammography" in line for line in said)
