"""Reads laterality, view, pixel spacing and flags from DICOM attributes.

Sources: PS3.3 C.8.11.7 (Image Laterality, View Code Sequence), C.7.3.1 (Laterality), C.7.6.16.2.8 (Frame Anatomy),
10.7.1.3 (spacing of projections), C.7.6.3.1.7 (Pixel Aspect Ratio); PS3.16 CID 244 (laterality), CID 4014 and CID 4015
(views), with codes of SNOMED CT and of the older SNOMED RT.
"""

import hashlib
import math
import re

from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.dicom.attributes import Facts, Tag, Tags, label, quoted
from mammopipe.processing.dicom.file import DicomFile, is_dicom, parse
from mammopipe.processing.dicom.view_text import (
    coded_view,
    find_view,
    is_low_energy,
    is_synthetic,
    read_view_text,
    sides_in,
)
from mammopipe.processing.errors import CorruptImageError, UnsupportedImageError
from mammopipe.processing.image_flags import ImageFlag
from mammopipe.processing.read_config import DEFAULT_CONFIG

Flags = set[ImageFlag]

_MORE_SPECIFIC = {("CC", "XCCL"), ("CC", "XCCM"), ("CC", "XCC"), ("XCC", "XCCL"), ("XCC", "XCCM"), ("CC", "FB")}
_MORE_SPECIFIC |= {("MLO", "SIO"), ("LMO", "ISO")}
"""Pairs of views: the second is a special case of the first."""
_AXILLARY_TAIL, _IMPLANT_DISPLACED = "axillary tail", "implant displaced"
_MODIFIERS = {
    _AXILLARY_TAIL: (("399011000", "R-102D1"), re.compile(r"\bAXILLARY TAIL\b")),
    _IMPLANT_DISPLACED: (("399209000", "R-102D5"), re.compile(r"\bIMPLANT[- ]DISPLAC|\bEKLUND\b")),
}
"""Codes of the view modifiers that are kept (CID 4015), and words in the meaning of codes of other schemes."""
_SIDE_CODES = {
    **dict.fromkeys(("7771000", "G-A101", "80248007", "T-04030"), Laterality.LEFT),
    **dict.fromkeys(("24028007", "G-A100", "73056007", "T-04020"), Laterality.RIGHT),
}
"""Codes of left and right (CID 244), and of left and right breast."""
HIGH_RATIO = 15.0
"""Greatest Lossy Image Compression Ratio at which the detail of a mammogram counts as preserved."""
PLAUSIBLE_SPACING_MM = (0.001, 10.0)
"""Range of pixel spacings that a mammogram, or a reduced copy of one, can have."""
_ADULT_YEARS = 18
INSTITUTION_NAME = 0x00080080
_NAME_LETTERS = 40


def read_laterality(tags: Tags) -> tuple[Laterality | None, Facts, Flags]:
    """Return the laterality, a fact that names its attribute, and flags.

    The laterality attributes, in this order, are Image Laterality, Frame Laterality, the anatomic region with its
    modifiers, Laterality (of the series) and Body Part Examined. If none of them names a side, the view position and
    the series description are used.

    Raises:
        CorruptImageError: Two laterality attributes name different sides.
    """
    given: dict[Tag, Laterality] = {}
    for tag in (Tag.IMAGE_LATERALITY, Tag.FRAME_LATERALITY, Tag.ANATOMIC_REGION_SEQUENCE, Tag.LATERALITY):
        side = _coded_side(tags) if tag is Tag.ANATOMIC_REGION_SEQUENCE else _side(tags, tag)
        if side:
            given[tag] = side
    named = sides_in(tags.code(Tag.BODY_PART_EXAMINED))
    if len(named) == 1:
        given[Tag.BODY_PART_EXAMINED] = named.pop()
    if len(set(given.values())) > 1:
        (first, one), *others = given.items()
        second, other = next(pair for pair in others if pair[1] is not one)
        raise tags.corrupt(first, f"is {one} but {label(second)} is {other}")
    hints = {
        Tag.VIEW_POSITION: read_view_text(tags.code(Tag.VIEW_POSITION)).side,
        Tag.SERIES_DESCRIPTION: find_view(tags.code(Tag.SERIES_DESCRIPTION)).side,
    }
    for tag, side in given.items():
        conflict = any(hint and hint is not side for hint in hints.values())
        return side, {"laterality_source": label(tag)}, {ImageFlag.LATERALITY_CONFLICT} if conflict else set()
    for tag, side in hints.items():
        if side:
            return side, {"laterality_source": label(tag)}, set()
    return None, {}, set()


