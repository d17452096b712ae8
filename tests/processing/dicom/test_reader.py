"""Which DICOM files are refused, and which facts the reader returns besides the pixels."""

import threading
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.images.mammogram import (
    CorruptImageError,
    ImageTooLargeError,
    Limits,
    Mammogram,
    NotAMammogramError,
    ReadConfig,
    UnsupportedImageError,
    read_mammogram,
)

CELLS = np.arange(48, dtype=np.uint16).reshape(6, 8)
STORAGE = "1.2.840.10008.5.1.4.1.1."
MakeDicom = Callable[..., bytes]
MakeItem = Callable[..., Any]


def read(make_dicom: MakeDicom, **values: Any) -> Mammogram:
    return read_mammogram(make_dicom(CELLS, bits=12, **values))


def coded(make_item: MakeItem, code: str, *modifiers: str) -> dict[str, Any]:
    """Return a View Code Sequence with its modifiers."""
    inner = [make_item(CodeValue=each, CodingSchemeDesignator="SCT") for each in modifiers]
    return {
        "ViewCodeSequence": [make_item(CodeValue=code, CodingSchemeDesignator="SCT", ViewModifierCodeSequence=inner)]
    }


# ---- not a mammogram ----


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Modality": "CT"}, r"Modality \(0008,0060\) is 'CT': a mammogram is MG"),
        ({"SOPClassUID": STORAGE + "13.1.3"}, r"SOPClassUID \(0008,0016\) is Breast Tomosynthesis Image Storage:"),
        ({"SOPClassUID": STORAGE + "2"}, "CT Image Storage"),
        ({"NumberOfFrames": "60"}, r"NumberOfFrames \(0028,0008\) is 60; a mammogram is one frame"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "PhotometricInterpretation .* is 'RGB'"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "MONOCHROME1 or MONOCHROME2"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "TOMO_PROJ", "LEFT"]}, r"ImageType .* a tomosynthesis image"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "STEREO_SCOUT"]}, "a biopsy"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "POSTFIRE_PLUS"]}, "a biopsy"),
        ({"ImageType": ["DERIVED", "PRIMARY", "", "SUBTRACTION"]}, "contrast-enhanced"),
        ({"EstimatedRadiographicMagnificationFactor": "1.8"}, r"\(0018,1114\) is 1.8: a magnification view"),
        ({"PaddleDescription": "10CM SPOT CONTACT"}, r"PaddleDescription \(0018,11A4\) is '10CM SPOT CONTACT'"),
        ({"ContainerIdentifier": "A12"}, r"ContainerIdentifier \(0040,0512\) is present: a specimen"),
        ({"ViewPosition": "SPECIMEN"}, r"ViewPosition .* a specimen"),
        ({"ImageLaterality": "B"}, r"ImageLaterality \(0020,0062\) is 'B': both breasts"),
        ({"QualityControlImage": "YES"}, "phantom"),
    ],
)
def test_what_is_not_a_mammogram_is_refused_by_its_tag(
    make_dicom: MakeDicom, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(NotAMammogramError, match=message) as caught:
        read(make_dicom, **values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sequence", ["BiopsyTargetSequence", "SpecimenDescriptionSequence", "InterventionSequence"])
def test_sequences_of_biopsy_and_specimen(make_dicom: MakeDicom, make_item: MakeItem, sequence: str) -> None:
    with pytest.raises(NotAMammogramError, match=rf"{sequence} \(00"):
        read(make_dicom, **{sequence: [make_item(CodeValue="1")]})
    read(make_dicom, **{sequence: []})


@pytest.mark.parametrize("modifier", ["399163009", "R-102D6", "399055006", "R-102D7", "399161006", "R-102D2"])
def test_magnification_spot_and_cleavage_modifiers(make_dicom: MakeDicom, make_item: MakeItem, modifier: str) -> None:
    with pytest.raises(NotAMammogramError, match=rf"ViewModifierCodeSequence \(0054,0222\) has the code '{modifier}'"):
        read(make_dicom, **coded(make_item, "399162004", modifier))


def test_what_collections_strip_is_not_needed_and_what_mammograms_have_is_accepted(make_dicom: MakeDicom) -> None:
    assert read(make_dicom).view is None
    image = read(
        make_dicom,
        Modality="MG",
        SOPClassUID=STORAGE + "1.2",
        NumberOfFrames="1",
        ImageType=["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "GENERATED_2D"],
        EstimatedRadiographicMagnificationFactor="1.07",
        PaddleDescription="24X29 CONTACT",
    )
    assert image.facts["synthetic_2d"] is True and image.facts["modality"] == "MG"


# ---- sizes ----


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"])
def test_a_huge_announcement_allocates_nothing(make_dicom: MakeDicom, syntax: str) -> None:
    data = make_dicom(CELLS, syntax=syntax, Rows=65535, Columns=65535)
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooLargeError, match="65535 x 65535"):
            read_mammogram(data)
        wide = ReadConfig(limits=Limits(max_pixels=2**33, max_side=65535))
        with pytest.raises(CorruptImageError):
            read_mammogram(data, config=wide)
        # RLE states no size of its own, so its pixels are allocated once the configured limits allow them.
        assert syntax.endswith(".5") or tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_a_huge_announcement_inside_the_codestream_is_refused_too(make_dicom: MakeDicom) -> None:
    data = make_dicom(CELLS, syntax="1.2.840.10008.1.2.4.90", bits=12)
    small = (8).to_bytes(4, "big") + (6).to_bytes(4, "big")
    assert data.count(small) == 2  # image size and tile size in SIZ
    huge = (65535).to_bytes(4, "big") * 2
    with pytest.raises(CorruptImageError, match="holds an image of 65535 x 65535"):
        read_mammogram(data.replace(small, huge))


@pytest.mark.parametrize("values", [{"Rows": 0}, {"Columns": 0}])
def test_an_image_without_pixels(make_dicom: MakeDicom, values: dict[str, int]) -> None:
    with pytest.raises(CorruptImageError, match="both must be at least 1"):
        read(make_dicom, **values)


def test_pixel_data_shorter_than_announced(make_dicom: MakeDicom) -> None:
    with pytest.raises(CorruptImageError, match=r"\(7FE0,0010\) has 96 bytes; 7 x 8 pixels of 16 bits need 112"):
        read(make_dicom, Rows=7)
    with pytest.raises(CorruptImageError, match="has 95 bytes"):
        read_mammogram(make_dicom(CELLS)[:-1])
    with pytest.raises(CorruptImageError, match="no Pixel Data"):
        read(make_dicom, leave_out=("PixelData",))


@pytest.mark.parametrize("keyword", ["SamplesPerPixel", "Rows", "BitsAllocated", "BitsStored", "PixelRepresentation"])
def test_missing_attributes_are_named(make_dicom: MakeDicom, keyword: str) -> None:
    with pytest.raises(CorruptImageError, match=rf"{keyword} \(0028,.*\) is missing"):
        read(make_dicom, leave_out=(keyword,))


def test_unknown_transfer_syntaxes_are_named(make_dicom: MakeDicom) -> None:
    data = make_dicom(CELLS).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0")
    with pytest.raises(UnsupportedImageError, match=r"TransferSyntaxUID \(0002,0010\) is '1.2.840.10008.1.2.9'"):
        read_mammogram(data)


# ---- side, view, spacing ----


def test_side_from_either_attribute_and_not_from_both_when_they_differ(make_dicom: MakeDicom) -> None:
    assert read(make_dicom, ImageLaterality="L").laterality is Laterality.LEFT
    series = read(make_dicom, Laterality="R", ImageLaterality="U")
    assert series.laterality is Laterality.RIGHT
    assert series.facts["laterality_source"] == "Laterality (0020,0060)"
    with pytest.raises(CorruptImageError, match=r"ImageLaterality \(0020,0062\) is L but Laterality \(0020,.* is R"):
        read(make_dicom, ImageLaterality="L", Laterality="R")
    with pytest.raises(CorruptImageError, match="'X'; it must be L, R, or empty"):
        read(make_dicom, ImageLaterality="X")


@pytest.mark.parametrize(
    ("code", "view"),
    [
        ("399162004", View.CC),
        ("R-10242", View.CC),
        ("399368009", View.MLO),
        ("R-10226", View.MLO),
        ("399260004", View.ML),
        ("399352003", View.LM),
        ("399099002", View.LMO),
    ],
)
def test_view_from_its_code(make_dicom: MakeDicom, make_item: MakeItem, code: str, view: View) -> None:
    image = read(make_dicom, **coded(make_item, code))
    assert image.view is view and image.facts["view_source"] == "ViewCodeSequence (0054,0220)"


def test_view_from_position_and_its_conflicts(make_dicom: MakeDicom, make_item: MakeItem) -> None:
    assert read(make_dicom, ViewPosition="MLO", **coded(make_item, "399368009")).view is View.MLO
    assert read(make_dicom, ViewPosition="MLO", **coded(make_item, "399368009", "399011000")).view is View.AT
    with pytest.raises(CorruptImageError, match=r"ViewPosition \(0018,5101\) is CC but ViewCodeSequence .* means MLO"):
        read(make_dicom, ViewPosition="CC", **coded(make_item, "399368009"))
    exaggerated = read(make_dicom, **coded(make_item, "399192008", "399209000"))
    assert exaggerated.view is None and exaggerated.facts["view_reported"] == "XCCL"
    assert exaggerated.facts["implant_displaced"] is True


def test_spacing_and_where_it_comes_from(make_dicom: MakeDicom) -> None:
    detector = read(make_dicom, ImagerPixelSpacing=["0.07", "0.07"])
    assert detector.pixel_spacing_mm == 0.07
    assert detector.facts["spacing_source"] == "ImagerPixelSpacing (0018,1164)"
    both = read(make_dicom, ImagerPixelSpacing=["0.07", "0.07"], PixelSpacing=["0.065", "0.065"])
    assert both.pixel_spacing_mm == 0.065
    with pytest.raises(UnsupportedImageError, match="square pixels"):
        read(make_dicom, PixelSpacing=["0.07", "0.14"])
    with pytest.raises(UnsupportedImageError, match="PixelAspectRatio"):
        read(make_dicom, PixelAspectRatio=["1", "2"])


# ---- facts ----


def test_only_the_allow_list_leaves_the_reader(make_dicom: MakeDicom) -> None:
    secret = "Doe^Jane"
    image = read(
        make_dicom,
        PatientName=secret,
        PatientID=secret,
        PatientBirthDate="19500101",
        StationName=secret,
        InstitutionName=secret,
        SeriesDescription=secret,
        Manufacturer="HOLOGIC, Inc.",
        ManufacturerModelName=secret + " ^ 1",
    )
    assert image.facts["manufacturer"] == "HOLOGIC, Inc." and "model" not in image.facts
    assert "Doe" not in repr(image) and "1950" not in repr(image.facts)


def test_errors_do_not_name_the_patient(make_dicom: MakeDicom) -> None:
    with pytest.raises(CorruptImageError) as caught:
        read(make_dicom, PatientName="Doe^Jane", BitsStored=3)
    assert "Doe" not in str(caught.value)


def test_facts_say_what_was_done(make_dicom: MakeDicom) -> None:
    facts = read(make_dicom, BreastImplantPresent="YES", PartialView="NO", LossyImageCompression="01").facts
    assert {
        "format": "DICOM",
        "transfer_syntax": "Explicit VR Little Endian",
        "implant": True,
        "partial_view": False,
        "lossy": True,
        "bits_stored": 12,
        "photometric": "MONOCHROME2",
    }.items() <= facts.items()


# ---- the container ----


def test_files_without_preamble_and_with_garbage(make_dicom: MakeDicom) -> None:
    data = make_dicom(CELLS)
    assert np.array_equal(read_mammogram(data[132:]).pixels, read_mammogram(data).pixels)
    with pytest.raises(CorruptImageError, match=r"no TransferSyntaxUID \(0002,0010\)"):
        read_mammogram(b"\0" * 128 + b"DICM")


def test_a_deflated_bomb_is_refused_at_the_limit(make_dicom: MakeDicom) -> None:
    data = make_dicom(np.zeros((2000, 2000), np.uint16), syntax="1.2.840.10008.1.2.1.99")
    assert len(data) < 20_000
    with pytest.raises(ImageTooLargeError, match="over the limit of 1000000"):
        read_mammogram(data, config=ReadConfig(limits=Limits(max_bytes=1_000_000)))
    with pytest.raises(CorruptImageError, match="deflated data set"):
        read_mammogram(data[:-20])


def test_malformed_text_causes_no_warning(make_dicom: MakeDicom) -> None:
    data = make_dicom(
        CELLS,
        SpecificCharacterSet="ISO_IR 100",
        Manufacturer="x" * 90,
        WindowCenter=("LO", "1 "),
        WindowWidth=("LO", "1.0000000000000000000000001"),
        syntax="1.2.840.10008.1.2",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_mammogram(data.replace(b"ISO_IR 100", b"ISO_IR 900")).facts["window_width"] == 1


def test_threads_read_the_same_values(make_dicom: MakeDicom) -> None:
    data, results = make_dicom(CELLS, ImageLaterality="L"), []
    threads = [threading.Thread(target=lambda: results.append(read_mammogram(data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 and all(np.array_equal(each.pixels, results[0].pixels) for each in results)
