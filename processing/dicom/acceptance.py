"""Refuses DICOM images that are not a 2-D mammogram of one breast; the error names the attribute that shows it.

A missing attribute never leads to a refusal: de-identified collections strip Modality, SOP Class and View Position.
Sources: PS3.3 C.8.11.7 (Mammography Image Module; Image Type in C.8.11.7.1.4), C.8.6.1 (Conversion Type), C.8.11.2
(Presentation Intent Type), C.7.6.1 (Quality Control Image, Calibration Image); PS3.16 CID 4013 (anatomic region),
CID 4014 (views) and CID 4015 (view modifiers), annex L (Body Part Examined).
"""

import re
from collections.abc import Callable, Iterator

from pydicom import config
from pydicom.uid import UID

from mammopipe.processing.dicom.attributes import Tag, Tags, label, quoted
from mammopipe.processing.dicom.view_text import (
    is_raw,
    is_synthetic,
    names_view,
    read_view_text,
    refused_words,
    tomographic_words,
)
from mammopipe.processing.errors import CorruptImageError, NotAMammogramError

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_TOMOSYNTHESIS = _STORAGE + "13.1.3"
FOR_PROCESSING_CLASSES = {_STORAGE + suffix for suffix in ("1.1.1", "1.2.1", "13.1.5")}
"""DX, Digital Mammography and Breast Projection images for processing."""
FOR_PRESENTATION_CLASSES = {_STORAGE + suffix for suffix in ("1.1", "1.2", "13.1.4")}
"""Their counterparts for presentation."""
_MEDIA_CLASS = "MediaStorageSOPClassUID (0002,0002)"
_SOP_CLASSES = {_STORAGE + suffix for suffix in ("1", "1.1", "1.2", "7", "7.2", "7.3", "13.1.4")} | {_TOMOSYNTHESIS}
"""CR, DX, Digital Mammography and Breast Projection images for presentation; Secondary Capture, used for old
mammograms; tomosynthesis storage, which may hold a single generated 2-D image."""

_TOMOGRAPHIC_KINDS = re.compile(r"TOMO|(\w+[_ -])?(SLICE|SLAB)|VOLUME|(MIP|MPR|DBT|3D)(?![A-Z])|MAX_IP|PROJ|RECON")
MAX_MAGNIFICATION = 1.35
"""Greatest magnification of a contact view: thick breasts reach 1.1; magnification views have at least 1.4."""
_MAGNIFIED = f"a magnification view (more than {MAX_MAGNIFICATION})"

# Codes of views and modifiers that do not show a whole breast on the detector, in SNOMED CT and the older SNOMED RT.
REFUSED_CODES = {
    "127457009": "tissue specimen",
    "G-8310": "tissue specimen",
    "399163009": "magnification view",
    "R-102D6": "magnification view",
    "399055006": "spot compression view",
    "R-102D7": "spot compression view",
    "399161006": "cleavage view of both breasts",
    "R-102D2": "cleavage view of both breasts",
    "399110001": "tangential view",
    "R-102C2": "tangential view",
    "442580003": "view of the axillary tissue",
    "R-40AB2": "view of the axillary tissue",
    "442593008": "view of the infra-mammary fold",
    "R-40ABE": "view of the infra-mammary fold",
}
_REFUSED_MEANINGS = re.compile(
    r"\b(MAG|MAGNIF\w*|SPOT|CONED?|CLEAVAGE|VALLEY|TANGENTIAL|SPECIMEN|AXILLARY TISSUE|INFRA-?MAMMARY FOLD|STEREO\w*)\b"
)
"""Words in the meaning of a code, of any coding scheme, for a view that does not show a whole breast."""
_BREAST_CODES = ("76752008", "T-04000", "80248007", "T-04030", "73056007", "T-04020", "63762007")
_BOTH, _BILATERAL_CODES = "both breasts in one image", ("51440002", "G-A102")
BREAST_WORDS = re.compile(r"BREAST|MAMM|BRUST|SEIN|SENO|PECHO|BORST|BRYST|BR[OÖ]ST|MAMA\b|MAMELL|PIERS")
_UNKNOWN_PARTS = ("", "UNKNOWN", "OTHER", "NONE", "UNDEFINED", "N/A", "NA", "MG")
_PADDLE_WORDS = re.compile(
    r"(?P<view>SPOT|CONED?\b|(?<!I)MAG(?!E)|VERGR)|(?P<specimen>SPECIMEN)|"
    r"(?P<biopsy>BIOP|STEREO|NEEDLE|(?<![A-Z])LOC|LOCALI|FENEST|PERFOR|GRID|ALPHANUM)"
)
_PADDLES = {
    "view": "a magnification or spot compression view",
    "specimen": "a specimen",
    "biopsy": "an image of a biopsy or localisation",
}