def _side(tags: Tags, tag: Tag) -> Laterality | None:
    """Return the side in a code; `None` for unpaired (U), and for both (B) in a series or a frame."""
    text = tags.code(tag)
    if text in ("", "U") or (text == "B" and tag is not Tag.IMAGE_LATERALITY):
        return None
    sides = sides_in(text)
    if len(sides) != 1:
        raise tags.corrupt(tag, f"is {quoted(tags.text(tag))}; it must be L, R, or empty")
    return sides.pop()


def _coded_side(tags: Tags) -> Laterality | None:
    """Return the side that the coded anatomy names (PS3.3 tables 10-5 and 10-6); `None` if it names none or both."""
    items: list[Tags] = []
    for sequence, modifiers in (
        (Tag.ANATOMIC_REGION_SEQUENCE, Tag.ANATOMIC_REGION_MODIFIER_SEQUENCE),
        (Tag.PRIMARY_ANATOMIC_STRUCTURE_SEQUENCE, Tag.PRIMARY_ANATOMIC_STRUCTURE_MODIFIER_SEQUENCE),
    ):
        items += tags.items(modifiers)  # Some writers put the modifiers beside the region instead of into its item.
        for region in tags.items(sequence):
            items += [region, *region.items(modifiers)]
    sides = {_SIDE_CODES[code] for item in items if (code := item.concept()) in _SIDE_CODES}
    sides |= {side for item in items for side in sides_in(item.code(Tag.CODE_MEANING))}
    return sides.pop() if len(sides) == 1 else None


def read_view(tags: Tags) -> tuple[View | None, Facts, Flags]:
    """Return the view, facts about it, and flags.

    View Code Sequence and View Position state the view. If one of them names a special case of the other's view, the
    more specific view is used, with a flag. If they name none, a view in the series description is used, with the flag
    `view-inferred`. For a view outside `View` the result is `None`, and the facts hold its name.

    Raises:
        CorruptImageError: The two attributes name views that contradict each other.
    """
    facts, flags = Facts(), Flags()
    stated = read_view_text(tags.code(Tag.VIEW_POSITION))
    coded, modifiers = _coded(tags)
    if stated.implant_displaced or _IMPLANT_DISPLACED in modifiers:
        facts["implant_displaced"] = True
        flags.add(ImageFlag.IMPLANT_DISPLACED)
    if _AXILLARY_TAIL in modifiers or stated.view is View.AT:
        source = label(Tag.VIEW_CODE_SEQUENCE if _AXILLARY_TAIL in modifiers else Tag.VIEW_POSITION)
        return View.AT, facts | {"view_source": source}, flags
    name, source = _one_view(tags, stated.view or stated.other, coded, flags)
    if not name:
        described = find_view(tags.code(Tag.SERIES_DESCRIPTION))
        name, source = described.view or described.other, label(Tag.SERIES_DESCRIPTION)
        if name:
            flags.add(ImageFlag.VIEW_INFERRED)
    if name.startswith("XCC"):
        flags.add(ImageFlag.EXAGGERATED_VIEW)
    if name in list(View):
        return View(name), facts | {"view_source": source}, flags
    reported = name or tags.code(Tag.VIEW_POSITION)
    if re.fullmatch(r"[A-Z]{2,8}", reported):
        facts["view_reported"] = reported
    return None, facts, flags


def _one_view(tags: Tags, stated: str, coded: str, flags: Flags) -> tuple[str, str]:
    """Return the name of the view from the two attributes, and the attribute that gave it."""
    if stated and coded and stated != coded:
        if (coded, stated) not in _MORE_SPECIFIC and (stated, coded) not in _MORE_SPECIFIC:
            raise CorruptImageError(
                f"{tags.where}: {label(Tag.VIEW_POSITION)} is {stated} but "
                f"{label(Tag.VIEW_CODE_SEQUENCE)} means {coded}"
            )
        flags.add(ImageFlag.VIEW_CONFLICT)
        if (coded, stated) in _MORE_SPECIFIC:
            return stated, label(Tag.VIEW_POSITION)
    return coded or stated, label(Tag.VIEW_CODE_SEQUENCE if coded else Tag.VIEW_POSITION)


