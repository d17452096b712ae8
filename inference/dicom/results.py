"""An answer as DICOM: a structured report of what was found, and a secondary capture of where.

Both belong to the study of their source and keep its patient; each is the only instance of a series of its own. They
are returned to the caller and nowhere else. UIDs are derived from the sources, the answer and the model (PS3.5 B.2 from
a name-based UUID), so that the same question to the same model gives the same instance again, whose times of creation
alone differ: an archive that gets it twice keeps one. Request ids and timings are therefore not in it.
"""

import hashlib
import json
import logging
import warnings
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any
from uuid import UUID, uuid5

import numpy as np
from highdicom import SOPClass
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
)
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

from mammopipe.inference.contract.errors import MixedPatientsError, NoSourceIdentityError
from mammopipe.inference.contract.schema import NOTICE, Answer, ExamAnswer
from mammopipe.inference.dicom.secondary_capture import capture
from mammopipe.inference.dicom.source import KEPT, Source, read_source, read_sources
from mammopipe.inference.dicom.structured_report import SCHEME, Facts, Group, Writer, image_library, plain

__all__ = ["MixedPatientsError", "NoSourceIdentityError", "overlay_capture", "structured_report"]

_NAMESPACE = UUID("6f0b7a52-64e4-4b0e-9d0c-1c8d5c7f2f53")
# At level INFO highdicom logs the UIDs of what it refers to.
logging.getLogger("highdicom").setLevel(logging.WARNING)
REPORT_SERIES, CAPTURE_SERIES = 9901, 9902
"""Series numbers: high, so that a workstation sorts results behind the images."""


def structured_report(sources: Sequence[bytes], answer: Answer | ExamAnswer) -> bytes:
    """Return a Comprehensive SR (TID 1500) of an `Answer`, or of an `ExamAnswer`, as a DICOM file.

    `sources` are the DICOM files that were judged, in the order of the answer's images. The report is PARTIAL,
    UNVERIFIED and PRELIMINARY: a machine's, for a reader to judge.

    Raises `NoSourceIdentityError` and `MixedPatientsError` (`mammopipe.inference.contract.errors`), naming the tag
    and no value; `ValueError` where an image of the answer is not that of its source.
    """
    facts = answer.model_dump(mode="json", exclude={"request_id", "timings_ms"})
    images = _matched(read_sources(sources), facts.get("images") or [facts])
    uid = _derive("instance", "report", *_names(images), _digest(facts))
    first, *others = _groups(images, facts, uid)
    content = MeasurementReport(
        observation_context=ObservationContext(ObserverContext(codes.DCM.Device, _observer(facts["model"]))),
        procedure_reported=codes.SCT.Mammography,
        imaging_measurements=[first],
    )
    report = ComprehensiveSR(
        evidence=[source.evidence() for source, _ in images],
        content=content[0],
        sop_instance_uid=uid,
        series_instance_uid=_derive("series", uid),
        series_number=REPORT_SERIES,
        instance_number=1,
        coding_schemes=[CodingSchemeIdentificationItem(SCHEME, name="mammopipe", responsible_organization="mammopipe")],
        **_equipment(facts["model"]),
    )
    report.CompletionFlagDescription = NOTICE
    # Not before: the constructor copies and searches all that it is given, which doubles the time of a large exam.
    items = report.ContentSequence
    items[-1].ContentSequence.extend([item for group in others for item in group])
    items.insert(len(items) - 1, image_library([(source, part["image"]) for source, part in images]))
    return _written(report, images[0][0])


