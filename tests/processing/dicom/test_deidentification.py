"""Identifying attributes are reported by name; their values are never shown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword

from mammopipe.processing.dicom.deidentification import IDENTIFYING
from mammopipe.processing.errors import ImageTooLargeError
from mammopipe.processing.images.mammogram import CorruptImageError, identity_fields, read_mammogram, write_png
from mammopipe.processing.read_config import Limits, ReadConfig

CELLS = np.zeros((4, 4), np.uint16)
TABLE = """
00080050 AccessionNumber
00080051 IssuerOfAccessionNumberSequence
00080080 InstitutionName
00080081 InstitutionAddress
00080082 InstitutionCodeSequence
00080090 ReferringPhysicianName
00080092 ReferringPhysicianAddress
00080094 ReferringPhysicianTelephoneNumbers
00080096 ReferringPhysicianIdentificationSequence
0008009c ConsultingPhysicianName
0008009d ConsultingPhysicianIdentificationSequence
00081040 InstitutionalDepartmentName
00081048 PhysiciansOfRecord
00081049 PhysiciansOfRecordIdentificationSequence
00081050 PerformingPhysicianName
00081052 PerformingPhysicianIdentificationSequence
00081060 NameOfPhysiciansReadingStudy
00081062 PhysiciansReadingStudyIdentificationSequence
00081070 OperatorsName
00081072 OperatorIdentificationSequence
00081120 ReferencedPatientSequence
00084000 IdentifyingComments
00100010 PatientName
00100021 IssuerOfPatientID
00100024 IssuerOfPatientIDQualifiersSequence
00100030 PatientBirthDate
00100032 PatientBirthTime
00100033 PatientBirthDateInAlternativeCalendar
00100034 PatientDeathDateInAlternativeCalendar
00100050 PatientInsurancePlanCodeSequence
00101000 OtherPatientIDs
00101001 OtherPatientNames
00101002 OtherPatientIDsSequence
00101005 PatientBirthName
00101040 PatientAddress
00101050 InsurancePlanIdentification
00101060 PatientMotherBirthName
00101080 MilitaryRank
00101081 BranchOfService
00101090 MedicalRecordLocator
00101100 ReferencedPatientPhotoSequence
00102150 CountryOfResidence
00102152 RegionOfResidence
00102154 PatientTelephoneNumbers
00102155 PatientTelecomInformation
00102180 Occupation
001021b0 AdditionalPatientHistory
001021f0 PatientReligiousPreference
00102297 ResponsiblePerson
00102299 ResponsibleOrganization
00104000 PatientComments
0016004d CameraOwnerName
00184000 AcquisitionComments
00200010 StudyID
00204000 ImageComments
00209158 FrameComments
00284000 ImagePresentationComments
00320012 StudyIDIssuer
00321020 ScheduledStudyLocation
00321031 RequestingPhysicianIdentificationSequence
00321032 RequestingPhysician
00321033 RequestingService
00324000 StudyComments
00380004 ReferencedPatientAliasSequence
00380010 AdmissionID
00380011 IssuerOfAdmissionID
00380014 IssuerOfAdmissionIDSequence
0038001e ScheduledPatientInstitutionResidence
00380060 ServiceEpisodeID
00380061 IssuerOfServiceEpisodeID
00380064 IssuerOfServiceEpisodeIDSequence
00380300 CurrentPatientLocation
00380400 PatientInstitutionResidence
00384000 VisitComments
00400006 ScheduledPerformingPhysicianName
00400009 ScheduledProcedureStepID
0040000b ScheduledPerformingPhysicianIdentificationSequence
00400011 ScheduledProcedureStepLocation
00400243 PerformedLocation
00400253 PerformedProcedureStepID
00400280 CommentsOnThePerformedProcedureStep
00401001 RequestedProcedureID
00401004 PatientTransportArrangements
00401005 RequestedProcedureLocation
00401010 NamesOfIntendedRecipientsOfResults
00401011 IntendedRecipientsOfResultsIdentificationSequence
00401101 PersonIdentificationCodeSequence
00401102 PersonAddress
00401103 PersonTelephoneNumbers
00401104 PersonTelecomInformation
00401400 RequestedProcedureComments
00402008 OrderEnteredBy
00402009 OrderEntererLocation
00402010 OrderCallbackPhoneNumber
00402011 OrderCallbackTelecomInformation
00402016 PlacerOrderNumberImagingServiceRequest
00402017 FillerOrderNumberImagingServiceRequest
00402400 ImagingServiceRequestComments
00403001 ConfidentialityConstraintOnPatientDataDescription
00404034 ScheduledHumanPerformersSequence
00404035 ActualHumanPerformersSequence
00404036 HumanPerformerOrganization
00404037 HumanPerformerName
0040a027 VerifyingOrganization
0040a073 VerifyingObserverSequence
0040a075 VerifyingObserverName
0040a078 AuthorObserverSequence
0040a07a ParticipantSequence
0040a07c CustodialOrganizationSequence
0040a088 VerifyingObserverIdentificationCodeSequence
0040a123 PersonName
0040a307 CurrentObserverTrial
0040a352 VerbalSourceTrial
0040a353 AddressTrial
0040a354 TelephoneNumberTrial
0040a358 VerbalSourceIdentifierCodeSequenceTrial
00700084 ContentCreatorName
00700086 ContentCreatorIdentificationCodeSequence
00880910 TopicAuthor
300600a6 ROIInterpreter
300e0008 ReviewerName
40004000 TextComments
40080040 ResultsID
40080042 ResultsIDIssuer
40080102 InterpretationRecorder
4008010a InterpretationTranscriber
4008010c InterpretationAuthor
40080111 InterpretationApproverSequence
40080114 PhysicianApprovingInterpretation
40080118 ResultsDistributionListSequence
40080119 DistributionName
4008011a DistributionAddress
40080200 InterpretationID
40080202 InterpretationIDIssuer
40084000 ResultsComments
"""
"""The identifying attributes of PS3.15 table E.1-1, by tag; kept apart from the list of the product, so that an entry
that is lost there fails here."""
KEYWORDS = [line.split()[1] for line in TABLE.split("\n") if line]


def test_filled_identifying_attributes_are_named(
    make_dicom: Callable[..., bytes], make_item: Callable[..., Any]
) -> None:
    data = make_dicom(
        CELLS,
        PatientName="Doe^Jane",
        PatientBirthDate="19500101",
        OperatorsName="",
        AccessionNumber=" ",
        OtherPatientIDsSequence=[make_item(PatientID="7")],
        Manufacturer="X",
        PatientAge="050Y",
    )
    assert identity_fields(data) == ("PatientName", "PatientBirthDate", "OtherPatientIDsSequence")


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_each_identifying_attribute_is_named_at_any_depth(
    make_dicom: Callable[..., bytes], make_item: Callable[..., Any], keyword: str
) -> None:
    """PS3.15 table E.1-1; the values that a pseudonym replaced lie in Original Attributes Sequence."""
    vr = dictionary_VR(keyword)
    value: Any = {"SQ": [make_item(CodeValue="1")], "DA": "19500101", "TM": "120000"}.get(vr, "1")
    assert identity_fields(make_dicom(CELLS, **{keyword: value})) == (keyword,)
    inner = make_item(**{keyword: value})
    for sequences in (
        {"RequestAttributesSequence": [inner]},
        {"OriginalAttributesSequence": [make_item(ModifiedAttributesSequence=[inner])]},
    ):
        assert identity_fields(make_dicom(CELLS, **sequences)) == (keyword,)
    assert identity_fields(make_dicom(CELLS, **{keyword: [] if vr == "SQ" else ""})) == ()


def test_a_patient_id_in_a_sequence_is_named(make_dicom: Callable[..., bytes], make_item: Callable[..., Any]) -> None:
    original = make_item(ModifiedAttributesSequence=[make_item(PatientID="4711")])
    data = make_dicom(CELLS, PatientID="pseudonym", OriginalAttributesSequence=[original])
    assert identity_fields(data) == ("PatientID",)


def test_the_list_is_that_of_the_table_in_the_order_of_tags() -> None:
    tags = [tag_for_keyword(keyword) for keyword in IDENTIFYING]
    assert [f"{tag:08x} {keyword}" for tag, keyword in zip(tags, IDENTIFYING, strict=True)] == TABLE.split("\n")[1:-1]
    assert tags == sorted(set(tags), key=lambda tag: tag or 0)


def test_burned_in_text_is_named(make_dicom: Callable[..., bytes]) -> None:
    assert identity_fields(make_dicom(CELLS, BurnedInAnnotation="YES")) == ("BurnedInAnnotation",)
    assert identity_fields(make_dicom(CELLS, BurnedInAnnotation="NO")) == ()


def test_a_pseudonymous_collection_is_tolerable(make_dicom: Callable[..., bytes]) -> None:
    data = make_dicom(CELLS, PatientID="10011", ContentDate="20221118", SOPInstanceUID="1.2.3")
    assert identity_fields(data) == ()
    assert identity_fields(data, patient_id=True) == ("PatientID",)


def test_the_real_files_have_none(rsna_folder: Path) -> None:
    assert [identity_fields(file) for file in sorted(rsna_folder.rglob("*.dcm"))] == [()] * 4


def test_pgm_and_png_have_none(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", CELLS)
    assert identity_fields(tmp_path / "a.png") == () == identity_fields(b"P5 2 1 255\nab")


def test_a_broken_file_is_an_error(make_dicom: Callable[..., bytes]) -> None:
    with pytest.raises(CorruptImageError, match="no Pixel Data"):
        identity_fields(make_dicom(CELLS)[:180])


def test_an_error_names_the_file_and_the_limit(make_dicom: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "broken.dcm").write_bytes(make_dicom(CELLS)[:180])
    with pytest.raises(CorruptImageError, match=r"broken\.dcm: "):
        identity_fields(tmp_path / "broken.dcm")
    # The bytes of a deflated file (PS3.5 A.5) are few, and the data set is not.
    data = make_dicom(np.zeros((100, 100), np.uint16), syntax="1.2.840.10008.1.2.1.99")
    assert len(data) < 5000 and identity_fields(data) == ()
    small = ReadConfig(limits=Limits(max_bytes=5000))
    with pytest.raises(ImageTooLargeError, match="5000"):
        identity_fields(data, config=small)


def test_the_patient_id_of_each_depth_is_named_once(
    make_dicom: Callable[..., bytes], make_item: Callable[..., Any]
) -> None:
    original = make_item(ModifiedAttributesSequence=[make_item(PatientID="4711", PatientName="Doe^Jane")])
    data = make_dicom(CELLS, PatientID="10011", PatientName="X", OriginalAttributesSequence=[original, make_item()])
    assert identity_fields(data) == identity_fields(data, patient_id=True) == ("PatientName", "PatientID")
    assert identity_fields(make_dicom(CELLS, PatientID="10011", BurnedInAnnotation="YES"), patient_id=True) == (
        "PatientID",
        "BurnedInAnnotation",
    )


# ---- where a name may hide ----

NAME, IMPLICIT_NAME = b"\x10\0\x10\0PN\x08\0Doe^Jane", b"\x10\0\x10\0\x08\0\0\0Doe^Jane"
END_OF_SEQUENCE = b"\xfe\xff\xdd\xe0\0\0\0\0"


def one_item(value: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + len(value).to_bytes(4, "little") + value


def private(vr: bytes, value: bytes, undefined: bool = False) -> bytes:
    """Return a private element; without representation if `vr` is empty."""
    length = b"\xff\xff\xff\xff" if undefined else len(value).to_bytes(4, "little")
    return b"\x19\0\x10\x10" + vr + (b"\0\0" if vr else b"") + length + value


def with_private(data: bytes, inserted: bytes) -> bytes:
    place = data.index(b"\x28\x00\x02\x00")
    return data[:place] + inserted + data[place:]


HIDDEN = {
    "sequence": private(b"SQ", one_item(NAME)),
    "unknown, implicit": private(b"UN", one_item(IMPLICIT_NAME)),
    "unknown, explicit": private(b"UN", one_item(NAME)),
    "unknown, no length": private(b"UN", one_item(IMPLICIT_NAME) + END_OF_SEQUENCE, undefined=True),
    "bytes": private(b"OB", one_item(NAME)),
    "two levels": private(b"UN", one_item(private(b"", one_item(IMPLICIT_NAME)))),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_name_in_a_private_sequence_is_found(make_dicom: Callable[..., bytes], name: str) -> None:
    data = with_private(make_dicom(CELLS), HIDDEN[name])
    assert identity_fields(data) == ("PatientName",) and read_mammogram(data).pixels.shape == CELLS.shape
    implicit = with_private(make_dicom(CELLS, syntax="1.2.840.10008.1.2"), private(b"", one_item(IMPLICIT_NAME)))
    assert identity_fields(implicit) == ("PatientName",)


@pytest.mark.parametrize("value", [b"\xfe\xff\x00\xe0\xff\0\0\0abcd", b"\xfe\xff\x00\xe0\x04\0\0\0abcd", b"abcdefgh"])
def test_private_bytes_that_are_no_sequence_are_passed_over(make_dicom: Callable[..., bytes], value: bytes) -> None:
    data = with_private(make_dicom(CELLS, PatientName="Doe^Jane"), private(b"UN", value))
    assert identity_fields(data) == ("PatientName",)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.80"])
def test_a_name_after_the_pixel_data_is_found(make_dicom: Callable[..., bytes], syntax: str) -> None:
    data = make_dicom(CELLS, syntax=syntax)
    assert identity_fields(data + NAME) == ("PatientName",)
    assert identity_fields(data + b"\0" * 100) == identity_fields(data + b"\xff" * 3) == ()


def test_comments_of_an_overlay_are_found(make_dicom: Callable[..., bytes]) -> None:
    data = make_dicom(CELLS)
    place = data.index(b"\xe0\x7f\x10\x00OW")
    assert identity_fields(data[:place] + b"\x02\x60\0\x40LT\x08\0Doe Jane" + data[place:]) == ("OverlayComments",)