def _coded(tags: Tags) -> tuple[str, set[str]]:
    """Return the name of the coded view, "" if there is no known one, and the names of its known modifiers."""
    items = list(tags.items(Tag.VIEW_MODIFIER_CODE_SEQUENCE))
    names: set[str] = set()
    for item in tags.items(Tag.VIEW_CODE_SEQUENCE):
        names |= {coded_view(item)} - {""}
        items += item.items(Tag.VIEW_MODIFIER_CODE_SEQUENCE)
    if len(names) > 1:
        raise tags.corrupt(Tag.VIEW_CODE_SEQUENCE, f"names the views {' and '.join(sorted(names))}; an image has one")
    known = {
        modifier
        for modifier, (codes, words) in _MODIFIERS.items()
        if any(item.concept() in codes or words.search(item.code(Tag.CODE_MEANING)) for item in items)
    }
    return next(iter(names), ""), known


def read_spacing(tags: Tags) -> tuple[float | None, Facts, Flags]:
    """Return the pixel spacing in millimetres, a fact that names its attribute, and flags.

    Pixel Spacing, which is calibrated in a projection, comes before Imager Pixel Spacing, that of the detector
    (10.7.1.3). The image is still read if its spacing cannot be used (one value, 0, not a number): the spacing is then
    `None`, with a flag.

    Raises:
        UnsupportedImageError: The pixels are clearly not square.
    """
    flags = Flags()
    aspect = _usable(tags, Tag.PIXEL_ASPECT_RATIO, flags)
    if aspect and aspect[0] != aspect[1]:
        raise UnsupportedImageError(
            f"{tags.where}: {label(Tag.PIXEL_ASPECT_RATIO)} is {aspect[0]:g}:{aspect[1]:g}; square pixels are read"
        )
    for tag in (Tag.PIXEL_SPACING, Tag.IMAGER_PIXEL_SPACING):
        spacing = _usable(tags, tag, flags)
        if not spacing:
            continue
        if abs(spacing[0] - spacing[1]) <= 0.011 * spacing[0]:
            return spacing[0], {"spacing_source": label(tag)}, flags
        if not aspect and max(spacing) > 1.05 * min(spacing):
            raise UnsupportedImageError(
                f"{tags.where}: {label(tag)} is {spacing[0]:g} and {spacing[1]:g} mm; square pixels are read"
            )
        flags.add(ImageFlag.SPACING_UNUSABLE)
    return None, {}, flags


def _usable(tags: Tags, tag: Tag, flags: Flags) -> tuple[float, float] | None:
    """Return a pair of plausible numbers; `None` if there is none, with a flag if the attribute has another value."""
    if not tags.has(tag):
        return None
    try:
        values = tags.numbers(tag)
    except CorruptImageError:
        values = ()
    least, greatest = (0.0, math.inf) if tag is Tag.PIXEL_ASPECT_RATIO else PLAUSIBLE_SPACING_MM
    if len(values) == 2 and least < min(values) and max(values) < greatest:
        return values[0], values[1]
    flags.add(ImageFlag.SPACING_UNUSABLE)
    return None


