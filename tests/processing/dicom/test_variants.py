"""Unusual forms of the same content: numbers as text, codes in other attributes, other fragments and padding."""

import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import View
from mammopipe.processing.images.mammogram import (
    CorruptImageError,
    NotAMammogramError,
    UnsupportedImageError,
    read_mammogram,
)
from tests.processing.conftest import ENCODERS

MakeDicom = Callable[..., bytes]
MakeItem = Callable[..., Any]
CELLS = (np.add.outer(np.arange(64), np.arange(48)) * 36).astype(np.uint16)
WINDOW = {"WindowCenter": "2048", "WindowWidth": "4096"}
SYNTAX = "1.2.840.10008.1.2."
LOSSLESS = [SYNTAX + suffix for suffix in ("5", "4.57", "4.70", "4.80", "4.90", "4.201")]
END = b"\xfe\xff\xdd\xe0\0\0\0\0"

SAME: list[dict[str, Any]] = [
    *({"WindowCenter": (vr, "2048"), "WindowWidth": (vr, "4096")} for vr in ("LO", "SH", "LT", "UT", "IS", "CS")),
    {"WindowCenter": ("UN", b"2048"), "WindowWidth": ("UN", b"4096")},
    *({"WindowCenter": (vr, 2048), "WindowWidth": (vr, 4096)} for vr in ("US", "SL", "UL", "FL", "FD", "UV", "SV")),
    *({"WindowWidth": ("LO", text)} for text in (
        "4096.0", "4.096e3", "4.096E+03", "+4096", " 4096", "4096\0", "0004096", "4096.", "4096\\",
    )),
    {"WindowCenter": ("LO", "2048\\"), "WindowWidth": ("LO", "4096\\")},
    {"VOILUTFunction": ("CS", " linear ")},
    {"Rows": ("UL", 64), "Columns": ("IS", "48")},
    {"NumberOfFrames": ("US", 1)},
    {"NumberOfFrames": ("LO", " 1 ")},
    {"EstimatedRadiographicMagnificationFactor": ("LO", "  ")},
    {"PatientOrientation": ("CS", ["MLO"])},
    {"ViewPosition": ("UN", b"MLO ")},
    {"SpecificCharacterSet": "ISO_IR 192", "SeriesDescription": ("LO", "\u00dc\u8868")},
]  # fmt: skip


@pytest.mark.parametrize("values", SAME, ids=str)
def test_a_value_in_another_form_is_the_same_value(make_dicom: MakeDicom, values: dict[str, Any]) -> None:
    expected = read_mammogram(make_dicom(CELLS, bits=12, **WINDOW)).pixels
    assert np.array_equal(read_mammogram(make_dicom(CELLS, bits=12, **{**WINDOW, **values})).pixels, expected)


@pytest.mark.parametrize(
    "text", ["4,096", "4_096", "0x1000", "4096d0", "1e400", "nan", "Infinity", "four", "4096 4096", "-4096", "0"]
)
def test_text_that_is_no_decimal_string_is_refused(make_dicom: MakeDicom, text: str) -> None:
    with pytest.raises(CorruptImageError, match="WindowWidth"):
        read_mammogram(make_dicom(CELLS, bits=12, WindowCenter="2048", WindowWidth=("LO", text)))


UNSUPPORTED = {
    "4.52": "JPEG Extended", "4.66": "JPEG Lossless", "4.92": "JPEG 2000 Part 2", "4.94": "JPIP", "4.100": "MPEG2",
    "4.102": "MPEG-4", "4.107": "HEVC", "4.110": "JPEG XL Lossless", "4.112": "JPEG XL", "4.204": "JPIP HTJ2K",
    "6.2": "XML", "7.1": "SMPTE", "8.1": "Deflated Image Frame Compression",
}  # fmt: skip


@pytest.mark.parametrize("suffix", UNSUPPORTED)
def test_other_transfer_syntaxes_are_refused_by_name(make_dicom: MakeDicom, suffix: str) -> None:
    with pytest.raises(UnsupportedImageError, match=rf"'{SYNTAX}{suffix}' \(.*{UNSUPPORTED[suffix]}"):
        read_mammogram(make_dicom(CELLS, bits=12, syntax=SYNTAX + suffix))


