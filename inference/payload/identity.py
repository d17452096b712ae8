"""Checks that the images of a request belong to one patient and one study, whatever the form of body and answer.

An exam has one patient and one study, and contains no instance twice. If two images state the same attribute with
different values, the request is refused. An attribute that only some images state proves nothing; the answer then has
the warning `identity-incomplete`. Messages contain attribute names and image positions, never values.

The Study Instance UID identifies the study. Under one UID every other attribute of the study should be equal, too, but
the accession number identifies only the order for which the study was made, and a study may answer two orders. Where
such an attribute differs, the answer has the warning `study-contradiction`.

Sources: PS3.3 C.7.1.1 (Patient), C.7.2.1 (General Study), C.12.1 (SOP Common); PS3.5 6.2 and 6.2.1 (padding, names).
"""

import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import combinations

from pydicom.charset import convert_encodings, decode_bytes

from mammopipe.inference.contract.errors import (
    DuplicateImageError,
    MixedPatientsError,
    MixedStudiesError,
    from_image_error,
)
from mammopipe.inference.contract.request import Priors
from mammopipe.inference.contract.schema import QualityWarning, Skipped, SkipReason
from mammopipe.inference.payload.exam_body import ReceivedImage
from mammopipe.processing.dicom.attributes import Tags, label
from mammopipe.processing.dicom.file import is_dicom, parse
from mammopipe.processing.errors import ImageError
from mammopipe.processing.read_config import Limits

CHARACTER_SET = 0x00080005
SOP_INSTANCE, STUDY_INSTANCE = 0x00080018, 0x0020000D
PATIENT_ID, ISSUER, NAME, BIRTH_DATE, SEX = 0x00100020, 0x00100021, 0x00100010, 0x00100030, 0x00100040
ISSUER_QUALIFIERS, UNIVERSAL_ENTITY_ID = 0x00100024, 0x00400032
STUDY_DATE, ACCESSION, STUDY_ID, ACQUISITION_DATE = 0x00080020, 0x00080050, 0x00200010, 0x00080022
_TAGS = (
    *(CHARACTER_SET, SOP_INSTANCE, STUDY_INSTANCE, PATIENT_ID, ISSUER, NAME, BIRTH_DATE, SEX),
    *(ISSUER_QUALIFIERS, UNIVERSAL_ENTITY_ID, STUDY_DATE, ACCESSION, STUDY_ID, ACQUISITION_DATE),
)
_NAME_GROUPS = ("", ", ideographic", ", phonetic")
"""The component groups of a person name (PS3.5 6.2.1); each is compared only with the same group."""
_OF_PATIENT = (PATIENT_ID, ISSUER, ISSUER_QUALIFIERS, NAME, BIRTH_DATE, SEX)
_GUESSES = ("using default encoding instead", "using replacement characters in decoded string")
"""Ends of pydicom's warnings that a text is not what the file states."""
_DAYS_OF_A_STUDY = 1
"""Most days between images of one study, because an examination may run past midnight."""
_DAYS_OF_AN_EPISODE = 90
"""Most days between acquisitions under one Study Instance UID. Views of a recall are added to a study within weeks;
the earliest control follows after six months."""

Stated = Mapping[str, str]


@dataclass(frozen=True)
class Header:
    """What one image states about its patient, its study and itself; empty for PGM and PNG, which state nothing."""

    patient: Stated
    """Values by attribute, normalised for comparison: without padding, and names without spelling variants."""
    study: Stated
    instance: str
    day: date | None
    """Date of the study, else of the acquisition; `None` if neither is stated."""
    acquired: date | None
    """Date of the acquisition."""


@dataclass(frozen=True)
class OneExam:
    """The images of one study of one patient."""

    sources: tuple[ReceivedImage, ...]
    skipped: tuple[Skipped, ...]
    """Images of earlier studies, if the request asks to ignore them."""
    warnings: tuple[QualityWarning, ...]


def check_exam(sources: Sequence[ReceivedImage], limits: Limits, *, priors: Priors = Priors.REFUSE) -> OneExam:
    """Return the images that are judged together.

    Args:
        sources: The images of the request.
        limits: Limits for reading the headers.
        priors: Whether images of earlier studies are refused, or skipped so that only the latest study remains.

    Raises:
        DuplicateImageError: An instance is in the exam twice. This and the next two errors name the later image.
        MixedPatientsError: Two images state different patients.
        MixedStudiesError: Two images are of different studies.
        RequestError: A header cannot be read.
    """
    headers = [_read(source, limits) for source in sources]
    _check_instances(sources, headers)
    for before, after in combinations(range(len(headers)), 2):
        if different := _contradiction(headers[before].patient, headers[after].patient):
            raise MixedPatientsError(
                "mixed_patients", f"{different} differs from that of an earlier image; an exam has one patient"
            ).at(sources[after].index, sources[after].place)
    kept, skipped = _one_study(sources, headers, priors)
    found = [_incomplete(sources, headers)] if len(sources) > 1 else []
    indices = {source.index for source in kept}
    found.append(_contradictory([each for each in zip(sources, headers, strict=True) if each[0].index in indices]))
    if skipped:
        found.append(
            QualityWarning(code="priors-ignored", message=f"{len(skipped)} images of earlier studies were left out")
        )
    return OneExam(kept, skipped, tuple(each for each in found if each is not None))


