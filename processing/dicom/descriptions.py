"""Finds in descriptions and in Image Type what kind of image a mammogram is: synthetic, low-energy, or another kind.

Descriptions are free text that a technologist may have typed. They are searched for whole words of mammography, and
only the word that was found is ever shown.
"""

import re
from collections.abc import Iterator

from mammopipe.processing.dicom.attributes import Tag, Tags, label

_DESCRIPTIONS = (Tag.SERIES_DESCRIPTION, Tag.PROTOCOL_NAME, Tag.ACQUISITION_PROTOCOL_NAME)
_HOW_MADE = (*_DESCRIPTIONS, Tag.DERIVATION_DESCRIPTION, Tag.PROCESSING_DESCRIPTION)
_GENERATED_2D = ("GENERATED_2D", "TOMO_2D")
_SYNTHETIC_WORDS = re.compile(
    r"\b([SC][-_ ]?VIEW|V[-_ ]?PREVIEW|INSIGHT 2D|INTELLIGENT 2D|SYNTH\w*|GENERATED[-_ ]?2D|SM2D|S2D)\b"
)
"""Manufacturers' names of 2-D images that are computed from tomosynthesis."""
_LOW_ENERGY_WORDS = re.compile(r"\bLOW[-_ ]?ENERGY\b")
_REFUSED_WORDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a magnification view", re.compile(r"\b(MAG|MAGNIF\w*|MAGNI|MAGVIEW|SPOTMAG|[LR]?M(CC|MLO|ML|LM))\b")),
    ("a spot compression view", re.compile(r"\b(SPOT|SPOT[-_ ]?COMP\w*|CONE[-_ ]?COMP\w*|CONED)\b")),
    ("a tangential or cleavage view", re.compile(r"\b(TANGENTIAL|TANG|CLEAVAGE)\b")),
    ("a specimen", re.compile(r"\b(SPECIMENS?|SURGICAL SPEC)\b")),
    ("an image of a biopsy or another intervention", re.compile(r"\b(STEREO\w*|NEEDLE|WIRE|GALACTO\w*|DUCTO\w*)\b")),
    ("a mask or a part of an image", re.compile(r"\b(ROI MASK\w*|MASK IMAGES?|CROPPED( IMAGES?)?)\b")),
    ("an image of quality control", re.compile(r"\b(FLAT[-_ ]?FIELD\w*|CALIBRATION|PHANTOM|QC|GAIN MAP)\b")),
    ("a screenshot", re.compile(r"\bSCREEN[-_ ]?(SAVE|SHOT|CAPTURE)\b")),
    (
        "a contrast-enhanced image other than its low-energy one",
        re.compile(r"\b(RECOMB\w*|SUBTRACT\w*|HIGH[-_ ]?ENERGY|IODINE)\b"),
    ),
)
_TOMOGRAPHIC_WORDS = re.compile(
    r"\bTOMO\w*[ _-]*(RECON\w*|SLICES?|SLABS?|PLANES?|PROJ\w*|VOLUME)\b|\bSLABS?\b|\b(MIP|MPR)\b"
)


def image_kinds(tags: Tags) -> tuple[str, ...]:
    """Return the values of Image Type and of the frame's Frame Type, in capitals."""
    return tags.codes(Tag.IMAGE_TYPE) + tags.codes(Tag.FRAME_TYPE)


def is_synthetic(tags: Tags) -> bool:
    """Return whether Image Type or a manufacturer's name shows that the image was computed from tomosynthesis."""
    kinds = image_kinds(tags)
    if any(kind in _GENERATED_2D or _SYNTHETIC_WORDS.search(kind.replace("_", " ")) for kind in kinds):
        return True
    return any(_SYNTHETIC_WORDS.search(text) for _, text in _texts(tags, _HOW_MADE))


def is_low_energy(tags: Tags) -> bool:
    """Return whether the image is the low-energy one of a contrast-enhanced study."""
    kinds = image_kinds(tags)
    if any(re.match(r"LOW[_ ]?ENERGY", kind) for kind in kinds):
        return True
    return any(_LOW_ENERGY_WORDS.search(text) for _, text in _texts(tags, _DESCRIPTIONS))


def tomographic_words(tags: Tags) -> str:
    """Return the description that names a slice or projection of tomosynthesis, with its word; "" if none does."""
    found = ((tag, _TOMOGRAPHIC_WORDS.search(text)) for tag, text in _texts(tags, _DESCRIPTIONS))
    return next((f"{label(tag)} holds {match[0]!r}" for tag, match in found if match), "")


def refused_words(tags: Tags) -> str:
    """Return why a description excludes the image: the attribute, the word and its meaning; "" if none does."""
    for tag, text in _texts(tags, _DESCRIPTIONS):
        for meaning, words in _REFUSED_WORDS:
            match = words.search(text)
            if match:
                return f"{label(tag)} holds {match[0]!r}: {meaning}"
    return ""


def _texts(tags: Tags, names: tuple[Tag, ...]) -> Iterator[tuple[Tag, str]]:
    """Yield each description with its text, in capitals, with blanks for underscores."""
    for tag in names:
        yield tag, " ".join(tags.codes(tag)).replace("_", " ")