def test_each_fragment_of_encapsulated_pixels_is_a_frame(make_dicom: MakeDicom) -> None:
    frame = CELLS.tobytes()
    data = make_dicom(CELLS, bits=12, syntax=SYNTAX + "1.98", pixel_data=fragments(frame, frame))
    with pytest.raises(NotAMammogramError, match="2 fragments .* start a frame"):
        read_mammogram(data)
    with pytest.raises(CorruptImageError, match="has 6000 bytes"):
        read_mammogram(make_dicom(CELLS, bits=12, syntax=SYNTAX + "1.98", pixel_data=fragments(frame[:6000])))


@pytest.mark.parametrize("allocated", [8, 16])
@pytest.mark.parametrize("bits", [6, 7])
@pytest.mark.parametrize("syntax", ["1", "5", "4.80", "4.90"])
def test_six_and_seven_bits_are_full_scale(make_dicom: MakeDicom, allocated: int, bits: int, syntax: str) -> None:
    cells = (CELLS % (1 << bits)).astype(f"u{allocated // 8}")
    pixels = read_mammogram(make_dicom(cells, bits=bits, syntax=SYNTAX + syntax)).pixels
    assert np.array_equal(pixels, np.floor(cells / (2**bits - 1) * 65535 + 0.5))


def test_fewer_than_six_bits_are_refused(make_dicom: MakeDicom) -> None:
    with pytest.raises(CorruptImageError, match="BitsStored .* is 5; it must be between 6 and the 16 bits"):
        read_mammogram(make_dicom(CELLS % 32, bits=5))


def with_element(data: bytes, inserted: bytes) -> bytes:
    """Return the file with the bytes of an element before Samples per Pixel."""
    place = data.index(b"\x28\x00\x02\x00")
    return data[:place] + inserted + data[place:]


@pytest.mark.parametrize(
    "inserted",
    [
        b"\x19\x00\x05\x10ZZ\0\0\x06\0\0\0abcdef",
        b"\x19\x00\x10\x00LO\x04\x00ACME\x19\x00\x01\x10OB\0\0\x04\0\0\0\xff\xff\xff\xff",
        b"\x19\x00\x02\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff\xfe\xff\x0d\xe0\0\0\0\0" + END,
        b"\x19\x00\x03\x10UN\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\x0c\0\0\0\x19\x00\x04\x10\x04\0\0\0ABCD" + END,
    ],
    ids=["unknown representation", "private value", "private sequence", "unknown sequence"],
)
def test_private_elements_are_passed_over(make_dicom: MakeDicom, inserted: bytes) -> None:
    data = make_dicom(CELLS, bits=12)
    assert np.array_equal(read_mammogram(with_element(data, inserted)).pixels, read_mammogram(data).pixels)


def test_an_attribute_that_occurs_twice_must_be_the_same(make_dicom: MakeDicom) -> None:
    left, right = (b"\x20\x00\x62\x00CS\x02\x00" + side for side in (b"L ", b"R "))
    data = make_dicom(CELLS, bits=12)
    assert read_mammogram(with_element(data, left + left)).laterality == "L"
    with pytest.raises(CorruptImageError, match=r"\(0020,0062\) occurs twice in a data set, with different values"):
        read_mammogram(with_element(data, left + right))


