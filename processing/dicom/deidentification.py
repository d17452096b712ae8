"""Finds the filled attributes of a DICOM file that identify a person; it returns their names, never their values.

The list holds the direct identifiers among the attributes that the Basic Application Level Confidentiality Profile
removes or empties (PS3.15 table E.1-1, with the same names and tags): persons, their numbers, addresses and dates of
birth, free-text comments about them, the institution, and those who ordered, performed and read the examination. The
list omits the profile's examination dates, instance UIDs and device descriptions, which every usable collection keeps
in some form.
"""

from pydicom.datadict import keyword_for_tag, tag_for_keyword

from mammopipe.processing.dicom.attributes import Tag, Tags
from mammopipe.processing.dicom.file import parse
from mammopipe.processing.read_config import DEFAULT_CONFIG, ReadConfig

IDENTIFYING = (
    "AccessionNumber",  # (0008,0050)
    "IssuerOfAccessionNumberSequence",  # (0008,0051)
    "InstitutionName",  # (0008,0080)
    "InstitutionAddress",  # (0008,0081)
    "InstitutionCodeSequence",  # (0008,0082)
    "ReferringPhysicianName",  # (0008,0090)
    "ReferringPhysicianAddress",  # (0008,0092)
    "ReferringPhysicianTelephoneNumbers",  # (0008,0094)
    "ReferringPhysicianIdentificationSequence",  # (0008,0096)
    "ConsultingPhysicianName",  # (0008,009C)
    "ConsultingPhysicianIdentificationSequence",  # (0008,009D)
    "InstitutionalDepartmentName",  # (0008,1040)
    "PhysiciansOfRecord",  # (0008,1048)
    "PhysiciansOfRecordIdentificationSequence",  # (0008,1049)
    "PerformingPhysicianName",  # (0008,1050)
    "PerformingPhysicianIdentificationSequence",  # (0008,1052)
    "NameOfPhysiciansReadingStudy",  # (0008,1060)
    "PhysiciansReadingStudyIdentificationSequence",  # (0008,1062)
    "OperatorsName",  # (0008,1070)
    "OperatorIdentificationSequence",  # (0008,1072)
    "ReferencedPatientSequence",  # (0008,1120)
    "IdentifyingComments",  # (0008,4000)
    "PatientName",  # (0010,0010)
    "IssuerOfPatientID",  # (0010,0021)
    "IssuerOfPatientIDQualifiersSequence",  # (0010,0024)
    "PatientBirthDate",  # (0010,0030)
    "PatientBirthTime",  # (0010,0032)
    "PatientBirthDateInAlternativeCalendar",  # (0010,0033)
    "PatientDeathDateInAlternativeCalendar",  # (0010,0034)
    "PatientInsurancePlanCodeSequence",  # (0010,0050)
    "OtherPatientIDs",  # (0010,1000)
    "OtherPatientNames",  # (0010,1001)
    "OtherPatientIDsSequence",  # (0010,1002)
    "PatientBirthName",  # (0010,1005)
    "PatientAddress",  # (0010,1040)
    "InsurancePlanIdentification",  # (0010,1050)
    "PatientMotherBirthName",  # (0010,1060)
    "MilitaryRank",  # (0010,1080)
    "BranchOfService",  # (0010,1081)
    "MedicalRecordLocator",  # (0010,1090)
    "ReferencedPatientPhotoSequence",  # (0010,1100)
    "CountryOfResidence",  # (0010,2150)
    "RegionOfResidence",  # (0010,2152)
    "PatientTelephoneNumbers",  # (0010,2154)
    "PatientTelecomInformation",  # (0010,2155)
    "Occupation",  # (0010,2180)
    "AdditionalPatientHistory",  # (0010,21B0)
    "PatientReligiousPreference",  # (0010,21F0)
    "ResponsiblePerson",  # (0010,2297)
    "ResponsibleOrganization",  # (0010,2299)
    "PatientComments",  # (0010,4000)
    "CameraOwnerName",  # (0016,004D)
    "AcquisitionComments",  # (0018,4000)
    "StudyID",  # (0020,0010)
    "ImageComments",  # (0020,4000)
    "FrameComments",  # (0020,9158)
    "ImagePresentationComments",  # (0028,4000)
    "StudyIDIssuer",  # (0032,0012)
    "ScheduledStudyLocation",  # (0032,1020)
    "RequestingPhysicianIdentificationSequence",  # (0032,1031)
    "RequestingPhysician",  # (0032,1032)
    "RequestingService",  # (0032,1033)
    "StudyComments",  # (0032,4000)
    "ReferencedPatientAliasSequence",  # (0038,0004)
    "AdmissionID",  # (0038,0010)
    "IssuerOfAdmissionID",  # (0038,0011)
    "IssuerOfAdmissionIDSequence",  # (0038,0014)
    "ScheduledPatientInstitutionResidence",  # (0038,001E)
    "ServiceEpisodeID",  # (0038,0060)
    "IssuerOfServiceEpisodeID",  # (0038,0061)
    "IssuerOfServiceEpisodeIDSequence",  # (0038,0064)
    "CurrentPatientLocation",  # (0038,0300)
    "PatientInstitutionResidence",  # (0038,0400)
    "VisitComments",  # (0038,4000)
    "ScheduledPerformingPhysicianName",  # (0040,0006)
    "ScheduledProcedureStepID",  # (0040,0009)
    "ScheduledPerformingPhysicianIdentificationSequence",  # (0040,000B)
    "ScheduledProcedureStepLocation",  # (0040,0011)
    "PerformedLocation",  # (0040,0243)
    "PerformedProcedureStepID",  # (0040,0253)
    "CommentsOnThePerformedProcedureStep",  # (0040,0280)
    "RequestedProcedureID",  # (0040,1001)
    "PatientTransportArrangements",  # (0040,1004)
    "RequestedProcedureLocation",  # (0040,1005)
    "NamesOfIntendedRecipientsOfResults",  # (0040,1010)
    "IntendedRecipientsOfResultsIdentificationSequence",  # (0040,1011)
    "PersonIdentificationCodeSequence",  # (0040,1101)
    "PersonAddress",  # (0040,1102)
    "PersonTelephoneNumbers",  # (0040,1103)
    "PersonTelecomInformation",  # (0040,1104)
    "RequestedProcedureComments",  # (0040,1400)
    "OrderEnteredBy",  # (0040,2008)
    "OrderEntererLocation",  # (0040,2009)
    "OrderCallbackPhoneNumber",  # (0040,2010)
    "OrderCallbackTelecomInformation",  # (0040,2011)
    "PlacerOrderNumberImagingServiceRequest",  # (0040,2016)
    "FillerOrderNumberImagingServiceRequest",  # (0040,2017)
    "ImagingServiceRequestComments",  # (0040,2400)
    "ConfidentialityConstraintOnPatientDataDescription",  # (0040,3001)
    "ScheduledHumanPerformersSequence",  # (0040,4034)
    "ActualHumanPerformersSequence",  # (0040,4035)
    "HumanPerformerOrganization",  # (0040,4036)
    "HumanPerformerName",  # (0040,4037)
    "VerifyingOrganization",  # (0040,A027)
    "VerifyingObserverSequence",  # (0040,A073)
    "VerifyingObserverName",  # (0040,A075)
    "AuthorObserverSequence",  # (0040,A078)
    "ParticipantSequence",  # (0040,A07A)
    "CustodialOrganizationSequence",  # (0040,A07C)
    "VerifyingObserverIdentificationCodeSequence",  # (0040,A088)
    "PersonName",  # (0040,A123)
    "CurrentObserverTrial",  # (0040,A307)
    "VerbalSourceTrial",  # (0040,A352)
    "AddressTrial",  # (0040,A353)
    "TelephoneNumberTrial",  # (0040,A354)
    "VerbalSourceIdentifierCodeSequenceTrial",  # (0040,A358)
    "ContentCreatorName",  # (0070,0084)
    "ContentCreatorIdentificationCodeSequence",  # (0070,0086)
    "TopicAuthor",  # (0088,0910)
    "ROIInterpreter",  # (3006,00A6)
    "ReviewerName",  # (300E,0008)
    "TextComments",  # (4000,4000)
    "ResultsID",  # (4008,0040)
    "ResultsIDIssuer",  # (4008,0042)
    "InterpretationRecorder",  # (4008,0102)
    "InterpretationTranscriber",  # (4008,010A)
    "InterpretationAuthor",  # (4008,010C)
    "InterpretationApproverSequence",  # (4008,0111)
    "PhysicianApprovingInterpretation",  # (4008,0114)
    "ResultsDistributionListSequence",  # (4008,0118)
    "DistributionName",  # (4008,0119)
    "DistributionAddress",  # (4008,011A)
    "InterpretationID",  # (4008,0200)
    "InterpretationIDIssuer",  # (4008,0202)
    "ResultsComments",  # (4008,4000)
)
"""Keywords of the attributes that identify a person, in the order of their tags."""
PATIENT_ID = 0x00100020
_OVERLAY_COMMENTS = frozenset(0x60004000 | group << 17 for group in range(16))
"""Overlay Comments (60xx,4000) of each overlay group."""
_NUMBERS = _OVERLAY_COMMENTS.union(tag for keyword in IDENTIFYING if (tag := tag_for_keyword(keyword)) is not None)


