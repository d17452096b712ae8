"""Side, view and pixel spacing as the DICOM attributes give them.

Sources: PS3.3 C.8.11.7 (Image Laterality, View Code Sequence), C.7.3.1 (Laterality), 10.7.1.3 (spacing of projections);
PS3.16 CID 4014 and CID 4015, in SNOMED CT and in the older SNOMED RT codes.
"""

import hashlib
import re

from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.dicom.attributes import Tag, Tags, label, quoted
from mammopipe.processing.dicom.file import is_dicom, parse
from mammopipe.processing.errors import CorruptImageError, UnsupportedImageError
from mammopipe.processing.read_config import DEFAULT_CONFIG, Limits

Facts = dict[str, str | int | float | bool]

_VIEW_CODES = {
    "399162004": View.CC,
    "R-10242": View.CC,
    "399368009": View.MLO,
    "R-10226": View.MLO,
    "399260004": View.ML,
    "R-10224": View.ML,
    "399352003": View.LM,
    "R-10228": View.LM,
    "399099002": View.LMO,
    "R-10230": View.LMO,
}
_OTHER_VIEW_CODES = {
    "399196006": "FB",
    "R-10244": "FB",
    "399188001": "SIO",
    "R-102D0": "SIO",
    "441555000": "ISO",
    "R-40AAA": "ISO",
    "399192008": "XCCL",
    "R-1024A": "XCCL",
    "399101009": "XCCM",
    "R-1024B": "XCCM",
}
_AXILLARY_TAIL = ("399011000", "R-102D1")
_IMPLANT_DISPLACED = ("399209000", "R-102D5")


def read_laterality(tags: Tags) -> tuple[Laterality | None, Facts]:
    """Return the breast's side and which attribute gave it.

    Raises `CorruptImageError` where Image Laterality and Laterality name different sides, or neither side.
    """
    sides = {tag: _side(tags, tag) for tag in (Tag.IMAGE_LATERALITY, Tag.LATERALITY)}
    given = {tag: side for tag, side in sides.items() if side}
    if len(set(given.values())) > 1:
        raise tags.corrupt(
            Tag.IMAGE_LATERALITY,
            f"is {sides[Tag.IMAGE_LATERALITY]} but {label(Tag.LATERALITY)} is {sides[Tag.LATERALITY]}",
        )
    for tag, side in given.items():
        return side, {"laterality_source": label(tag)}
    return None, {}


def _side(tags: Tags, tag: Tag) -> Laterality | None:
    text = tags.text(tag)
    if text in ("", "U"):
        return None
    if text not in list(Laterality):
        raise tags.corrupt(tag, f"is {quoted(text)}; it must be L, R, or empty")
    return Laterality(text)


def read_view(tags: Tags) -> tuple[View | None, Facts]:
    """Return the view and facts on it; `None` for a view outside `View`, whose name is then in the facts.

    Raises `CorruptImageError` where View Position and View Code Sequence name different views.
    """
    position, facts = tags.text(Tag.VIEW_POSITION), Facts()
    stated = View(position) if position in list(View) else None
    coded, other, modifiers = _coded(tags)
    if any(code in _IMPLANT_DISPLACED for code in modifiers):
        facts["implant_displaced"] = True
    if any(code in _AXILLARY_TAIL for code in modifiers) or stated is View.AT:
        return View.AT, facts | {"view_source": label(Tag.VIEW_CODE_SEQUENCE if modifiers else Tag.VIEW_POSITION)}
    if stated and (other or (coded and coded is not stated)):
        raise CorruptImageError(
            f"{tags.where}: {label(Tag.VIEW_POSITION)} is {stated} but "
            f"{label(Tag.VIEW_CODE_SEQUENCE)} means {coded or other}"
        )
    if coded or stated:
        return coded or stated, facts | {"view_source": label(Tag.VIEW_CODE_SEQUENCE if coded else Tag.VIEW_POSITION)}
    reported = other or position
    if re.fullmatch(r"[A-Z]{2,8}", reported):
        facts["view_reported"] = reported
    return None, facts


def _coded(tags: Tags) -> tuple[View | None, str, list[str]]:
    """Return the coded view, the name of one outside `View`, and the codes of its modifiers."""
    for item in tags.items(Tag.VIEW_CODE_SEQUENCE):
        code = item.text(Tag.CODE_VALUE)
        modifiers = [each.text(Tag.CODE_VALUE) for each in item.items(Tag.VIEW_MODIFIER_CODE_SEQUENCE)]
        return _VIEW_CODES.get(code), _OTHER_VIEW_CODES.get(code, ""), modifiers
    return None, "", []


def read_spacing(tags: Tags) -> tuple[float | None, Facts]:
    """Return millimetres a pixel and which attribute gave them: Pixel Spacing, else Imager Pixel Spacing.

    Pixel Spacing is the calibrated one of a projection; Imager Pixel Spacing is that of the detector (10.7.1.3).
    Raises `UnsupportedImageError` where pixels are not square, `CorruptImageError` where a spacing is not positive.
    """
    aspect = tags.numbers(Tag.PIXEL_ASPECT_RATIO)
    if aspect and (len(aspect) != 2 or aspect[0] != aspect[1]):
        raise UnsupportedImageError(
            f"{tags.where}: {label(Tag.PIXEL_ASPECT_RATIO)} is "
            f"{':'.join(f'{value:g}' for value in aspect[:3])}; square pixels are read"
        )
    for tag in (Tag.PIXEL_SPACING, Tag.IMAGER_PIXEL_SPACING):
        spacing = tags.numbers(tag)
        if spacing:
            return _square(tags, tag, spacing), {"spacing_source": label(tag)}
    return None, {}


def _square(tags: Tags, tag: Tag, spacing: tuple[float, ...]) -> float:
    if len(spacing) != 2 or min(spacing) <= 0:
        raise tags.corrupt(tag, "must be two positive numbers, the spacing of rows and that of columns")
    if abs(spacing[0] - spacing[1]) > 0.01 * spacing[0]:
        raise UnsupportedImageError(
            f"{tags.where}: {label(tag)} is {spacing[0]:g} and {spacing[1]:g} mm; square pixels are read"
        )
    return spacing[0]


INSTITUTION_NAME = 0x00080080

_NAME_LETTERS = 40


def origin(data: bytes, *, where: str, limits: Limits = DEFAULT_CONFIG.limits) -> tuple[str, str]:
    """Return machine (Manufacturer and Manufacturer's Model Name) and site of a file's bytes; "" is unknown.

    Raises the `ImageError` subclasses of `mammopipe.processing.dicom.file.parse`; `where` names the file in them.
    """
    if not is_dicom(data):
        return "", ""
    names = (Tag.MANUFACTURER, Tag.MANUFACTURER_MODEL_NAME)
    tags = parse(data, where=where, limits=limits, tags=(*names, INSTITUTION_NAME)).tags
    # Only what is in a device's name: it becomes that of a group, in manifests, metrics and pages.
    words = re.sub(r"[^\w.&()+/-]+", " ", " ".join(map(tags.text, names)), flags=re.ASCII).split()
    institution = tags.text(INSTITUTION_NAME)
    site = hashlib.sha256(institution.encode()).hexdigest()[:8] if institution else ""
    return " ".join(words)[:_NAME_LETTERS].strip(), site