def test_groups_of_several_frames_are_refused(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    frames = [make_item(FrameAnatomySequence=[make_item(FrameLaterality=side)]) for side in "LR"]
    with pytest.raises(NotAMammogramError, match="PerFrameFunctionalGroupsSequence .* describes 2 frames"):
        read_mammogram(make_dicom(CELLS, bits=12, PerFrameFunctionalGroupsSequence=frames))


@pytest.mark.parametrize("orientation", ["AP\\F", "AA\\F", "A\\FH", "A\\RL", "A\\FRR", "AF\\HH", "LE\\V", "A\\F\\R"])
def test_directions_with_two_letters_of_one_axis_are_ignored(make_dicom: MakeDicom, orientation: str) -> None:
    image = read_mammogram(make_dicom(CELLS, bits=12, ImageLaterality="L", PatientOrientation=("LO", orientation)))
    assert "attribute-ignored" in image.flags and "turned" not in image.flags


def concept(make_item: MakeItem, form: str, value: str, **values: Any) -> Any:
    """Return a coded concept whose code stands in one of the three attributes for codes (PS3.3 8.1 to 8.3)."""
    code = {"CodeValue": value, "LongCodeValue": value, "URNCodeValue": f"http://snomed.info/id/{value}"}[form]
    return make_item(**{form: code}, CodingSchemeDesignator="SCT", CodeMeaning="none", **values)


@pytest.mark.parametrize("form", ["CodeValue", "LongCodeValue", "URNCodeValue"])
def test_codes_count_in_every_attribute_that_can_hold_them(
    make_dicom: MakeDicom, make_item: MakeItem, form: str
) -> None:
    def read(view: str, *modifiers: str, **values: Any) -> Any:
        inner = [concept(make_item, form, each) for each in modifiers]
        item = concept(make_item, form, view, ViewModifierCodeSequence=inner)
        return read_mammogram(make_dicom(CELLS, bits=12, ViewCodeSequence=[item], **values))

    assert read("399162004").view is View.CC and read("399368009", "399226006").view is View.MLO
    assert "implant-displaced" in read("399162004", "399226006", "399209000").flags
    assert read("399368009", "399011000").view is View.AT
    for modifier in ("399163009", "399055006", "399110001", "399161006", "442580003", "442593008"):
        with pytest.raises(NotAMammogramError, match="ViewModifierCodeSequence"):
            read("399162004", "399226006", modifier)
    left = concept(make_item, form, "76752008", AnatomicRegionModifierSequence=[concept(make_item, form, "7771000")])
    image = read_mammogram(make_dicom(CELLS, bits=12, AnatomicRegionSequence=[left]))
    assert (image.laterality, image.facts["laterality_source"]) == ("L", "AnatomicRegionSequence (0008,2218)")
    for sequence in ("AnatomicRegionSequence", "PrimaryAnatomicStructureSequence"):
        with pytest.raises(NotAMammogramError, match=f"{sequence} .* has the code '85562004': not a breast"):
            read_mammogram(make_dicom(CELLS, bits=12, **{sequence: [concept(make_item, form, "85562004")]}))


def test_two_codes_that_contradict_each_other_are_refused(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    views = [make_item(CodeValue=code) for code in ("399162004", "399368009")]
    with pytest.raises(CorruptImageError, match="names the views CC and MLO"):
        read_mammogram(make_dicom(CELLS, bits=12, ViewCodeSequence=views))
    with pytest.raises(CorruptImageError, match="ImageLaterality .* has 2 values"):
        read_mammogram(make_dicom(CELLS, bits=12, ImageLaterality=("CS", ["L", "R"])))
    assert read_mammogram(make_dicom(CELLS, bits=12, ImageLaterality=("CS", ["L", "L"]))).laterality == "L"


@pytest.mark.parametrize(
    ("meaning", "flag"), [("Implant displaced", "implant-displaced"), ("Eklund view", "implant-displaced")]
)
def test_meanings_of_other_schemes_count(make_dicom: MakeDicom, make_item: MakeItem, meaning: str, flag: str) -> None:
    modifier = make_item(CodeValue="L1", CodingSchemeDesignator="99X", CodeMeaning=meaning)
    view = make_item(CodeValue="399162004", ViewModifierCodeSequence=[modifier])
    assert flag in read_mammogram(make_dicom(CELLS, bits=12, ViewCodeSequence=[view])).flags


@pytest.mark.parametrize("meaning", ["Mag view", "Coned down", "Spot"])
def test_meanings_of_other_schemes_refuse(make_dicom: MakeDicom, make_item: MakeItem, meaning: str) -> None:
    modifier = make_item(CodeValue="L1", CodingSchemeDesignator="99X", CodeMeaning=meaning)
    with pytest.raises(NotAMammogramError, match="ViewModifierCodeSequence"):
        read_mammogram(make_dicom(CELLS, bits=12, ViewModifierCodeSequence=[modifier]))


def test_only_views_of_the_breast_make_a_radiograph_a_mammogram(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    frontal = make_item(CodeValue="399348003", CodeMeaning="antero-posterior")
    with pytest.raises(NotAMammogramError, match="Modality .* is 'DX'"):
        read_mammogram(make_dicom(CELLS, bits=12, Modality="DX", ViewCodeSequence=[frontal]))
    oblique = make_item(CodeValue="399368009", CodeMeaning="medio-lateral oblique")
    assert read_mammogram(make_dicom(CELLS, bits=12, Modality="DX", ViewCodeSequence=[oblique])).view is View.MLO
    partial = [make_item(CodeValue="1", CodeMeaning="Superior")]
    assert "partial-view" in read_mammogram(make_dicom(CELLS, bits=12, PartialViewCodeSequence=partial)).flags
    described = {"PartialViewDescription": "medial part"}
    assert "partial-view" in read_mammogram(make_dicom(CELLS, bits=12, **described)).flags
    assert "partial-view" not in read_mammogram(make_dicom(CELLS, bits=12, PartialView="NO", **described)).flags


def test_frame_type_counts_as_image_type(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    def read(*kinds: str) -> Any:
        frame_type = [make_item(FrameType=["DERIVED", "PRIMARY", *kinds])]
        groups = [make_item(XRay3DFrameTypeSequence=frame_type)]
        return read_mammogram(make_dicom(CELLS, bits=12, SharedFunctionalGroupsSequence=groups))

    assert "synthetic-2d" in read("TOMOSYNTHESIS", "GENERATED_2D").flags
    with pytest.raises(NotAMammogramError, match=r"FrameType \(0008,9007\) is .* a tomosynthesis image"):
        read("TOMOSYNTHESIS", "NONE")


def fragments(*pieces: bytes, table: bytes = b"", end: bytes = END) -> bytes:
    items = (table, *(piece + b"\0" * (len(piece) % 2) for piece in pieces))
    return b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(each)) + each for each in items) + end


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_fragments_padding_and_ends_of_every_kind(make_dicom: MakeDicom, syntax: str) -> None:
    stream = ENCODERS[syntax](CELLS, 12)
    expected = read_mammogram(make_dicom(CELLS, bits=12)).pixels
    even = stream + b"\0" * (len(stream) % 2)
    middle = len(stream) // 4 * 2
    for data in (
        fragments(stream),
        fragments(stream, table=b"\0\0\0\0"),
        fragments(stream[:middle], stream[middle:], table=b"\0\0\0\0"),
        fragments(stream, b""),
        fragments(stream, end=b""),
        fragments(even + b"\0" * 300),
        fragments(stream) + b"\xfc\xff\xfc\xffOB\0\0\x10\0\0\0" + b"\0" * 16,
    ):
        assert np.array_equal(
            read_mammogram(make_dicom(CELLS, bits=12, syntax=syntax, pixel_data=data)).pixels, expected
        )
    for data, error in (
        (fragments(stream[: len(stream) * 6 // 10]), CorruptImageError),
        (fragments(CELLS.tobytes()), CorruptImageError),
        (fragments(stream, stream), (NotAMammogramError, CorruptImageError)),
        (fragments(even + even), (NotAMammogramError, CorruptImageError)),
        (b"\xfe\xff\x00\xe0" + struct.pack("<I", len(even)) + even + END, CorruptImageError),
    ):
        with pytest.raises(error):
            read_mammogram(make_dicom(CELLS, bits=12, syntax=syntax, pixel_data=data))


def test_a_codestream_that_shows_its_loss_is_lossy(make_dicom: MakeDicom) -> None:
    def flags(syntax: str, stream: Any) -> tuple[str, ...]:
        data = fragments(bytes(stream))
        image = read_mammogram(make_dicom(CELLS, bits=12, syntax=SYNTAX + syntax, pixel_data=data))
        assert image.facts["lossy"] == ("lossy" in image.flags)
        return image.flags

    options: dict[str, Any] = {"codecformat": "j2k", "bitspersample": 12}
    assert "lossy" in flags("4.91", imagecodecs.jpeg2k_encode(CELLS, level=60, reversible=False, **options))
    assert "lossy" not in flags("4.91", imagecodecs.jpeg2k_encode(CELLS, level=0, reversible=True, **options))
    assert "lossy" in flags("4.80", imagecodecs.jpegls_encode(CELLS, level=3))
    assert "lossy" not in flags("4.80", imagecodecs.jpegls_encode(CELLS))
