"""The attributes that all DICOM results share: equipment, identity, times and UIDs.

A result belongs to the patient and the study of its source, and is the only instance of its series. UIDs are derived
from names (PS3.5 B.2, name-based UUID). The SOP Instance UID is derived from the whole content except the times of
creation. Results that differ in anything else have different UIDs, and an archive that receives the same result twice
keeps one. Times are in the source's time zone, because Timezone Offset From UTC applies to the whole data set (PS3.3
C.12.1.1.1).
"""

import hashlib
import warnings
from collections.abc import Sequence
from datetime import datetime
from enum import IntEnum
from io import BytesIO
from typing import Any
from uuid import UUID, uuid5

from highdicom import SOPClass
from pydicom.dataset import Dataset
from pydicom.uid import UID

from mammopipe.inference.contract.schema import NOTICE
from mammopipe.inference.dicom.source import KEPT, SourceImage
from mammopipe.inference.dicom.wording import Facts, plain

Images = Sequence[tuple[SourceImage, Facts]]
"""Each source with its part of the answer."""
_NAMESPACE = UUID("6f0b7a52-64e4-4b0e-9d0c-1c8d5c7f2f53")
_UNKNOWN = "2.25.0"
"""Placeholder for the UIDs of an instance until its content is complete."""
_DATES = ("InstanceCreationDate", "ContentDate", "PresentationCreationDate")
_TIMES = ("InstanceCreationTime", "ContentTime", "PresentationCreationTime")


class ResultSeries(IntEnum):
    """Series Number of each kind of result; high numbers make workstations sort results after the images."""

    REPORT = 9901
    OVERLAY = 9902
    CAD_REPORT = 9903
    PRESENTATION_STATE = 9904


def derive(*names: str) -> str:
    """Return the UID derived from these names; the same names always give the same UID."""
    return f"2.25.{uuid5(_NAMESPACE, chr(10).join(names)).int}"


def places(images: Images) -> dict[int, int]:
    """Return the position in `images` by index in the request, where skipped files also have an index."""
    return {part.get("index", place): place for place, (_, part) in enumerate(images)}


def identifiers(series: ResultSeries, model: Facts) -> dict[str, Any]:
    """Return highdicom arguments that identify the instance and the equipment (PS3.3 C.7.5.1)."""
    return {
        "sop_instance_uid": _UNKNOWN,
        "series_instance_uid": _UNKNOWN,
        "series_number": int(series),
        "instance_number": 1,
        "manufacturer": "mammopipe",
        # LO holds 64 characters and no backslash (PS3.5 6.2). Of an ARN the end identifies the version.
        "manufacturer_model_name": model["architecture"][:64],
        "software_versions": plain(model["id"]).replace("\\", "/")[-64:],
        "device_serial_number": model["weights_sha256"][:64],
        "series_description": f"mammopipe: {NOTICE}",
    }


def written(result: SOPClass, source: SourceImage) -> bytes:
    """Add the source's identity, times and UIDs to a result with complete content, and return its DICOM file."""
    source.give(result, KEPT)
    if source.zone is None:
        result.pop("TimezoneOffsetFromUTC", None)
    with warnings.catch_warnings():
        # pydicom's warnings about malformed attributes of the source would contain their values.
        warnings.simplefilter("ignore")
        _set_uids(result)
        _set_times(result, datetime.now(source.zone))
        return _file(result)


def _set_uids(result: SOPClass) -> None:
    # The times of creation are no part of the digest: they are empty until the UID is set.
    for keyword in (*_DATES, *_TIMES):
        if keyword in result:
            setattr(result, keyword, None)
    for equipment in result.get("ContributingEquipmentSequence", []):
        # Remove highdicom's own time, which is optional and in this machine's time zone.
        equipment.pop("ContributionDateTime", None)
    uid = UID(derive("instance", hashlib.sha256(_file(result)).hexdigest()))
    result.SOPInstanceUID = result.file_meta.MediaStorageSOPInstanceUID = uid
    result.SeriesInstanceUID = UID(derive("series", uid))


def _set_times(result: Dataset, now: datetime) -> None:
    for keywords, text in ((_DATES, f"{now:%Y%m%d}"), (_TIMES, f"{now:%H%M%S.%f}")):
        for keyword in keywords:
            if keyword in result:
                setattr(result, keyword, text)


def _file(result: SOPClass) -> bytes:
    stream = BytesIO()
    result.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
