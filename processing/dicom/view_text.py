"""Finds the view in codes and texts: View Code Sequence, View Position (0018,5101) and descriptions, in all spellings.

The abbreviations are those of the ACR (Mammography Quality Control Manual), which PS3.16 CID 4014 and CID 4015 list
with their codes. They consist of the side, prefixes for magnification (M), spot compression (S) and tangential views
(TAN), the view, and suffixes for rolled (RL, RM, RI, RS), implant-displaced (ID), axillary tail (AT) and other
modifiers.

Descriptions also show the kind of an image: synthetic, low-energy, or one that is refused. They are free text that a
technologist may have typed. So they are searched for whole words of mammography, and only the word that was found is
ever shown.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.dicom.attributes import Tag, Tags, label

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
"""Views of PS3.16 CID 4014 by code, in SNOMED CT and the older SNOMED RT; the second table has those outside `View`."""
_SPELLED = (
    (re.compile(r"\b(IMPLANT[- ]?DISPLACED|EKLUND)\b"), "ID"),
    (re.compile(r"CRANIO[- ]?CAUDAL|CRANIAL[- ]?CAUDAL"), "CC"),
    (re.compile(r"MEDIO[- ]?LATERAL[- ]?OBLIQUE"), "MLO"),
    (re.compile(r"LATERO[- ]?MEDIAL[- ]?OBLIQUE"), "LMO"),
    (re.compile(r"MEDIO[- ]?LATERAL"), "ML"),
    (re.compile(r"LATERO[- ]?MEDIAL"), "LM"),
    (re.compile(r"\bOML\b"), "MLO"),
    (re.compile(r"\bLAT\b"), "LATERAL"),  # Not the left axillary tail.
    (re.compile(r"\b(VIEW|PROJECTION|BREAST|MAMMO|MG)\b"), ""),
)
_ABBREVIATION = re.compile(
    r"(?P<side>LEFT|RIGHT|LT|RT|L|R)?[ ]?"
    r"(?P<prefix>MAG|SPOT|TAN|TANG|MS|SM|M|S|ID)?[ ]?"
    r"(?P<view>XCCL|XCCM|XCC|CC|MLO|LMO|ML|LM|FB|SIO|ISO|AT)"
    r"(?P<suffix>(?:[ ]?(?:ID|RL|RM|RI|RS|AT|NP|AC|XL|XM|MAG|SPOT|TAN|[MS]))*)"
    r"(?:[ ]?(?P<after>LEFT|RIGHT|LT|RT|L|R))?[ ]?[0-9]{0,2}"
)
_AMBIGUOUS = re.compile(r"[LRMS]?AT|ISO|LM|FB")
"""Abbreviations that have another meaning as words of a description."""
SIDE_WORDS = {
    **dict.fromkeys(
        ("L", "LT", "LEFT", "LBREAST", "LEFTBREAST", "LINKS", "LINKE", "GAUCHE", "IZQUIERDA", "IZQUIERDO", "SINISTRA",
         "SINISTRO", "ESQUERDA"),
        Laterality.LEFT,
    ),
    **dict.fromkeys(
        ("R", "RT", "RIGHT", "RBREAST", "RIGHTBREAST", "RECHTS", "RECHTE", "DROIT", "DROITE", "DERECHA", "DERECHO",
         "DESTRA", "DESTRO", "DIREITA"),
        Laterality.RIGHT,
    ),
}  # fmt: skip
"""Words for a side, in the languages that descriptions of mammograms are often written in."""
_REFUSED_WORDS = (
    (re.compile(r"SPOT|CONE|\bS\b"), "a spot compression view"),
    (re.compile(r"(?<!I)MAG(?!E)|\bM\b|\b(ZOOM|ENLARGE)"), "a magnification view"),
    (re.compile(r"TAN"), "a tangential view"),
    (re.compile(r"\b[LR]?CV\b|CLEAVAGE|VALLEY"), "a cleavage view of both breasts"),
    (re.compile(r"STEREO|BIOP|NEEDLE|WIRE|\bLOC|LOCALI"), "an image of a biopsy or localisation"),
    (re.compile(r"SPECIMEN"), "a specimen"),
    (re.compile(r"AXILLARY TISSUE|\bAXT\b|\bAXILLA\b|\bIMF\b|INFRA"), "not a whole breast"),
    (re.compile(r"SCOUT|QC\b|PHANTOM|FLAT ?FIELD|CALIBRATION"), "an image of quality control or a scout"),
)
_REFUSED_PREFIXES = {
    **dict.fromkeys(("MAG", "M", "MS", "SM"), "a magnification view"),
    **dict.fromkeys(("SPOT", "S"), "a spot compression view"),
    **dict.fromkeys(("TAN", "TANG"), "a tangential view"),
}


@dataclass(frozen=True)
class ViewText:
    """The view that a text names."""

    view: View | None = None
    other: str = ""
    """The abbreviation of a view outside `View`, such as XCCL."""
    side: Laterality | None = None
    implant_displaced: bool = False
    refused: str = ""
    """The reason why the view does not show a whole breast; empty if it does."""


def read_view_text(text: str) -> ViewText:
    """Return the view in a view position of any spelling: `MLO`, `R CC`, `LMLOID`, `medio-lateral oblique`."""
    words = " ".join(_words(text))
    for pattern, abbreviation in _SPELLED:
        words = pattern.sub(abbreviation, words)
    words = " ".join(words.split())
    match = _ABBREVIATION.fullmatch(words)
    if match is None:
        refused = next((reason for pattern, reason in _REFUSED_WORDS if pattern.search(words)), "")
        return ViewText(refused=refused, implant_displaced=words == "ID")
    suffixes = re.findall(r"ID|RL|RM|RI|RS|AT|NP|AC|XL|XM|MAG|SPOT|TAN|[MS]", match["suffix"])
    refused = next((_REFUSED_PREFIXES[each] for each in (match["prefix"], *suffixes) if each in _REFUSED_PREFIXES), "")
    sides = {SIDE_WORDS[each] for each in (match["side"], match["after"]) if each}
    side = sides.pop() if len(sides) == 1 else None
    name = match["view"]
    if name == "CC" and (exaggerated := {"XL", "XM"} & set(suffixes)):
        name = "XCC" + exaggerated.pop()[1]
    view = View.AT if "AT" in suffixes else View(name) if name in list(View) else None
    displaced = match["prefix"] == "ID" or "ID" in suffixes
    return ViewText(view, "" if view else name, side, displaced, refused)


def sides_in(text: str) -> set[Laterality]:
    """Return the sides that the words of a text name."""
    return {SIDE_WORDS[word] for word in _words(text) if word in SIDE_WORDS}


def _words(text: str) -> list[str]:
    return re.sub(r"[^A-Z0-9]+", " ", text.upper()).split()


def coded_view(item: Tags) -> str:
    """Return the abbreviation of the view in an item of View Code Sequence; "" if neither code nor meaning is known."""
    code = item.concept()
    known = _VIEW_CODES.get(code) or _OTHER_VIEW_CODES.get(code)
    meaning = read_view_text(item.code(Tag.CODE_MEANING))
    return str(known or meaning.view or meaning.other)


def names_view(item: Tags) -> bool:
    """Return whether an item of View Code Sequence names a view of the breast, also one that is refused."""
    return bool(coded_view(item) or read_view_text(item.code(Tag.CODE_MEANING)).refused)


def find_view(text: str) -> ViewText:
    """Return the view that a description names (`Mammo R CC`); an empty result if it names none or several."""
    found = [read_view_text(word) for word in _words(text) if not _AMBIGUOUS.fullmatch(word)]
    views = {each.view or each.other for each in found if each.view or each.other}
    if len(views) != 1:
        return ViewText()
    sides = {each.side for each in found if each.side} | sides_in(text)
    first = next(each for each in found if each.view or each.other)
    return ViewText(first.view, first.other, sides.pop() if len(sides) == 1 else None, first.implant_displaced)


_DESCRIPTIONS = (Tag.SERIES_DESCRIPTION, Tag.PROTOCOL_NAME, Tag.ACQUISITION_PROTOCOL_NAME)
LONGEST_DESCRIPTION = 1024
"""Greatest number of characters of a description that are searched; PS3.5 allows 64, and 1,024 for some."""
_HOW_MADE = (*_DESCRIPTIONS, Tag.DERIVATION_DESCRIPTION, Tag.PROCESSING_DESCRIPTION)
_GENERATED_2D = ("GENERATED_2D", "TOMO_2D")
_SYNTHETIC_WORDS = re.compile(
    r"\b([CGS][-_ ]?VIEW|V[-_ ]?PREVIEW|INSIGHT 2D|INTELLIGENT 2D|SYNTH\w*|GENERATED[-_ ]?2D|SM2D|S2D)\b"
)
"""Manufacturers' names of 2-D images that are computed from tomosynthesis."""
_VIEW = r"[LR]?(CC|MLO|ML|LM)"
_CONTRAST = r"(CESM|CEDM|CEM|CE|CE2D|CES|TICEM)"
_LOW_ENERGY_WORDS = re.compile(rf"\bLOW[-_ ]?ENERGY\b|\b{_CONTRAST}\b.*\b(LE|LOW)\b|\b{_VIEW} LE\b|\bLE {_VIEW}\b")
# Descriptions are searched in capitals; a letter outside ASCII stands there as one or two characters outside `\w`.
_REFUSED_DESCRIPTIONS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a magnification view", re.compile(r"\b(MAG|MAGNIF\w*|MAGNI?|MAGVIEW|SPOTMAG|[LR]?M(CC|MLO|ML|LM))\b")),
    ("a magnification view", re.compile(r"\b(\w*VERGR|AGRANDI|INGRANDI|AMPLIA|SUURENN|LUPE\b)|\bPOWI\W{0,2}E?KSZ")),
    ("a magnification view", re.compile(r"\bF\W{0,2}O?RST\W{0,2}O?R(ING|RELSE)|\b(X ?1[.,][4-9]|1[.,][4-9] ?X)\b")),
    ("a spot compression view", re.compile(r"\b(\w*SPOT|SPOT[-_ ]?COMP\w*|CONE[-_ ]?(COMP\w*|DOWN)|CONED)\b")),
    ("a spot compression view", re.compile(r"\b(SPOTAUFN|SPOTKOMP|ZIELAUFN|PUNKTKOMP|FOCAL COMPRESSION)")),
    (
        "a spot compression view",
        re.compile(r"\bCOMPRES\S* (LOCALI|FOCALI|MIRATA)|\bCLICH\S* LOCALIS|\bCENTR\S* COMPRIM"),
    ),
    ("a tangential or cleavage view", re.compile(r"\b(TANGENTIAL|TANG|CLEAVAGE)\b")),
    ("a specimen", re.compile(r"\b(SPECIMENS?|SURGICAL SPEC)\b|\bPR(AE?|\W{1,2})PARAT|\bPI\W{0,2}E?CE OP\W{0,2}E?RAT")),
    ("a specimen", re.compile(r"\b(PEZZO|PIEZA|PE\W{0,2}C?A) (OPERAT|QUIR|CIR)")),
    ("an image of a biopsy or another intervention", re.compile(r"\b(STEREO\w*|NEEDLE|WIRE|(GALA[CK]|DU[CK])TO\w*)\b")),
    (
        "an image of a biopsy or another intervention",
        re.compile(r"\b(LO[CK]ALI[SZ]ATION|DRAHT|REP\W{0,2}E?RAGE\b|HARPON|ARP\W{0,2}O?N\b|AGUJA|PNEUMO\w*CYST)"),
    ),
    ("a mask or a part of an image", re.compile(r"\b(ROI MASK\w*|MASK IMAGES?|CROPPED( IMAGES?)?)\b")),
    ("an image of quality control", re.compile(r"\b(FLAT[-_ ]?FIELD\w*|CALIBRATION|PHANTOM|QC|GAIN MAP)\b")),
    ("a screenshot", re.compile(r"\bSCREEN[-_ ]?(SAVE|SHOT|CAPTURE)\b")),
    (
        "the result of another program",
        re.compile(
            r"\bHEAT[-_ ]?MAPS?\b|\b(I?CAD|AI|TRANSPARA) (OVERLAY|RESULTS?|REPORT|MARKS?|SUMMARY|SECONDLOOK)\b|"
            r"\b(DENSITY ?MAPS?|SCORE ?CARD|\w+DENSITYMAP)\b|\b(DOSE|CAPTURE|BI[- ]?RADS|IMAGES?) REPORT\b|\bDOSE SR\b"
        ),
    ),
    (
        "a contrast-enhanced image other than its low-energy one",
        re.compile(
            rf"\b(RECOMB\w*|SUBTRA\w*|HIGH[-_ ]?ENERGY|IODINE)\b|\b{_CONTRAST}\b.*\b(SUB|HE|REC)\b|"
            rf"\b{_VIEW} (SUB|HE|REC|DES|CES)\b|\b(SUB|HE|REC|DES|CES) ([LR] )?{_VIEW}\b"
        ),
    ),
)
_PROGRAMS = re.compile(
    r"\b(VOLPARA|QUANTRA|DENSITAS|PROFOUND AI|TRANSPARA|LUNIT|CMASSIST|GENIUS AI|IMAGECHECKER|SECONDLOOK|MAMMOSCREEN|"
    r"SAIGE)"
)
"""Programs that store their results as images. If the description also names a view, the image is a mammogram."""
_RAW_WORDS = re.compile(r"\b(RAW|UNPROCESSED|FOR PROCESSING)\b")
_TOMOGRAPHIC_WORDS = re.compile(
    r"\b(TOMO\w*|DBT)[ _-]*(RECON\w*|SLICES?|SLABS?|PLANES?|PROJ\w*|VOLUME)\b|\bSLABS?\b|"
    r"\b(SMART[ -]?SLICES?|MIP|MPR)\b"
)
_PLANE_WORDS = re.compile(r"\b(SLICES?|PLANES?|PROJECTIONS?)\b")
"""Words that exclude an image if its description also names tomosynthesis and does not name a 2-D image."""


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