def overlay_capture(source: bytes, overlay_bgr: NDArray[np.uint8], answer: Answer) -> bytes:
    """Return a Secondary Capture of an overlay as a DICOM file, JPEG 2000 lossless, with the notice in the picture.

    `overlay_bgr` is uint8 (rows, columns, 3) in OpenCV's order, over the source's pixels; it is not changed. Raises as
    `structured_report` does.
    """
    facts = answer.model_dump(mode="json", exclude={"request_id", "timings_ms"})
    [(read, _)] = _matched([read_source(source)], [facts])
    if overlay_bgr.shape != (read.rows, read.columns, 3):
        raise ValueError(f"an overlay of shape {overlay_bgr.shape} over an image of {read.rows} x {read.columns}")
    picture = hashlib.sha256(np.ascontiguousarray(overlay_bgr).tobytes()).hexdigest()
    uid = _derive("instance", "capture", read.instance, read.sha256, _digest(facts), picture)
    result = capture(
        overlay_bgr,
        read,
        facts,
        sop_instance_uid=uid,
        series_instance_uid=_derive("series", uid),
        series_number=CAPTURE_SERIES,
        **_equipment(facts["model"]),
    )
    return _written(result, read)


def _derive(*names: str) -> str:
    return f"2.25.{uuid5(_NAMESPACE, chr(10).join(names)).int}"


def _digest(facts: Facts) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _names(images: Iterable[tuple[Source, Facts]]) -> list[str]:
    return [name for source, _ in images for name in (source.instance, source.sha256)]


def _matched(sources: Sequence[Source], parts: Sequence[Facts]) -> list[tuple[Source, Facts]]:
    """Pair each source with what the answer says of it; a mix-up would put a finding on another image."""
    if len(sources) != len(parts):
        raise ValueError(f"{len(sources)} sources for an answer on {len(parts)} images")
    for index, (source, part) in enumerate(zip(sources, parts, strict=True)):
        image = part["image"]
        if (image["sha256"], image["rows"], image["columns"]) != (source.sha256, source.rows, source.columns):
            raise ValueError(f"image {index} of the answer is not that of its source")
    return list(zip(sources, parts, strict=True))


def _observer(model: Facts) -> DeviceObserverIdentifyingAttributes:
    return DeviceObserverIdentifyingAttributes(
        uid=_derive("device", model["weights_sha256"], model["preprocess_digest"]),
        name="mammopipe",
        manufacturer_name="mammopipe",
        model_name=model["architecture"],
        serial_number=model["weights_sha256"],
    )


def _equipment(model: Facts) -> dict[str, Any]:
    return {
        "manufacturer": "mammopipe",
        "manufacturer_model_name": model["architecture"][:64],
        "software_versions": plain(model["id"]).replace("\\", "/")[-64:],
        "device_serial_number": model["weights_sha256"][:64],
        "series_description": f"mammopipe: {NOTICE}",
    }


def _groups(images: Sequence[tuple[Source, Facts]], facts: Facts, document_uid: str) -> Iterable[Group]:
    """Yield the groups from the whole to its parts: exam, breasts, images, and after each image its regions."""
    writer = Writer(facts["model"], document_uid, _derive)
    if facts.get("exam"):
        exam = {**facts["exam"], "warnings": facts.get("warnings", [])}
        yield writer.judged("exam", exam, [source for source, _ in images], None)
    for number, breast in enumerate(facts.get("breasts") or []):
        # An exam's indices have gaps where files were skipped.
        seen = [source for source, part in images if part["index"] in breast["images"]]
        yield writer.judged(f"breast {breast['laterality'] or number}", breast, seen, breast["laterality"])
    for index, (source, part) in enumerate(images):
        side = part["image"]["laterality"]
        yield writer.judged(f"image {index}", part, [source], side)
        heatmap = part.get("heatmap") or {"regions": []}
        for number, region in enumerate(heatmap["regions"]):
            yield writer.region(f"image {index} region {number}", region, heatmap["target"], source, side)


def _written(result: SOPClass, source: Source) -> bytes:
    """Return the file of a result that belongs to the patient and the study of its source."""
    source.give(result, KEPT)
    stream = BytesIO()
    with warnings.catch_warnings():
        # pydicom's warnings on malformed attributes of the source would show their values.
        warnings.simplefilter("ignore")
        result.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
