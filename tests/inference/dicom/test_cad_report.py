"""The Mammography CAD SR against its templates, which are written out here from PS3.16 TID 4000 to 4023."""

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from mammopipe.inference.contract.errors import NoSourceIdentityError
from mammopipe.inference.dicom.results import mammography_cad_report
from tests.inference.dicom.dicom_examples import (
    DECISION,
    FINE,
    REGIONS,
    SECRETS,
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


@dataclass(frozen=True)
class Row:
    """A row of a template: the content items that it allows, how many, and the rows below it."""

    relation: str
    kind: str
    """Value type; REFERENCE is an item by reference."""
    name: str = ""
    least: int = 1
    most: int = 1
    values: frozenset[str] | None = None
    """Code values of a context group, or units of a number."""
    below: "tuple[Row, ...]" = field(default=())


def group(*cids: int) -> frozenset[str]:
    """Return the code values of context groups of PS3.16."""
    return frozenset(code.value for cid in cids for code in getattr(codes, f"cid{cid}").concepts.values())


MANY = 99
PROPERTY, CONTAINS, MODIFIER, CONTEXT = "HAS PROPERTIES", "CONTAINS", "HAS CONCEPT MOD", "HAS ACQ CONTEXT"
INFERRED = "INFERRED FROM"
PERCENT, UM, RANGE = frozenset({"%"}), frozenset({"um"}), frozenset({"{0:1}"})
TID_1204 = (Row(MODIFIER, "CODE", "121049"),)
TID_4020 = Row(
    CONTAINS,
    "IMAGE",
    most=MANY,
    below=(
        Row(CONTEXT, "CODE", "111027", values=group(6022)),
        Row(
            CONTEXT,
            "CODE",
            "111031",
            values=group(4014),
            below=(Row(MODIFIER, "CODE", "111032", 0, MANY, group(4015)),),
        ),
        Row(CONTEXT, "TEXT", "111044", 0),
        Row(CONTEXT, "TEXT", "111043", 0),
        Row(CONTEXT, "DATE", "111060", 0),
        Row(CONTEXT, "NUM", "111026", 0, values=UM),
        Row(CONTEXT, "NUM", "111066", 0, values=UM),
    ),
)


def tid_4019(relation: str) -> tuple[Row, ...]:
    names = (("111001", 1, 1), ("111003", 1, 1), ("111002", 0, MANY))
    return tuple(Row(relation, "TEXT", name, least, most) for name, least, most in names)


def tid_4002(relation: str) -> tuple[Row, ...]:
    side = (Row(MODIFIER, "CODE", "272741003", 0, values=group(6022)),)
    impression = Row(relation, "TEXT", "111033", 0)
    return (impression, *tid_4019(relation), Row(relation, "NUM", "111047", 0, MANY, PERCENT, side))


def rendering_intent(*below: Row) -> Row:
    return Row(MODIFIER, "CODE", "111056", values=group(6034), below=below)


SELECTED = (Row("SELECTED FROM", "REFERENCE"),)
TID_4021 = (Row(PROPERTY, "SCOORD", "111010", below=SELECTED), Row(PROPERTY, "SCOORD", "111041", 0, below=SELECTED))


def tid_4006(relation: str, least: int) -> Row:
    point = Row(PROPERTY, "NUM", "111071", 0, values=RANGE)
    region = Row(PROPERTY, "TEXT", "111058")
    below = (rendering_intent(point), *tid_4019(PROPERTY), *TID_4021, region)
    return Row(relation, "CODE", "111059", least, MANY, group(6014), below)


TID_4004 = Row(
    CONTAINS,
    "CODE",
    "111015",
    0,
    MANY,
    group(6016),
    (
        rendering_intent(),
        Row(PROPERTY, "CODE", "111016", values=group(6035)),
        Row(PROPERTY, "CODE", "111057", values=group(6036)),
        *tid_4019(PROPERTY),
        Row(PROPERTY, "NUM", "111047", 0, values=PERCENT),
        tid_4006(INFERRED, 1),
    ),
)
TID_4003 = Row(
    INFERRED,
    "CONTAINER",
    "111034",
    0,
    MANY,
    below=(rendering_intent(), *tid_4002(CONTAINS), TID_4004, tid_4006(CONTAINS, 0)),
)
TID_4023 = (
    Row(PROPERTY, "NUM", "111072", values=frozenset({"[arb'U]"})),
    Row(PROPERTY, "NUM", "111092", 0, values=RANGE),
    Row(
        PROPERTY,
        "CONTAINER",
        "111093",
        0,
        below=(
            Row(CONTAINS, "CODE", "122698", values=group(6048)),
            Row(CONTAINS, "CODE", "122699", values=group(6048)),
            Row(
                CONTAINS,
                "NUM",
                "111071",
                2,
                2,
                RANGE,
                (
                    Row(PROPERTY, "TEXT", "111081", 0),
                    *(Row(PROPERTY, "NUM", axis, 0, values=PERCENT) for axis in ("111090", "111091", "111088")),
                ),
            ),
        ),
    ),
)
PERFORMED = Row(INFERRED, "REFERENCE", most=MANY)


def performed(summary: str, done: str, what: str, values: frozenset[str], *more: Row) -> Row:
    """Return TID 4015 with 4017, or TID 4016 with 4018, below its summary."""
    item = Row(CONTAINS, "CODE", what, 1, MANY, values, (*tid_4019(PROPERTY), PERFORMED, *more))
    container = Row(INFERRED, "CONTAINER", done, 0, below=(item,))
    return Row(CONTAINS, "CODE", summary, values=group(6042), below=(container,))


TID_4000 = (
    *TID_1204,
    Row(CONTAINS, "CONTAINER", "111028", below=(TID_4020,)),
    Row(CONTAINS, "CODE", "111017", values=group(6047), below=(*tid_4002(PROPERTY), TID_4003)),
    performed("111064", "111063", "111022", group(6014), *TID_4023),
    performed("111065", "111062", "111004", group(6043)),
)


def breaches(container: Dataset, rows: tuple[Row, ...], place: str = "1") -> list[str]:
    """Return where a content item's children break the rows of its template: unknown, too few or many, out of order."""
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
    wrong = [row for row, count in zip(rows, counts, strict=True) if not row.least <= count <= row.most]
    return found + [f"{place}: {row.least} to {row.most} of {row.kind} {row.name}" for row in wrong]


def value_of(item: Dataset) -> str:
    if item.ValueType == "CODE":
        return str(item.ConceptCodeSequence[0].CodeValue)
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


REQUIRED, OPTIONAL = "111150", "111151"
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
    assert breaches(report, TID_4000) == ["1.3.9.8: 1 to 1 of CODE 111056"]
    feature.append(intent)
    assert "out of order" in breaches(report, TID_4000)[0]
    intent.ConceptCodeSequence[0].CodeValue = "111222"
    assert any("111222 is not allowed" in breach for breach in breaches(report, TID_4000))
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
    assert points == ["{0:1}"] * len(REGIONS)
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


def test_scores_have_their_sides_and_the_operating_point_its_worth(files: list[bytes]) -> None:
    summary = named(of_exam(files), codes.DCM.CADProcessingAndFindingsSummary)[0]
    scores = [item for item in summary.ContentSequence if name_of(item) == "111047"]
    assert [float(item.MeasuredValueSequence[0].NumericValue) for item in scores] == [64, 61, 61]
    sides = [[value_of(side) for side in item.get("ContentSequence", [])] for item in scores]
    assert sides == [[], [codes.cid6022.LeftBreast.value], [codes.cid6022.RightBreast.value]]
    first = named(of_exam(files), codes.DCM.CADOperatingPoint)[0]
    assert "sensitivity first, threshold 0.31; in validation sensitivity 0.920" in first.ContentSequence[0].TextValue
    assert numbers(first) == {"111088": 92}


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