def is_raw(tags: Tags) -> bool:
    """Return whether Image Type or a description says that the pixels are unprocessed."""
    kinds = (kind.replace("_", " ") for kind in image_kinds(tags))
    texts = (text for _, text in _texts(tags, (*_DESCRIPTIONS, Tag.PROCESSING_DESCRIPTION)))
    return any(_RAW_WORDS.search(text) for text in (*kinds, *texts))


def tomographic_words(tags: Tags) -> str:
    """Return the description that names a slice or projection of tomosynthesis, with its word; "" if none does."""
    for tag, text in _texts(tags, _DESCRIPTIONS):
        apart = re.search(r"\bTOMO", text) and not re.search(r"\b2D\b", text)
        match = _TOMOGRAPHIC_WORDS.search(text) or (_PLANE_WORDS.search(text) if apart else None)
        if match:
            return f"{label(tag)} holds {match[0]!r}"
    return ""


def refused_words(tags: Tags) -> str:
    """Return why a description excludes the image: the attribute, the word and its meaning; "" if none does."""
    for tag, text in _texts(tags, _DESCRIPTIONS):
        for meaning, words in _REFUSED_DESCRIPTIONS:
            match = words.search(text)
            if match:
                return f"{label(tag)} holds {_shown(match[0])}: {meaning}"
        program = _PROGRAMS.search(text)
        if tag is Tag.SERIES_DESCRIPTION and program and not find_view(text).view:
            return f"{label(tag)} holds {program[0]!r}: the result of another program"
    return ""


def _shown(words: str) -> str:
    """Return the first and the last of the words that a pattern found; a name may stand between them."""
    first, *others = words.split()
    return repr(f"{first} ... {others[-1]}" if len(others) > 1 else words)


def _texts(tags: Tags, names: tuple[Tag, ...]) -> Iterator[tuple[Tag, str]]:
    """Yield each description with the start of its text, in capitals, with blanks for underscores."""
    for tag in names:
        yield tag, " ".join(tags.codes(tag)).replace("_", " ")[:LONGEST_DESCRIPTION]