def read_flags(file: DicomFile, tags: Tags) -> Flags:
    """Return the flags of the attributes, except those of laterality, view and spacing."""
    kinds, conversion = tags.codes(Tag.IMAGE_TYPE), tags.code(Tag.CONVERSION_TYPE)
    sop_class = tags.text(Tag.SOP_CLASS_UID) or file.sop_class
    secondary = sop_class.startswith("1.2.840.10008.5.1.4.1.1.7") or "SECONDARY" in kinds[1:2]
    ratios = _ratios(tags)
    lossy = (
        file.syntax.lossy
        or tags.code(Tag.LOSSY_IMAGE_COMPRESSION) in ("01", "1", "YES")
        or max(ratios, default=1) > 1
        or tags.has(Tag.LOSSY_IMAGE_COMPRESSION_METHOD)
    )
    stated = {
        ImageFlag.SYNTHETIC_2D: is_synthetic(tags),
        ImageFlag.DIGITISED: conversion in ("DF", "SI") or tags.code(Tag.MODALITY) == "RG",
        ImageFlag.SECONDARY_CAPTURE: secondary or bool(conversion),
        ImageFlag.BURNED_IN: tags.code(Tag.BURNED_IN_ANNOTATION) == "YES",
        ImageFlag.PARTIAL_VIEW: tags.code(Tag.PARTIAL_VIEW) == "YES"
        or bool(tags.items(Tag.PARTIAL_VIEW_CODE_SEQUENCE))
        or bool(tags.text(Tag.PARTIAL_VIEW_DESCRIPTION) and tags.code(Tag.PARTIAL_VIEW) != "NO"),
        ImageFlag.IMPLANT: tags.code(Tag.BREAST_IMPLANT_PRESENT) == "YES",
        ImageFlag.LOW_ENERGY: is_low_energy(tags),
        ImageFlag.LOSSY: lossy,
        ImageFlag.LOSSY_HIGH_RATIO: max(ratios, default=1) > HIGH_RATIO,
        ImageFlag.MALE: tags.code(Tag.PATIENT_SEX) in ("M", "MALE"),
        ImageFlag.UNDER_18: _is_under_age(tags),
        ImageFlag.NO_PREAMBLE: file.bare,
    }
    return {flag for flag, holds in stated.items() if holds}


def _ratios(tags: Tags) -> tuple[float, ...]:
    """Return the ratios of all lossy compressions applied to the image; () if none can be read."""
    try:
        return tags.numbers(Tag.LOSSY_IMAGE_COMPRESSION_RATIO)
    except CorruptImageError:
        return ()


def _is_under_age(tags: Tags) -> bool:
    """Return whether the patient was under 18, by Patient's Age (AS, PS3.5 6.2) or by the dates of birth and study.

    An age without leading zeros or without a unit, and a date with points, break the rules of AS and DA, but their
    meaning is clear.
    """
    age = re.fullmatch(r"0*(\d{1,3}) ?([DWMY]?)", tags.code(Tag.PATIENT_AGE))
    if age:
        return int(age[1]) / {"D": 365, "W": 52, "M": 12, "Y": 1, "": 1}[age[2]] < _ADULT_YEARS
    birth = _date(tags, Tag.PATIENT_BIRTH_DATE)
    taken = (Tag.STUDY_DATE, Tag.ACQUISITION_DATE, Tag.CONTENT_DATE, Tag.SERIES_DATE)
    study = next((date for tag in taken if (date := _date(tags, tag))), 0)
    return bool(birth and study) and 0 <= study - birth < _ADULT_YEARS * 10_000


def _date(tags: Tags, tag: Tag) -> int:
    """Return a date as the number YYYYMMDD, 0 if there is none."""
    text = tags.text(tag).replace(".", "").replace("-", "")
    return int(text) if re.fullmatch(r"(19|20)\d{6}", text) else 0


def origin(data: bytes, *, where: str) -> tuple[str, str]:
    """Return the machine and the site of a file, "" where unknown.

    The machine is Manufacturer and Manufacturer's Model Name; the site is a hash of the institution's name.

    Args:
        data: The file.
        where: The name of the file in errors.

    Raises:
        ImageError: The file cannot be parsed; the subclasses are those of `mammopipe.processing.dicom.file.parse`.
    """
    if not is_dicom(data):
        return "", ""
    names = (Tag.MANUFACTURER, Tag.MANUFACTURER_MODEL_NAME)
    tags = parse(data, where=where, limits=DEFAULT_CONFIG.limits, tags=(*names, INSTITUTION_NAME)).tags
    # Keep only characters of device names: the result names a group in manifests, metrics and pages.
    words = re.sub(r"[^\w.&()+/-]+", " ", " ".join(map(tags.text, names)), flags=re.ASCII).split()
    institution = tags.text(INSTITUTION_NAME)
    site = hashlib.sha256(institution.encode()).hexdigest()[:8] if institution else ""
    return " ".join(words)[:_NAME_LETTERS].strip(), site
