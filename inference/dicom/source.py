"""Reads the attributes that a DICOM result copies from its source file, and refuses sources without identity.

Patient and study attributes are copied as raw bytes and never decoded. No interpretation can change a name or a date,
and no value can reach an error message or a log. Sources: PS3.3 C.7.1.1 (Patient),
C.7.2.1 (General Study), C.7.2.2 (Patient Study), C.12.1 (SOP Common).
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta, timezone

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag as NumberedTag

from mammopipe.inference.contract.errors import NoSourceIdentityError, RequestError, from_image_error
from mammopipe.inference.payload.exam_body import ReceivedImage
from mammopipe.inference.payload.identity import check_exam
from mammopipe.processing.dicom.attributes import Tag, Tags, label
from mammopipe.processing.dicom.file import DicomFile, is_dicom, parse
from mammopipe.processing.errors import ImageError
from mammopipe.processing.read_config import DEFAULT_CONFIG, Limits


def _numbers(keywords: str) -> tuple[int, ...]:
    tags = [tag_for_keyword(keyword) for keyword in keywords.split()]
    return tuple(tag for tag in tags if tag is not None)


STUDY, SERIES, INSTANCE, SOP_CLASS = _numbers("StudyInstanceUID SeriesInstanceUID SOPInstanceUID SOPClassUID")
(TIMEZONE,) = _numbers("TimezoneOffsetFromUTC")
KEPT = _numbers(
    "SpecificCharacterSet TimezoneOffsetFromUTC "
    "PatientName PatientID IssuerOfPatientID IssuerOfPatientIDQualifiersSequence TypeOfPatientID PatientBirthDate "
    "PatientBirthTime PatientSex OtherPatientIDsSequence OtherPatientNames PatientComments QualityControlSubject "
    "PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence "
    "StudyInstanceUID StudyDate StudyTime AccessionNumber IssuerOfAccessionNumberSequence ReferringPhysicianName "
    "StudyID StudyDescription PhysiciansOfRecord PatientAge PatientSize PatientWeight"
)
"""The root attributes that a result copies; all are text or sequences of text."""
OF_PIXELS = _numbers("PatientOrientation LossyImageCompressionRatio LossyImageCompressionMethod")
"""Further attributes that an image over the source's pixels copies."""
OF_LIBRARY = _numbers("ContentDate ContentTime ViewCodeSequence")
"""Further attributes that the image library of a CAD report states; no result copies them."""
_VIEW, _MODIFIERS, _VALUE, _SCHEME = _numbers(
    "ViewCodeSequence ViewModifierCodeSequence CodeValue CodingSchemeDesignator"
)
_IN_ITEMS = _numbers(
    "PatientID IssuerOfPatientID TypeOfPatientID IssuerOfPatientIDQualifiersSequence LocalNamespaceEntityID "
    "UniversalEntityID UniversalEntityIDType IdentifierTypeCode CodeValue CodingSchemeDesignator CodingSchemeVersion "
    "CodeMeaning ViewModifierCodeSequence"
)
_OF_PATIENT = _numbers("PatientID IssuerOfPatientID PatientName PatientBirthDate PatientSex")
_LONGEST = 10240
"""Characters of the longest text representation among the attributes (LT, PS3.5 6.2)."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."
STORAGE_CLASSES = {
    f"{_STORAGE}1": "CR",
    f"{_STORAGE}1.1": "DX",
    f"{_STORAGE}1.1.1": "DX",
    f"{_STORAGE}1.2": "MG",
    f"{_STORAGE}1.2.1": "MG",
    f"{_STORAGE}13.1.3": "MG",
    f"{_STORAGE}13.1.4": "MG",
    f"{_STORAGE}7": "OT",
    f"{_STORAGE}7.2": "OT",
    f"{_STORAGE}7.3": "OT",
}
"""The storage classes that the reader accepts as mammograms, with their modalities."""


@dataclass(frozen=True)
class SourceImage:
    """One source image: its references, and the attributes that a result copies from it."""

    study: str
    series: str
    instance: str
    sop_class: str
    modality: str
    rows: int
    columns: int
    sha256: str
    kept: Dataset
    """The attributes of `KEPT`, `OF_PIXELS` and `OF_LIBRARY` that the file has, undecoded."""
    pixel_spacing: tuple[float, float] | None
    """Pixel Spacing (0028,0030) in millimetres: between rows, between columns."""
    imager_spacing: tuple[float, float] | None
    """Imager Pixel Spacing (0018,1164) in millimetres, at the detector: between rows, between columns."""
    burned_in: str
    """Burned In Annotation (0028,0301), whether the pixels identify the patient: YES, NO, or empty if not stated."""
    lossy: bool
    """Whether the file states that its pixels were ever compressed with loss."""

    @property
    def zone(self) -> timezone | None:
        """The time zone of the source, Timezone Offset From UTC (0008,0201); `None` if not stated."""
        element = self.kept.get_item(TIMEZONE) if TIMEZONE in self.kept else None
        stated = re.fullmatch(rb"([+-])(\d\d)([0-5]\d) *\0*", bytes(element.value or b"") if element else b"")
        if stated is None:
            return None
        offset = timedelta(hours=int(stated[2]), minutes=int(stated[3])) * (-1 if stated[1] == b"-" else 1)
        # The allowed range is -1200 to +1400 (PS3.5 6.2, DT).
        return timezone(offset) if timedelta(hours=-12) <= offset <= timedelta(hours=14) else None

    def text(self, tag: int) -> str:
        """Return a copied attribute as text without padding; empty if the file lacks it."""
        element = self.kept.get_item(tag) if tag in self.kept else None
        return bytes(element.value or b"").decode("ascii", "replace").strip(" \0") if element is not None else ""

    @property
    def view_codes(self) -> list[tuple[str, str]]:
        """The view codes (0054,0220) as pairs of value and scheme."""
        return _codes(self.kept, _VIEW)

    @property
    def view_modifiers(self) -> list[tuple[str, str]]:
        """The view modifier codes (0054,0222) as pairs of value and scheme."""
        views = self.kept[_VIEW].value if _VIEW in self.kept else []
        return [pair for view in views for pair in _codes(view, _MODIFIERS)]

    def evidence(self) -> Dataset:
        """Return the references to the image that highdicom needs, without identity."""
        dataset = Dataset()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = self.study, self.series
        dataset.SOPInstanceUID, dataset.SOPClassUID = self.instance, self.sop_class
        dataset.PatientID = dataset.PatientName = dataset.PatientBirthDate = dataset.PatientSex = None
        dataset.AccessionNumber = dataset.StudyID = dataset.StudyDate = dataset.StudyTime = None
        return dataset

    def give(self, result: Dataset, tags: Iterable[int]) -> None:
        """Copy attributes of the source into a result, replacing the result's own values."""
        for tag in tags:
            if tag in self.kept and (tag != TIMEZONE or self.zone is not None):
                result[tag] = self.kept.get_item(tag)