def _check_instances(sources: Sequence[ReceivedImage], headers: Sequence[Header]) -> None:
    seen: set[str] = set()
    for source, header in zip(sources, headers, strict=True):
        if header.instance and header.instance in seen:
            raise DuplicateImageError(
                "duplicate_image", f"{label(SOP_INSTANCE)} is that of an earlier image: the same instance twice"
            ).at(source.index, source.place)
        seen.add(header.instance)


def _contradiction(one: Stated, other: Stated) -> str:
    """Return the first attribute that both state with different values, or ""."""
    return next((name for name, value in one.items() if other.get(name, value) != value), "")


def _one_study(
    sources: Sequence[ReceivedImage], headers: Sequence[Header], priors: Priors
) -> tuple[tuple[ReceivedImage, ...], tuple[Skipped, ...]]:
    """Return the images of the only or the latest study, and the skipped images of earlier studies."""
    studies: list[list[int]] = []
    # An image without study attributes fits every study; it is refused if there is more than one.
    for index, header in enumerate(headers):
        fitting = [study for study in studies if all(_same_study(headers[other], header) for other in study)]
        if len(fitting) > 1:
            raise _mixed_studies("the image does not state to which of the exam's studies it belongs", sources[index])
        if fitting:
            fitting[0].append(index)
        else:
            studies.append([index])
    if len(studies) == 1:
        return tuple(sources), ()
    if priors is Priors.REFUSE:
        raise _mixed_studies(
            "the image belongs to another study than an earlier one; an exam has one study, unless priors=ignore",
            sources[studies[1][0]],
        )
    current = set(_latest(studies, headers, sources))
    return (
        tuple(source for index, source in enumerate(sources) if index in current),
        tuple(
            Skipped(index=source.index, place=source.place or f"image {source.index}", reason=SkipReason.PRIOR)
            for index, source in enumerate(sources)
            if index not in current
        ),
    )


def _same_study(one: Header, other: Header) -> bool:
    """Return whether nothing shows that two images are of different studies.

    If both state a Study Instance UID, it decides together with the study's date, and the acquisitions may be at most
    `_DAYS_OF_AN_EPISODE` apart. Otherwise every other attribute of the study counts, and the dates may be at most
    `_DAYS_OF_A_STUDY` apart.
    """
    uid, dated = label(STUDY_INSTANCE), label(STUDY_DATE)
    if uid in one.study and uid in other.study:
        near = _days_between([one.acquired, other.acquired]) <= _DAYS_OF_AN_EPISODE
        return near and not _contradiction(
            {name: value for name, value in one.study.items() if name in (uid, dated)}, other.study
        )
    if _contradiction(one.study, other.study):
        return False
    return _days_between([one.day, other.day]) <= _DAYS_OF_A_STUDY


def _days_between(days: Iterable[date | None]) -> int:
    """Return the days from the earliest to the latest of the days that are known."""
    known = [day for day in days if day is not None]
    return (max(known) - min(known)).days if known else 0


def _latest(studies: Sequence[list[int]], headers: Sequence[Header], sources: Sequence[ReceivedImage]) -> list[int]:
    days = [max((day for index in study if (day := headers[index].day)), default=None) for study in studies]
    for study, day in zip(studies, days, strict=True):
        if day is None:
            raise _mixed_studies(
                "the image has no study date, so that no study is known to be the latest", sources[study[0]]
            )
    newest = max(day for day in days if day is not None)
    if days.count(newest) > 1:
        raise _mixed_studies(
            "several studies are of the latest day, so that none is known to be the current one", sources[studies[1][0]]
        )
    return studies[days.index(newest)]


def _mixed_studies(message: str, source: ReceivedImage) -> Exception:
    return MixedStudiesError("mixed_studies", message).at(source.index, source.place)


def _contradictory(images: Sequence[tuple[ReceivedImage, Header]]) -> QualityWarning | None:
    """Return the warning that names attributes in which the images of one study differ, with the images."""
    stated = [(label(tag), [header.study.get(label(tag)) for _, header in images]) for tag in (ACCESSION, STUDY_ID)]
    days = [header.acquired for _, header in images]
    if _days_between(days) > _DAYS_OF_A_STUDY:
        stated.append((label(ACQUISITION_DATE), [str(day) if day else None for day in days]))
    differing = []
    for name, values in stated:
        groups = [
            ", ".join(str(source.index) for (source, _), each in zip(images, values, strict=True) if each == value)
            for value in dict.fromkeys(values)
            if value is not None
        ]
        if len(groups) > 1:
            differing.append(f"{name} (image {' / '.join(groups)})")
    if not differing:
        return None
    return QualityWarning(
        code="study-contradiction",
        message="the images state one study, but different values, and may be of two examinations: "
        + "; ".join(differing),
    )


