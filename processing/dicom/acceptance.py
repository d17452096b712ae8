"""What is a DICOM image but not a mammogram of one breast in one 2-D view: refused, with the attribute that tells.

Missing attributes refuse nothing: de-identified collections strip Modality, SOP Class and View Position.
Sources: PS3.3 C.8.11.7 (Mammography Image Module; Image Type in C.8.11.7.1.4), PS3.16 CID 4014 and CID 4015.
"""

import re
from collections.abc import Callable

from pydicom.uid import UID

from mammopipe.processing.dicom.attributes import Tag, Tags, label, quoted
from mammopipe.processing.errors import NotAMammogramError

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_SOP_CLASSES = {_STORAGE + suffix for suffix in ("1", "1.1", "1.1.1", "1.2", "1.2.1", "7", "7.2", "7.3")}
"""CR, DX and Digital Mammography (for presentation and for processing), and Secondary Capture, which holds old ones."""

_BIOPSY_TYPES = ("STEREO", "PREFIRE", "POSTFIRE", "POSTBIOPSY", "POSTMARKER", "TOMO_SCOUT")
_GENERATED_2D = ("GENERATED_2D", "TOMO_2D")
MAX_MAGNIFICATION = 1.35
"""Contact views reach 1.1 for a thick breast; magnification views are taken at 1.4 and more."""

# Coded views and modifiers that are not a whole breast on the detector: SNOMED CT and the older SNOMED RT codes.
REFUSED_CODES = {
    "127457009": "tissue specimen",
    "G-8310": "tissue specimen",
    "399163009": "magnification view",
    "R-102D6": "magnification view",
    "399055006": "spot compression view",
    "R-102D7": "spot compression view",
    "399161006": "cleavage view of both breasts",
    "R-102D2": "cleavage view of both breasts",
}


def check_is_mammogram(tags: Tags) -> None:
    """Raise `NotAMammogramError`, with the attribute and its value, for anything but one 2-D view of one breast."""
    for rule in _RULES:
        reason = rule(tags)
        if reason:
            raise NotAMammogramError(f"{tags.where}: {reason}")


def _says(tags: Tags, tag: Tag, meaning: str) -> str:
    return f"{label(tag)} is {quoted(chr(92).join(tags.texts(tag)))}: {meaning}"


def _modality(tags: Tags) -> str:
    wrong = tags.text(Tag.MODALITY) not in ("", "MG")
    return _says(tags, Tag.MODALITY, "a mammogram is MG") if wrong else ""


def _sop_class(tags: Tags) -> str:
    uid = tags.text(Tag.SOP_CLASS_UID)
    if not uid or uid in _SOP_CLASSES:
        return ""
    name = UID(uid).name if UID(uid).name != uid else quoted(uid)
    return f"{label(Tag.SOP_CLASS_UID)} is {name}: not the storage class of a 2-D mammogram"


def _image_type(tags: Tags) -> str:
    kinds = [value.upper() for value in tags.texts(Tag.IMAGE_TYPE)]
    if any(kind.startswith(_BIOPSY_TYPES) for kind in kinds):
        return _says(tags, Tag.IMAGE_TYPE, "an image of a biopsy")
    if any(kind.startswith("TOMO") for kind in kinds) and not any(kind in _GENERATED_2D for kind in kinds):
        return _says(tags, Tag.IMAGE_TYPE, "a tomosynthesis image")
    if {"SUBTRACTION", "ADDITION", "HIGH_ENERGY", "RECOMBINED"} & set(kinds):
        return _says(tags, Tag.IMAGE_TYPE, "a contrast-enhanced image other than its low-energy one")
    return _says(tags, Tag.IMAGE_TYPE, "a specimen") if any("SPECIMEN" in kind for kind in kinds) else ""


def _specimen(tags: Tags) -> str:
    for tag in (Tag.SPECIMEN_DESCRIPTION_SEQUENCE, Tag.SPECIMEN_SEQUENCE, Tag.CONTAINER_IDENTIFIER):
        if tags.has(tag):
            return f"{label(tag)} is present: a specimen"
    for tag in (Tag.BODY_PART_EXAMINED, Tag.VIEW_POSITION):
        if "SPECIMEN" in tags.text(tag).upper():
            return _says(tags, tag, "a specimen")
    return ""


def _biopsy(tags: Tags) -> str:
    for tag in (Tag.BIOPSY_TARGET_SEQUENCE, Tag.INTERVENTION_SEQUENCE):
        if tags.has(tag):
            return f"{label(tag)} is present: an image of a biopsy or another intervention"
    stereo = "STEREO" in tags.text(Tag.VIEW_POSITION).upper()
    return _says(tags, Tag.VIEW_POSITION, "an image of a biopsy") if stereo else ""


def _coded_view(tags: Tags) -> str:
    for view in tags.items(Tag.VIEW_CODE_SEQUENCE):
        modifiers = view.items(Tag.VIEW_MODIFIER_CODE_SEQUENCE)
        for tag, item in [(Tag.VIEW_CODE_SEQUENCE, view), *((Tag.VIEW_MODIFIER_CODE_SEQUENCE, it) for it in modifiers)]:
            code = item.text(Tag.CODE_VALUE)
            if code in REFUSED_CODES:
                return f"{label(tag)} has the code {code!r}: {REFUSED_CODES[code]}"
    return ""


def _magnification(tags: Tags) -> str:
    factor = tags.number(Tag.ESTIMATED_MAGNIFICATION)
    if factor is not None and factor > MAX_MAGNIFICATION:
        return (
            f"{label(Tag.ESTIMATED_MAGNIFICATION)} is {factor:g}: a magnification view (more than {MAX_MAGNIFICATION})"
        )
    small = re.search(r"\b(SPOT|MAG|MAGNIFICATION)\b", tags.text(Tag.PADDLE_DESCRIPTION).upper())
    return _says(tags, Tag.PADDLE_DESCRIPTION, "a magnification or spot compression view") if small else ""


def _both_breasts(tags: Tags) -> str:
    both = tags.text(Tag.IMAGE_LATERALITY) == "B"
    return _says(tags, Tag.IMAGE_LATERALITY, "both breasts in one image") if both else ""


def _quality_control(tags: Tags) -> str:
    control = tags.text(Tag.QUALITY_CONTROL_IMAGE) == "YES"
    return _says(tags, Tag.QUALITY_CONTROL_IMAGE, "an image of a phantom") if control else ""


_RULES: tuple[Callable[[Tags], str], ...] = (
    _modality,
    _sop_class,
    _image_type,
    _specimen,
    _biopsy,
    _coded_view,
    _magnification,
    _both_breasts,
    _quality_control,
)