def read_source(data: bytes, *, limits: Limits = DEFAULT_CONFIG.limits) -> SourceImage:
    """Return the source for the bytes of a DICOM file.

    Raises:
        NoSourceIdentityError: The data is not a DICOM file, or lacks a UID.
        RequestError: The DICOM parser refuses the file.
    """
    if not is_dicom(data):
        raise NoSourceIdentityError("no_source_identity", "<bytes>: a DICOM result needs a DICOM file as its source")
    wanted = {*Tag, *KEPT, *OF_PIXELS, *OF_LIBRARY, *_IN_ITEMS, STUDY, SERIES, INSTANCE}
    try:
        return _source(parse(data, where="<bytes>", limits=limits, tags=wanted), hashlib.sha256(data).hexdigest())
    except ImageError as error:
        raise from_image_error(error) from None


def read_sources(files: Sequence[bytes], *, limits: Limits = DEFAULT_CONFIG.limits) -> list[SourceImage]:
    """Return the sources of one exam. For an exam, the detail of an error holds the index of the image.

    Raises:
        RequestError: The files are not one patient's, one study's, or hold an instance twice; the rule and the errors
            are those of every exam (`payload.identity.check_exam`).
        NoSourceIdentityError: As for `read_source`.
    """
    sources: list[SourceImage] = []
    for index, data in enumerate(files):
        try:
            sources.append(read_source(data, limits=limits))
        except RequestError as error:
            raise (error.at(index) if len(files) > 1 else error) from None
    # After the files alone, so that a file without identity is named by its own error.
    check_exam([ReceivedImage(data, index=index) for index, data in enumerate(files)], limits)
    return sources