def identity_fields(
    data: bytes, *, where: str, patient_id: bool = False, config: ReadConfig = DEFAULT_CONFIG
) -> tuple[str, ...]:
    """Return the keywords of the filled identifying attributes, in tag order; () if there are none.

    Attributes inside sequences count, too: Original Attributes Sequence holds the values that a pseudonym replaced, and
    Request Attributes Sequence holds the numbers of the order. Private sequences and attributes after the pixel data
    also count. `BurnedInAnnotation` is reported if it is YES, because the pixels may then name the patient.

    Args:
        data: The file.
        where: The name of the file in errors.
        patient_id: Whether the `PatientID` of the image is reported; collections keep a pseudonym there.
        config: The limits of the file.

    Raises:
        ImageError: The file cannot be parsed; the subclasses are those of `mammopipe.processing.dicom.file.parse`.
    """
    wanted = _NUMBERS | {PATIENT_ID, Tag.BURNED_IN_ANNOTATION}
    tags = parse(data, where=where, limits=config.limits, tags=wanted, everywhere=True).tags
    found = _filled(tags, top=True, patient_id=patient_id)
    names = [keyword_for_tag(tag) for tag in sorted(found)]
    if tags.code(Tag.BURNED_IN_ANNOTATION) == "YES":
        names.append(keyword_for_tag(Tag.BURNED_IN_ANNOTATION))
    return tuple(names)


def _filled(tags: Tags, *, top: bool, patient_id: bool) -> set[int]:
    """Return the identifying attributes that have a value, here or in the items of any sequence."""
    found = {tag for tag in _NUMBERS if tags.has(tag)}
    if tags.has(PATIENT_ID) and (patient_id or not top):
        found.add(PATIENT_ID)
    for sequence in tags.sequences():
        if sequence not in _NUMBERS:  # A filled sequence of identifiers is reported as a whole.
            for item in tags.items(sequence):
                found |= _filled(item, top=False, patient_id=patient_id)
    return found
