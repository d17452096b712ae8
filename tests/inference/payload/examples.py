"""DICOM files with short headers, and bodies that hold them."""

import io
import zipfile
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from mammopipe.inference.payload.limits import HandlerLimits

MAMMOGRAPHY = UID("1.2.840.10008.5.1.4.1.1.1.2")
WOMAN = {
    "PatientID": "MRN-4711",
    "IssuerOfPatientID": "ST MARY",
    "PatientName": "Doe^Jane",
    "PatientBirthDate": "19610203",
    "PatientSex": "F",
    "StudyInstanceUID": "1.2.3",
    "StudyDate": "20260101",
}
LIMITS = HandlerLimits(max_views=3)


def dicom(number: int, **attributes: Any) -> bytes:
    """Return a DICOM file with a short header and two pixels; `number` determines its SOP Instance UID and pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MAMMOGRAPHY
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID(f"1.2.3.{number}")
    for keyword, value in {**WOMAN, **attributes}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.SamplesPerPixel = 1, 2, 8, 1
    dataset.PixelData = np.uint8([1, number % 250]).tobytes()
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def report(sop_class: str) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(dicom(9)))
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID(sop_class)
    del dataset.PixelData
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target.getvalue()