def _incomplete(sources: Sequence[ReceivedImage], headers: Sequence[Header]) -> QualityWarning | None:
    """Return the warning that names attributes which only some images state, or which are required but missing."""
    missing: list[str] = []
    names = dict.fromkeys(
        [label(PATIENT_ID), label(STUDY_INSTANCE), *(name for each in headers for name in each.patient)]
    )
    for name in names:
        without = [
            source.index
            for source, header in zip(sources, headers, strict=True)
            if name not in header.patient and name not in header.study
        ]
        if without:
            missing.append(f"{name} (image {', '.join(map(str, without))})")
    if not missing:
        return None
    return QualityWarning(
        code="identity-incomplete",
        message="the files do not prove that all images belong to one patient and one study; not stated: "
        + "; ".join(missing),
    )


def _read(source: ReceivedImage, limits: Limits) -> Header:
    if not is_dicom(source.data):
        return Header({}, {}, "", None, None)
    try:
        file = parse(source.data, where="<bytes>", limits=limits, tags=_TAGS)
        tags = file.tags
        texts = {tag: _text(tags, tag) for tag in (*_OF_PATIENT, STUDY_INSTANCE, STUDY_DATE, ACCESSION, STUDY_ID)}
        days = [_day(_text(tags, tag)) for tag in (STUDY_DATE, ACQUISITION_DATE)]
        instance = tags.text(SOP_INSTANCE) or file.sop_instance
    except ImageError as error:
        raise from_image_error(error).at(source.index, source.place) from None

    patient = {label(tag): texts[tag] for tag in _OF_PATIENT if tag != NAME}
    patient |= {label(NAME) + group: name for group, name in zip(_NAME_GROUPS, _names(texts[NAME]), strict=True)}
    patient[label(BIRTH_DATE)] = _digits(patient[label(BIRTH_DATE)])
    patient[label(SEX)] = patient[label(SEX)].upper()
    study = {label(tag): texts[tag] for tag in (STUDY_INSTANCE, ACCESSION, STUDY_ID)}
    study[label(STUDY_DATE)] = _digits(texts[STUDY_DATE])
    return Header(_stated(patient), _stated(study), instance, days[0] or days[1], days[1])


def _stated(texts: Stated) -> Stated:
    return {name: text for name, text in texts.items() if text}


def _text(tags: Tags, tag: int) -> str:
    """Return a text attribute decoded with its character set, without padding; "" if it is missing or empty."""
    if tag == ISSUER_QUALIFIERS:
        return next((item.text(UNIVERSAL_ENTITY_ID) for item in tags.items(tag)), "")
    value = tags.data(tag)
    # pydicom warns if the character set is unknown, and if it replaces bytes that are not of the set. Both are guesses.
    with warnings.catch_warnings(record=True) as guesses:
        warnings.simplefilter("always")
        try:
            sets = tags.data(CHARACTER_SET).decode("ascii").strip(" \0").split("\\")
            text = decode_bytes(
                value, convert_encodings([each.strip() for each in sets]), {ord("\\"), ord("^"), ord("=")}
            )
        except (LookupError, UnicodeError, ValueError):
            text = _as_bytes(value)
    if any(str(guess.message).endswith(_GUESSES) for guess in guesses):
        text = _as_bytes(value)
    return unicodedata.normalize("NFC", text).strip(" \0")


def _as_bytes(value: bytes) -> str:
    """Return the bytes as text: ASCII unchanged, every other byte as `x` and two hexadecimal digits.

    The result is only compared. Letters and digits survive the normalisation of names, so different bytes stay
    different.
    """
    return "".join(chr(byte) if byte < 0x80 else f"x{byte:02x}" for byte in value)


def _names(text: str) -> tuple[str, ...]:
    """Return the three component groups of a person name, normalised: without case, accents and separators."""
    groups = (text.split("=") + ["", ""])[:3]
    # Accents are removed only in the alphabetic group; in the other groups the same marks change the sound.
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", groups[0]) if not unicodedata.combining(sign))
    return tuple(" ".join(re.findall(r"\w+", group.casefold())) for group in (plain, *groups[1:]))


def _digits(text: str) -> str:
    """Return a date without the separators of old files (PS3.5 6.2, DA: yyyy.mm.dd)."""
    return re.sub(r"[.\-/ ]", "", text)


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(_digits(text)[:8])
    except ValueError:
        return None