def check_is_mammogram(tags: Tags, *, sop_class: str = "", raw: bool = False) -> None:
    """Raise `NotAMammogramError`, with the attribute and its value, unless the image is one 2-D view of one breast.

    Args:
        tags: The attributes, including those of functional groups.
        sop_class: The SOP class of the file meta information, for data sets whose own was stripped.
        raw: Whether images for processing are accepted.
    """
    for rule in _RULES:
        reason = rule(tags)
        if reason:
            raise NotAMammogramError(f"{tags.where}: {reason}")
    reason = _sop_class(tags, sop_class) or ("" if raw else for_processing(tags, sop_class))
    if reason:
        raise NotAMammogramError(f"{tags.where}: {reason}")


def _reason(tags: Tags, tag: Tag, meaning: str) -> str:
    values = "\\".join(tags.texts(tag))
    return f"{label(tag)} is {quoted(values)}: {meaning}"


def _uid_name(uid: str) -> str:
    # A damaged UID such as "1.2." is no reason for a warning by pydicom.
    name = UID(uid, validation_mode=config.IGNORE).name if re.fullmatch(r"[0-9.]{1,64}", uid) else uid
    return quoted(uid) if name == uid else name


def _modality(tags: Tags) -> str:
    modality = tags.code(Tag.MODALITY)
    if modality in ("", "MG") or (modality in ("CR", "DX", "RG") and _names_breast(tags)):
        return ""
    return _reason(tags, Tag.MODALITY, "a mammogram is MG, or CR or DX of a body part that is the breast")


def _names_breast(tags: Tags) -> bool:
    regions = tags.items(Tag.ANATOMIC_REGION_SEQUENCE)
    return (
        bool(BREAST_WORDS.search(tags.code(Tag.BODY_PART_EXAMINED)))
        or any(_is_breast(region) for region in regions)
        or any(names_view(item) for item in tags.items(Tag.VIEW_CODE_SEQUENCE))
        or read_view_text(tags.code(Tag.VIEW_POSITION)).view is not None
    )


def _is_breast(region: Tags) -> bool:
    return region.concept() in _BREAST_CODES or bool(BREAST_WORDS.search(region.code(Tag.CODE_MEANING)))


def _sop_class(tags: Tags, media: str) -> str:
    """Return why the SOP class, or else that of the file meta information, excludes the image (PS3.10 7.1)."""
    own = tags.text(Tag.SOP_CLASS_UID)
    uid, name = (own, label(Tag.SOP_CLASS_UID)) if own else (media, _MEDIA_CLASS)
    if uid == _TOMOSYNTHESIS and not is_synthetic(tags):
        return f"{name} is {_uid_name(uid)}: not a generated 2-D image"
    if not uid or uid in _SOP_CLASSES or uid in FOR_PROCESSING_CLASSES:
        return ""
    return f"{name} is {_uid_name(uid)}: not the storage class of a 2-D mammogram"


_RAW = "raw pixels for processing; the manufacturer's images for presentation are read"


def for_processing(tags: Tags, sop_class: str = "") -> str:
    """Return what shows that the image is raw, with the rule; "" if nothing does. Arguments: `check_is_mammogram`."""
    uid = tags.text(Tag.SOP_CLASS_UID)
    if uid in FOR_PROCESSING_CLASSES:
        return f"{label(Tag.SOP_CLASS_UID)} is {_uid_name(uid)}: {_RAW}"
    intent = tags.code(Tag.PRESENTATION_INTENT_TYPE)
    if re.fullmatch("(FOR)?[ _-]*PROCESSING|RAW", intent):
        return _reason(tags, Tag.PRESENTATION_INTENT_TYPE, _RAW)
    if not uid and sop_class in FOR_PROCESSING_CLASSES:
        return f"{_MEDIA_CLASS} is {_uid_name(sop_class)}: {_RAW}"
    if not intent and (uid or sop_class) not in FOR_PRESENTATION_CLASSES and is_raw(tags):
        return f"{label(Tag.IMAGE_TYPE)} or a description says that they are {_RAW}"
    return ""


