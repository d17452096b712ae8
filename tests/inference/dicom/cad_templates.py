"""The rows of PS3.16 2026a, TID 4000 to 4023, that the Mammography CAD SR uses, and a check of a report against them.

The check refuses every item that is not in a row. The templates are not extensible and their order is significant.
Comments name the rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from tests.inference.dicom.dicom_examples import (
    name_of,
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
