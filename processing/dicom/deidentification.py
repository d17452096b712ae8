"""Which attributes that identify a person are filled in a DICOM file: their names, never their values.

The list is the direct identifiers among the attributes that the Basic Application Level Confidentiality Profile removes
(PS3.15 table E.1-1): persons, their numbers, addresses and dates of birth, and the institution. Not in it are the
profile's dates of examination, instance UIDs and device descriptions, which every usable collection keeps in some form.
"""

from pydicom.datadict import keyword_for_tag

from mammopipe.processing.dicom.attributes import Tag
from mammopipe.processing.dicom.file import parse
from mammopipe.processing.read_config import DEFAULT_CONFIG, ReadConfig

PATIENT_ID = 0x00100020
IDENTIFYING = (
    0x00080050,
    0x00080080,
    0x00080081,
    0x00080090,
    0x00080092,
    0x00080094,
    0x00080096,
    0x00081048,
    0x00081049,
    0x00081050,
    0x00081060,
    0x00081062,
    0x00081070,
    0x00100010,
    0x00100021,
    0x00100030,
    0x00100032,
    0x00100050,
    0x00101000,
    0x00101001,
    0x00101002,
    0x00101005,
    0x00101040,
    0x00101050,
    0x00101060,
    0x00101080,
    0x00101081,
    0x00101090,
    0x00102150,
    0x00102152,
    0x00102154,
    0x00102155,
    0x001021B0,
    0x00102297,
    0x00102299,
    0x00104000,
    0x00200010,
    0x00321032,
    0x00380010,
    0x00380300,
    0x00380400,
    0x00400006,
    0x00400253,
    0x00402016,
    0x00402017,
    0x0040A123,
)


def identity_fields(
    data: bytes, *, where: str, patient_id: bool = False, config: ReadConfig = DEFAULT_CONFIG
) -> tuple[str, ...]:
    """Return the keywords of the filled identifying attributes, in tag order; () when there is none.

    `BurnedInAnnotation` is among them where it is YES: then the pixels may show what the attributes do not.
    `PatientID` is reported only when asked for: collections keep a pseudonym there. Raises as reading the file does.
    """
    wanted = IDENTIFYING + ((PATIENT_ID,) if patient_id else ())
    tags = parse(data, where=where, limits=config.limits, tags=(*wanted, Tag.BURNED_IN_ANNOTATION)).tags
    names = [keyword_for_tag(tag) for tag in sorted(wanted) if tags.has(tag)]
    if tags.text(Tag.BURNED_IN_ANNOTATION) == "YES":
        names.append(keyword_for_tag(Tag.BURNED_IN_ANNOTATION))
    return tuple(names)