def identity_of(sources: Sequence[SourceImage]) -> SourceImage:
    """Return the source whose identity a result of all sources copies: the first that states most about the patient.

    The sources contradict each other nowhere (`read_sources`), but a file may lack what another one states.
    """
    return max(sources, key=lambda source: sum(bool(_comparable(source.kept, tag)) for tag in _OF_PATIENT))


def _source(file: DicomFile, digest: str) -> SourceImage:
    tags = file.tags
    sop_class = _uid(tags, SOP_CLASS, file.sop_class)
    if sop_class not in STORAGE_CLASSES:
        raise _missing(tags, SOP_CLASS, "is not the storage class of a 2-D mammogram")
    return SourceImage(
        study=_uid(tags, STUDY),
        series=_uid(tags, SERIES),
        instance=_uid(tags, INSTANCE, file.sop_instance),
        sop_class=sop_class,
        modality=tags.text(Tag.MODALITY) or STORAGE_CLASSES[sop_class],
        rows=tags.integer(Tag.ROWS),
        columns=tags.integer(Tag.COLUMNS),
        sha256=digest,
        kept=_undecoded(tags, (*KEPT, *OF_PIXELS, *OF_LIBRARY)),
        pixel_spacing=_spacing(tags, Tag.PIXEL_SPACING),
        imager_spacing=_spacing(tags, Tag.IMAGER_PIXEL_SPACING),
        burned_in=_yes_or_no(tags.text(Tag.BURNED_IN_ANNOTATION)),
        lossy=file.syntax.lossy or tags.text(Tag.LOSSY_IMAGE_COMPRESSION) == "01",
    )


def _spacing(tags: Tags, tag: Tag) -> tuple[float, float] | None:
    stated = tags.numbers(tag)
    return (stated[0], stated[1]) if len(stated) == 2 and min(stated) > 0 else None


def _codes(holder: Dataset, sequence: int) -> list[tuple[str, str]]:
    """Return the codes of a sequence as pairs of value and scheme; a code without either is left out."""
    items = holder[sequence].value if sequence in holder else []
    found = [tuple(_comparable(item, tag).decode("ascii", "replace") for tag in (_VALUE, _SCHEME)) for item in items]
    return [(value, scheme) for value, scheme in found if value and scheme]


def _yes_or_no(text: str) -> str:
    return text if text in ("YES", "NO") else ""


def _uid(tags: Tags, tag: int, in_meta: str = "") -> str:
    """Return a UID of the data set, or of the file meta information if the data set lacks it."""
    uid = tags.text(tag) or in_meta
    if not uid:
        raise _missing(tags, tag, "is missing")
    if not re.fullmatch(r"[0-9.]{1,64}", uid):
        raise _missing(tags, tag, "is not a UID")
    return uid


def _missing(tags: Tags, tag: int, rule: str) -> NoSourceIdentityError:
    return NoSourceIdentityError("no_source_identity", f"{tags.where}: {label(tag)} {rule}")


def _undecoded(tags: Tags, wanted: Sequence[int]) -> Dataset:
    """Return those of the wanted attributes that the file has, as raw bytes padded to even length."""
    dataset = Dataset()
    for tag in wanted:
        vr = dictionary_VR(tag)
        if vr == "SQ":
            items = [_undecoded(item, _IN_ITEMS) for item in tags.items(tag)]
            if items:
                dataset.add_new(tag, vr, items)
        elif tags.has(tag):
            value = tags.data(tag)
            if len(value) > _LONGEST:
                raise _missing(tags, tag, f"has {len(value)} bytes, more than any text of its kind")
            # Values have even length; UIDs are padded with a null byte, texts with a space (PS3.5 6.2).
            value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
            dataset[tag] = RawDataElement(NumberedTag(tag), vr, len(value), value, 0, False, True)
    return dataset


def _comparable(kept: Dataset, tag: int) -> bytes:
    """Return a value for comparison, without padding and without empty components of a name (PS3.5 6.2.1)."""
    element = kept.get_item(tag) if tag in kept else None
    return bytes(element.value or b"").strip(b" \0^=") if element is not None else b""