_REFUSED_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("an image of a biopsy", re.compile(r"STEREO|PREFIRE|POSTFIRE|POSTBIOPSY|POSTMARKER|TOMO_SCOUT|BIOPSY")),
    ("a tomosynthesis image", _TOMOGRAPHIC_KINDS),
    (
        "a contrast-enhanced image other than its low-energy one",
        re.compile(
            r"ADDITION|(HIGH|DUAL)[_ ]?ENERGY|(\w+[_ -])?((SUB|HE)(?![A-Z])|SUBTRACT|RECOMB|IODINE)|DES(?![A-Z])"
        ),
    ),
    ("a specimen", re.compile(r".*SPECIMEN")),
    (
        "a screenshot or a secondary result",
        re.compile(r"SCREEN[ _-]?(SAVE|SHOT|CAP)|LOCALIZER|SCOUT|REPORT|CAD(?![A-Z])|HEAT[ _-]?MAP|SEGMENTATION"),
    ),
    ("a magnification or spot compression view", re.compile(r"MAG(NIF|(?![A-Z]))|SPOT(MAG|COMP|(?![A-Z]))")),
    (
        "an image of quality control or a mask",
        re.compile(r"FLAT[ _-]?FIELD|CALIB|(\w+[_ -])?PHANTOM|(QC|MASK)(?![A-Z])"),
    ),
)
"""Kinds of images that are refused, each with a pattern for the start of a value of Image Type that shows it."""


def _image_type(tags: Tags) -> str:
    synthetic = is_synthetic(tags)
    for tag in (Tag.IMAGE_TYPE, Tag.FRAME_TYPE):
        for meaning, pattern in _REFUSED_KINDS:
            # A generated 2-D image names tomosynthesis as its source (C.8.11.7.1.4).
            exempt = synthetic and pattern is _TOMOGRAPHIC_KINDS
            if not exempt and any(pattern.match(kind) for kind in tags.codes(tag)):
                return _reason(tags, tag, meaning)
    return ""


def _tomosynthesis(tags: Tags) -> str:
    """Return why the image is a slice or projection of tomosynthesis stored as a single image, "" if it is not."""
    if is_synthetic(tags):
        return ""
    if tags.code(Tag.VOLUMETRIC_PROPERTIES) in ("VOLUME", "SAMPLED"):
        return _reason(tags, Tag.VOLUMETRIC_PROPERTIES, "a slice of tomosynthesis")
    height, thickness = tags.number(Tag.TOMO_LAYER_HEIGHT), tags.number(Tag.SLICE_THICKNESS)
    if height is not None:
        return f"{label(Tag.TOMO_LAYER_HEIGHT)} is {height:g}: a slice of tomosynthesis"
    if thickness and tags.code(Tag.IMAGE_TYPE) != "ORIGINAL":
        return f"{label(Tag.SLICE_THICKNESS)} is {thickness:g}: a slice of tomosynthesis"
    if tags.code(Tag.TOMO_CLASS) == "TOMOSYNTHESIS":
        return _reason(tags, Tag.TOMO_CLASS, "a tomosynthesis image")
    words = tomographic_words(tags)
    return f"{words}: a tomosynthesis image" if words else ""


def _specimen(tags: Tags) -> str:
    for tag in (Tag.SPECIMEN_DESCRIPTION_SEQUENCE, Tag.SPECIMEN_SEQUENCE, Tag.CONTAINER_IDENTIFIER):
        if tags.has(tag):
            return f"{label(tag)} is present: a specimen"
    for tag in (Tag.BODY_PART_EXAMINED, Tag.VIEW_POSITION):
        if "SPECIMEN" in tags.code(tag):
            return _reason(tags, tag, "a specimen")
    return ""


def _biopsy(tags: Tags) -> str:
    for tag in (Tag.BIOPSY_TARGET_SEQUENCE, Tag.INTERVENTION_SEQUENCE):
        if tags.has(tag):
            return f"{label(tag)} is present: an image of a biopsy or another intervention"
    return ""


def _body_part(tags: Tags) -> str:
    part = tags.code(Tag.BODY_PART_EXAMINED)
    if part not in _UNKNOWN_PARTS and not BREAST_WORDS.search(part):
        return _reason(tags, Tag.BODY_PART_EXAMINED, "not a breast")
    sequence = Tag.ANATOMIC_REGION_SEQUENCE
    if not tags.items(sequence):  # Beside a region, the structure may be a part of the breast.
        sequence = Tag.PRIMARY_ANATOMIC_STRUCTURE_SEQUENCE
    for region in tags.items(sequence):
        if (region.concept() or region.has(Tag.CODE_MEANING)) and not _is_breast(region):
            return f"{label(sequence)} has the code {quoted(region.concept())}: not a breast"
    return ""


