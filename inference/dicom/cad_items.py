"""Content items of a Mammography CAD SR: relationships, items by reference, and numbers.

highdicom's sequence class refuses items by reference, so content is added to finished items here.

Source: PS3.3 A.35.5.3.1.3 (relationships of the IOD) and C.17.3.2.5 (relationships by reference).
"""

from collections.abc import Iterable
from enum import StrEnum

from highdicom.sr import NumContentItem
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.tag import Tag as NumberedTag

LIBRARY = 2
"""Position of the image library below the root, from 1; the language item precedes it."""
PERCENT = Code("%", "UCUM", "Percent")


class Relation(StrEnum):
    """The relationships of a content item to its parent that the templates use."""

    CONTAINS = "CONTAINS"
    PROPERTY = "HAS PROPERTIES"
    MODIFIER = "HAS CONCEPT MOD"
    CONTEXT = "HAS ACQ CONTEXT"
    INFERRED = "INFERRED FROM"
    SELECTED = "SELECTED FROM"


def with_content(item: Dataset, below: Iterable[Dataset]) -> Dataset:
    """Return the item with content items below it."""
    item.add_new(NumberedTag("ContentSequence"), "SQ", list(below))
    return item


def by_reference(relation: Relation, index: int) -> Dataset:
    """Return a relationship by reference to the image with this index in the image library."""
    item = Dataset()
    # An item by reference has a relationship and a target only, neither value type nor concept name (PS3.3 C.17.3.2.5).
    item.RelationshipType = str(relation)
    item.ReferencedContentItemIdentifier = [1, LIBRARY, index + 1]
    return item


def number(name: Code, value: float, unit: Code, relation: Relation) -> NumContentItem:
    """Return a number item; six digits fit in a decimal string (PS3.5 6.2) and suffice for every value here."""
    return NumContentItem(name, float(f"{value:.6g}"), unit, relationship_type=str(relation))


def integer(name: Code, value: int, unit: Code, relation: Relation) -> NumContentItem:
    """Return a number item without a decimal point, which TID 4023 requires and highdicom would write."""
    item = NumContentItem(name, value, unit, relationship_type=str(relation))
    item.MeasuredValueSequence[0].NumericValue = str(value)
    return item


def plain_code(code: Code) -> Code:
    """Return the code with an ASCII meaning; some meanings in pydicom's dictionary contain zero width spaces."""
    return Code(code.value, code.scheme_designator, code.meaning.replace("\u200b", ""))
