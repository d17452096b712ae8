"""Which DICOM images are one whole-breast view, and which are refused; every refusal names its attribute."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mammopipe.processing.images.mammogram import Mammogram, NotAMammogramError, read_mammogram

MakeDicom = Callable[..., bytes]
MakeItem = Callable[..., Any]
STORAGE = "1.2.840.10008.5.1.4.1.1."
CELLS = (np.add.outer(np.arange(64), np.arange(48)) * 36).astype(np.uint16)
TOMO = ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "GENERATED_2D"]


def read(make_dicom: MakeDicom, **values: Any) -> Mammogram:
    return read_mammogram(make_dicom(CELLS, bits=12, **{"Modality": "MG", **values}))


REFUSED: list[tuple[str, Any]] = [
    *(("PaddleDescription", text) for text in (
        "SPOT_10CM", "10CM SPOT CONTACT", "9X9 SPOTMAG", "NEEDLE LOC", "BIOPSY 5X5", "MAG1.8", "ROUND_SPOT", "2D_LOC",
        "LOCALISATION", "LOCALIZATION", "FRAMELESS SPOT 7.5CM", "spot 7.5", "STEREO", "QUAD MAG", "PERFORATED", "CONE",
        "SPECIMEN", "ALPHANUMERIC",
    )),
    *(("ViewPosition", text) for text in (
        "SPOT", "MAG", "MCC", "SCC", "CV", "LCV", "TAN", "RMMLO", "MLO MAG", "RCC SPOT", "S", "M", "SPECIMEN", "AXT",
        "STEREO SCOUT", "cleavage", "MSCC", "LMCC", "CCIDM", "CONED CC", "ZOOM", "XCCLM",
    )),
    *(("SeriesDescription", text) for text in (
        "R MCC Magnification", "L CC MAG", "LEFT SPOT COMPRESSION", "Specimen", "ROI mask images", "cropped images",
        "L MLO Tomosynthesis Reconstruction", "TOMO_SLICES", "Flat Field", "CALIBRATION", "Phantom", "R CC RECOMBINED",
        "L CC subtracted", "Screen Save", "RMLO tangential", "STEREO PRE-FIRE", "Iodine image", "MIP", "specimens",
        "Breast Tomosynthesis Image L CC 1mm slices", "R MLO planes of tomo", "L CC CESM SUB", "R MLO CE HE",
        "SmartSlices L CC", "iCAD SecondLook", "CAD overlay", "AI heatmap", "Vergroesserung L CC", "agrandissement CC",
        "RCC HE", "DES L CC", "CEM Doe Jane SUB", "L CC Subtrahiert", "L MLO DBT slice 23", "DBT planes", "Quantra",
        "Volpara Density Map", "Density map L CC", "Volpara Scorecard", "Transpara", "Dose report", "BI-RADS report",
        "VERGROTING R CC", "Amplia\u00e7\u00e3o", "f\u00f6rstoring", "Forst\u00f8rrelse", "Powiekszenie", "MAGN",
        "L CC x1.8", "L CC 1,5X", "Suurennos", "Lupe", "Zielaufnahme", "Kompressionsspot", "Spotaufnahme", "cone-down",
        "Compression localis\u00e9e", "compresion focalizada", "compressione mirata", "centr\u00e9 comprim\u00e9",
        "Pr\u00e4parat", "Praeparat", "Pi\u00e8ce op\u00e9ratoire", "Pezzo operatorio", "Pe\u00e7a cirurgica", "Aguja",
        "Drahtmarkierung", "Rep\u00e9rage", "Harpon", "Arp\u00f3n", "Lokalisation", "Duktographie", "R CC Localization",
    )),
    *(("AcquisitionProtocolName", text) for text in ("SPOT MAG", "L CC recombined", "QC flat field")),
    *(("ImageType", ["DERIVED", "PRIMARY", "", kind]) for kind in (
        "SLICE", "RECOMB", "RECOMBINED", "SUBTRACTION", "HIGH_ENERGY", "ADDITION", "VOLUME", "slab", "DES",
        "CESM_RECOMBINED", "WIDE_SLAB", "BIOPSY", "MAX_IP", "TOMOSYNTHESIS", "DES_SUB", "CE_SUBTRACTED", "IODINE_MAP",
        "PROJECTION", "RECON", "THICK_SLICE", "TEST_PHANTOM", "HEATMAP", "CAD_OVERLAY", "SEGMENTATION", "SPOT", "MAG",
        "SPOT_MAG", "MAGNIFICATION", "SCOUT", "MAG_VIEW", "MAG1.8", "SPOTMAG", "QC_IMAGE", "MASK_IMAGE", "MIP_10MM",
        "DES_1", "DBT", "3D", "HE", "CEM_HE",
    )),
    *(("ImageType", ["DERIVED", "SECONDARY", kind]) for kind in ("SCREEN SAVE", "SCREENSHOT", "SCREEN_CAPTURE")),
    *(("ImageType", ["ORIGINAL", "PRIMARY", kind]) for kind in ("TOMO_PROJ", "TOMO", "STEREO_PLUS", "FLAT_FIELD")),
    *(("BodyPartExamined", part) for part in ("HAND", "CHEST", "FOOT", "SKULL", "ABDOMEN", "AXILLA")),
    *((keyword, "YES") for keyword in ("CalibrationImage", "QualityControlImage", "QualityControlSubject")),
    ("QualityControlImage", "BOTH"),
    ("TomoClass", "TOMOSYNTHESIS"),
    *(("SOPClassUID", STORAGE + suffix) for suffix in ("1.2.1", "1.1.1", "13.1.5", "13.1.3", "2", "7.4", "88.22")),
    ("PresentationIntentType", "FOR PROCESSING"),
    ("PresentationIntentType", "for processing"),
    ("PresentationIntentType", "FOR_PROCESSING"),
    ("PresentationIntentType", "FOR  PROCESSING"),
    ("PresentationIntentType", "RAW"),
    *(("SeriesDescription", text) for text in ("Vergr\u00f6\u00dferung", "F\u00d6RSTORING L CC")),
    *(("Modality", modality) for modality in ("CR", "DX", "CT", "OT", "US", "SR")),
    ("ConversionType", "SD"),
    ("ConversionType", "DRW"),
    ("EstimatedRadiographicMagnificationFactor", "1.4"),
    ("VolumetricProperties", "SAMPLED"),
    ("TomoLayerHeight", "20"),
    ("ImageLaterality", "B"),
]  # fmt: skip


@pytest.mark.parametrize(("keyword", "value"), REFUSED, ids=lambda value: str(value))
def test_images_that_are_no_view_of_a_whole_breast_are_refused_by_attribute(
    make_dicom: MakeDicom, keyword: str, value: Any
) -> None:
    with pytest.raises(NotAMammogramError, match=rf"{keyword} \([0-9A-F]{{4}},[0-9A-F]{{4}}\)") as caught:
        read(make_dicom, **{keyword: value})
    assert "\n" not in str(caught.value)


ACCEPTED: list[dict[str, Any]] = [
    *({"PaddleDescription": text} for text in (
        "24X29 CONTACT", "18X24 FLEX", "10CM CONTACT", "SmartCurve 18x24", "FLEX_24x30", "STANDARD", "SLIDING 18x24",
    )),
    *({"ViewPosition": text} for text in (
        "CC", "MLO", "R CC", "LMLO", "MLOID", "XCCL", "LM", "LMO", "CCRL", "AT", "medio-lateral oblique", "AP", "",
        "Eklund", "CC (ID)", "LATERAL", "UNKNOWN", "CC2", "LAT",
    )),
    *({"SeriesDescription": text} for text in (
        "R CC", "Routine 2D", "L MLO C-View", "S-View", "MAMMOGRAPHY SCREENING", "L CC LOW ENERGY",
        "full mammogram images", "IMAGES", "Left Breast post biopsy", "TOMOSYNTHESIS 2D COMBO",
        "Implant displaced views", "Dual energy", "Spotlight trial", "Magdalena hospital protocol",
        "2D from tomo with 15 projections", "CC and MLO planes", "Screening mammogram with CAD", "CE study subject",
        "Location: Room 2", "Localizer off", "Mammographie des seins", "Image magnetic", "L CC Quantra", "Post clip",
    )),
    {"StudyDescription": "Mammogram with spot magnification"},
    *({"BodyPartExamined": part} for part in ("BREAST", "Left Breast", "LBREAST", "MAMMA", "MAMA", "UNKNOWN", "")),
    *({"SOPClassUID": STORAGE + suffix} for suffix in ("1", "1.1", "1.2", "7", "7.2", "7.3", "13.1.4")),
    *({"Modality": modality, "BodyPartExamined": "BREAST"} for modality in ("CR", "DX", "RG")),
    {"Modality": "DX", "ViewPosition": "MLO"},
    {"Modality": "CR", "AnatomicRegionSequence": [{"CodeValue": "76752008", "CodingSchemeDesignator": "SCT"}]},
    {"SOPClassUID": STORAGE + "13.1.3", "ImageType": TOMO, "NumberOfFrames": "1"},
    {"SOPClassUID": STORAGE + "13.1.4", "NumberOfFrames": "1"},
    {"ImageType": ["ORIGINAL", "PRIMARY", "POST_CONTRAST", "", "LOW_ENERGY"]},
    *({"ImageType": ["DERIVED", "PRIMARY", "", kind]} for kind in (
        "MAGIC", "SUBTLE", "DESPECKLED", "CADENCE", "MASKED_EDGES", "SPOTLESS", "POST_PROCESSED", "LEFT",
    )),
    {"ImageType": TOMO, "TomoLayerHeight": "20", "SliceThickness": "1"},
    {"ImageType": ["ORIGINAL", "PRIMARY"], "SliceThickness": "0"},
    {"EstimatedRadiographicMagnificationFactor": "1.07"},
    {"EstimatedRadiographicMagnificationFactor": "1", "DistanceSourceToDetector": "9", "DistanceSourceToPatient": "4"},
    {"DistanceSourceToDetector": "660", "DistanceSourceToPatient": "637"},
    {"DistanceSourceToDetector": "0", "DistanceSourceToPatient": "0"},
    {"ImagerPixelSpacing": ["0.1", "0.1"], "PixelSpacing": ["0.093", "0.093"]},
    {"ImagerPixelSpacing": ["0.05", "0.05"], "PixelSpacing": ["0.1", "0.1"]},
    {"PrimaryAnatomicStructureSequence": [{"CodeValue": "1", "CodeMeaning": "Skin"}],
     "AnatomicRegionSequence": [{"CodeValue": "76752008"}]},
    {"QualityControlImage": "NO", "CalibrationImage": "NO"},
    {"PresentationIntentType": "FOR PRESENTATION"},
]  # fmt: skip


@pytest.mark.parametrize("values", ACCEPTED, ids=lambda value: str(value)[:60])
def test_valid_2d_mammograms_are_read(make_dicom: MakeDicom, make_item: MakeItem, values: dict[str, Any]) -> None:
    made = {
        key: [make_item(**each) for each in value] if value and isinstance(value[0], dict) else value
        for key, value in values.items()
    }
    assert read(make_dicom, **made).pixels.any()


def test_magnification_from_the_distances_alone(make_dicom: MakeDicom) -> None:
    with pytest.raises(NotAMammogramError, match=r"DistanceSourceToDetector \(0018,1110\) is 1.80 times"):
        read(make_dicom, DistanceSourceToDetector="660", DistanceSourceToPatient="367")
    with pytest.raises(NotAMammogramError, match=r"ImagerPixelSpacing \(0018,1164\) is 1.80 times PixelSpacing"):
        read(make_dicom, ImagerPixelSpacing=["0.09", "0.09"], PixelSpacing=["0.05", "0.05"])


@pytest.mark.parametrize(
    "code", ["399163009", "399055006", "399110001", "399161006", "442580003", "442593008", "R-102C2"]
)
def test_modifiers_count_in_either_sequence(make_dicom: MakeDicom, make_item: MakeItem, code: str) -> None:
    modifier = [make_item(CodeValue=code, CodingSchemeDesignator="SCT")]
    inside = [make_item(CodeValue="399162004", ViewModifierCodeSequence=modifier)]
    for values in ({"ViewCodeSequence": inside}, {"ViewModifierCodeSequence": modifier}):
        with pytest.raises(NotAMammogramError, match=rf"ViewModifierCodeSequence \(0054,0222\) has the code '{code}'"):
            read(make_dicom, **values)


@pytest.mark.parametrize("keyword", ["CodeValue", "LongCodeValue", "URNCodeValue"])
def test_a_meaning_counts_where_the_code_is_of_another_scheme(
    make_dicom: MakeDicom, make_item: MakeItem, keyword: str
) -> None:
    value = "C1275844" if keyword != "LongCodeValue" else "1" * 20
    modifier = make_item(**{keyword: value}, CodeMeaning="Magnification")
    view = make_item(CodeValue="399162004", ViewModifierCodeSequence=[modifier])
    with pytest.raises(NotAMammogramError, match="which means magnification"):
        read(make_dicom, ViewCodeSequence=[view])


@pytest.mark.parametrize(
    ("code", "meaning"), [("85562004", "Hand"), ("51185008", "Chest"), ("T-D3000", ""), ("91470000", "Axilla")]
)
def test_another_anatomic_region_is_refused(
    make_dicom: MakeDicom, make_item: MakeItem, code: str, meaning: str
) -> None:
    with pytest.raises(NotAMammogramError, match=r"AnatomicRegionSequence \(0008,2218\) has the code"):
        read(make_dicom, AnatomicRegionSequence=[make_item(CodeValue=code, CodeMeaning=meaning)])


def test_the_words_of_a_description_are_shown_and_nothing_else(make_dicom: MakeDicom) -> None:
    with pytest.raises(NotAMammogramError) as caught:
        read(make_dicom, SeriesDescription="Doe Jane L CC MAG")
    assert "Doe" not in str(caught.value) and "'MAG'" in str(caught.value)


def test_words_far_apart_are_shown_without_what_stands_between(make_dicom: MakeDicom) -> None:
    with pytest.raises(NotAMammogramError, match=r"holds 'CEM \.\.\. SUB'"):
        read(make_dicom, SeriesDescription="CEM Doe Jane SUB")


def with_media_class(data: bytes, uid: str) -> bytes:
    """Return the file with a Media Storage SOP Class UID."""
    value = uid.encode() + b"\0" * (len(uid) % 2)
    place = data.index(b"\x02\0\x10\0UI")
    return data[:place] + b"\x02\0\x02\0UI" + len(value).to_bytes(2, "little") + value + data[place:]


@pytest.mark.parametrize("own", [{}, {"SOPClassUID": ""}], ids=["absent", "empty"])
@pytest.mark.parametrize("suffix", ["13.1.3", "2", "7.4", "88.11", "77.1.6", "1.3"])
def test_the_class_of_the_file_counts_where_the_data_set_states_none(
    make_dicom: MakeDicom, own: dict[str, Any], suffix: str
) -> None:
    data = with_media_class(make_dicom(CELLS, bits=12, Modality="MG", **own), STORAGE + suffix)
    with pytest.raises(NotAMammogramError, match=r"MediaStorageSOPClassUID \(0002,0002\) is"):
        read_mammogram(data)
    assert read_mammogram(with_media_class(make_dicom(CELLS, bits=12, SOPClassUID=STORAGE + "1.2"), STORAGE + suffix))


RAW: list[dict[str, Any]] = [
    *(
        {"SeriesDescription": text}
        for text in ("L CC RAW", "LCC_RAW", "R MLO (raw)", "MLO for processing", "unprocessed")
    ),
    {"ImageType": ["ORIGINAL", "PRIMARY", "", "RAW"]},
    {"AcquisitionDeviceProcessingDescription": "RAW"},
]


@pytest.mark.parametrize("values", RAW, ids=str)
def test_words_for_raw_pixels_count_where_nothing_states_the_intent(
    make_dicom: MakeDicom, values: dict[str, Any]
) -> None:
    with pytest.raises(NotAMammogramError, match="raw pixels for processing"):
        read(make_dicom, **values)
    for stated in ({"PresentationIntentType": "FOR PRESENTATION"}, {"SOPClassUID": STORAGE + "1.2"}):
        assert read(make_dicom, **values, **stated).pixels.any()


def test_a_bilateral_region_is_no_single_breast_unless_a_side_is_stated(
    make_dicom: MakeDicom, make_item: MakeItem
) -> None:
    both = make_item(CodeValue="76752008", AnatomicRegionModifierSequence=[make_item(CodeValue="51440002")])
    with pytest.raises(NotAMammogramError, match="AnatomicRegionModifierSequence .* both breasts in one image"):
        read(make_dicom, AnatomicRegionSequence=[both])
    assert read(make_dicom, AnatomicRegionSequence=[both], ImageLaterality="L").laterality == "L"


def test_a_mask_of_two_values_is_refused(make_dicom: MakeDicom) -> None:
    mask = np.zeros((200, 150), np.uint8)
    mask[50:90, 60:100] = 255
    with pytest.raises(NotAMammogramError, match="two values, 0 and 65535 of 65535: a mask"):
        read_mammogram(make_dicom(mask))
    with pytest.raises(NotAMammogramError, match="a mask"):
        read_mammogram(b"P5 150 200 255\n" + mask.tobytes())
    mask[0, 0] = 7
    assert read_mammogram(make_dicom(mask)).pixels.any()


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("synthetic-2d", {"ImageType": TOMO}),
        ("synthetic-2d", {"ImageType": [kind.lower() for kind in TOMO]}),
        ("synthetic-2d", {"ImageType": ["DERIVED", "PRIMARY"], "SeriesDescription": "S-View"}),
        ("synthetic-2d", {"SeriesDescription": "L MLO C-View"}),
        ("synthetic-2d", {"ImageType": ["DERIVED", "PRIMARY", "SYNTHETIC_2D"]}),
        ("synthetic-2d", {"ImageType": ["DERIVED", "PRIMARY", "C-VIEW"]}),
        ("synthetic-2d", {"DerivationDescription": "Synthetic mammogram"}),
        ("low-energy", {"SeriesDescription": "CEM low energy"}),
        ("implant-displaced", {"ViewPosition": "EKLUND"}),
        ("implant-displaced", {"ViewPosition": "IMPLANT DISPLACED CC"}),
        ("spacing-unusable", {"PixelSpacing": ("LO", ["1e-300", "1e-300"])}),
        ("synthetic-2d", {"SeriesDescription": "R_CC_V-Preview"}),
        ("synthetic-2d", {"SeriesDescription": "G-View R MLO"}),
        *(("low-energy", {"SeriesDescription": text}) for text in ("R CC LE", "CEM LE R MLO", "LCC CESM low")),
        ("digitised", {"ConversionType": "DF"}),
        ("secondary-capture", {"ConversionType": "WSD"}),
        ("secondary-capture", {"SOPClassUID": STORAGE + "7"}),
        ("secondary-capture", {"ImageType": ["DERIVED", "SECONDARY"]}),
        ("burned-in", {"BurnedInAnnotation": "YES"}),
        ("partial-view", {"PartialView": "YES"}),
        ("implant", {"BreastImplantPresent": "YES"}),
        ("implant-displaced", {"ViewPosition": "MLOID"}),
        ("low-energy", {"ImageType": ["ORIGINAL", "PRIMARY", "POST_CONTRAST", "", "LOW_ENERGY"]}),
        ("lossy", {"LossyImageCompression": "01"}),
        ("lossy", {"LossyImageCompressionRatio": "4"}),
        ("lossy-high-ratio", {"LossyImageCompression": "01", "LossyImageCompressionRatio": "100"}),
        ("male", {"PatientSex": "M"}),
        ("under-18", {"PatientAge": "017Y"}),
        ("under-18", {"PatientAge": "200M"}),
        ("under-18", {"PatientAge": ("LO", "17Y")}),
        ("under-18", {"PatientAge": ("LO", "017")}),
        ("under-18", {"PatientAge": ("LO", "0017Y")}),
        ("under-18", {"PatientBirthDate": ("LO", "2010.01.01"), "AcquisitionDate": "20260101"}),
        ("male", {"PatientSex": ("LO", "Male")}),
        ("lossy", {"LossyImageCompressionMethod": "ISO_10918_1"}),
        ("under-18", {"PatientBirthDate": "20061231", "StudyDate": "20241230"}),
        ("exaggerated-view", {"ViewPosition": "XCCL"}),
        ("view-inferred", {"SeriesDescription": "R CC"}),
        ("spacing-unusable", {"PixelSpacing": ["0", "0"]}),
        ("window-unusable", {"WindowCenter": "2048"}),
        ("rescale-unusable", {"RescaleSlope": "1"}),
        ("attribute-ignored", {"PixelPaddingRangeLimit": ("US", 3)}),
        ("attribute-ignored", {"PatientOrientation": ["A", "A"]}),
    ],
)
def test_warnings_of_a_file_become_flags(make_dicom: MakeDicom, flag: str, values: dict[str, Any]) -> None:
    image = read(make_dicom, **values)
    assert flag in image.flags and flag in str(image.facts["flags"]).split(";")
    assert flag not in read(make_dicom).flags


def test_an_ordinary_mammogram_has_no_flag(make_dicom: MakeDicom) -> None:
    image = read(
        make_dicom, ImageLaterality="L", ViewPosition="MLO", PatientOrientation=["A", "FR"],
        PixelSpacing=["0.07", "0.07"],
        SOPClassUID=STORAGE + "1.2", ImageType=["ORIGINAL", "PRIMARY"], PatientSex="F", PatientAge="055Y",
        WindowCenter="2048", WindowWidth="4096", RescaleSlope="1", RescaleIntercept="0", BurnedInAnnotation="NO",
        LossyImageCompression="00", PartialView="NO", SeriesDescription="L MLO",
    )  # fmt: skip
    assert image.flags == () and image.facts["flags"] == ""