def _coded_view(tags: Tags) -> str:
    for tag, item in _coded_items(tags):
        code = item.concept()
        if code in REFUSED_CODES:
            return f"{label(tag)} has the code {code!r}: {REFUSED_CODES[code]}"
        match = _REFUSED_MEANINGS.search(item.code(Tag.CODE_MEANING))
        if match:
            return f"{label(tag)} has the code {quoted(code)}, which means {match[0].lower()}: not a whole breast"
    return ""


def _coded_items(tags: Tags) -> Iterator[tuple[Tag, Tags]]:
    """Yield each coded view and modifier; some writers put the modifiers beside the view instead of into its item."""
    for view in tags.items(Tag.VIEW_CODE_SEQUENCE):
        yield Tag.VIEW_CODE_SEQUENCE, view
        for modifier in view.items(Tag.VIEW_MODIFIER_CODE_SEQUENCE):
            yield Tag.VIEW_MODIFIER_CODE_SEQUENCE, modifier
    for modifier in tags.items(Tag.VIEW_MODIFIER_CODE_SEQUENCE):
        yield Tag.VIEW_MODIFIER_CODE_SEQUENCE, modifier


def _view_position(tags: Tags) -> str:
    refused = read_view_text(tags.code(Tag.VIEW_POSITION)).refused
    return _reason(tags, Tag.VIEW_POSITION, refused) if refused else ""


def _magnification(tags: Tags) -> str:
    factor = tags.number(Tag.ESTIMATED_MAGNIFICATION)
    if factor is not None:
        large = factor > MAX_MAGNIFICATION
        return f"{label(Tag.ESTIMATED_MAGNIFICATION)} is {factor:g}: {_MAGNIFIED}" if large else ""
    # C.8.11.7: both distances start at the source; the second ends at the breast support. 10.7.1.3: the spacing at the
    # detector divided by that in the breast is the magnification.
    for longer, shorter in (
        (Tag.DISTANCE_SOURCE_TO_DETECTOR, Tag.DISTANCE_SOURCE_TO_PATIENT),
        (Tag.IMAGER_PIXEL_SPACING, Tag.PIXEL_SPACING),
    ):
        first, second = _positive(tags, longer), _positive(tags, shorter)
        if first and second and first / second > MAX_MAGNIFICATION:
            return f"{label(longer)} is {first / second:.2f} times {label(shorter)}: {_MAGNIFIED}"
    return ""


def _positive(tags: Tags, tag: Tag) -> float:
    """Return the first value of a number; 0 if it is missing, malformed or not positive."""
    try:
        return max(0.0, tags.number(tag) or 0.0)
    except CorruptImageError:
        return 0.0


def _paddle(tags: Tags) -> str:
    match = _PADDLE_WORDS.search(tags.code(Tag.PADDLE_DESCRIPTION))
    return _reason(tags, Tag.PADDLE_DESCRIPTION, _PADDLES[str(match.lastgroup)]) if match else ""


def _conversion(tags: Tags) -> str:
    """Return why Conversion Type (C.8.6.1) excludes the image: a document or drawing; digitised films are accepted."""
    kind = tags.code(Tag.CONVERSION_TYPE)
    return _reason(tags, Tag.CONVERSION_TYPE, "a document or a drawing") if kind in ("SD", "DRW") else ""


def _both_breasts(tags: Tags) -> str:
    stated = tags.code(Tag.IMAGE_LATERALITY)
    if stated == "B":
        return _reason(tags, Tag.IMAGE_LATERALITY, _BOTH)
    for region in () if stated else tags.items(Tag.ANATOMIC_REGION_SEQUENCE):
        for modifier in region.items(Tag.ANATOMIC_REGION_MODIFIER_SEQUENCE):
            if modifier.concept() in _BILATERAL_CODES:
                return f"{label(Tag.ANATOMIC_REGION_MODIFIER_SEQUENCE)} has the code {modifier.concept()!r}: {_BOTH}"
    return ""


def _quality_control(tags: Tags) -> str:
    for tag in (Tag.QUALITY_CONTROL_IMAGE, Tag.QUALITY_CONTROL_SUBJECT, Tag.CALIBRATION_IMAGE):
        if tags.code(tag) in ("YES", "BOTH"):
            return _reason(tags, tag, "an image of a phantom or of quality control")
    return ""


_RULES: tuple[Callable[[Tags], str], ...] = (
    _modality,
    _image_type,
    _tomosynthesis,
    _specimen,
    _biopsy,
    _body_part,
    _coded_view,
    _view_position,
    _magnification,
    _paddle,
    refused_words,
    _conversion,
    _both_breasts,
    _quality_control,
)
"""The rules in the order in which they are tried. Each returns why it excludes the image, or ""."""
