"""Answers as DICOM results: structured report, CAD report, presentation states and secondary captures.

Results are returned only to the caller. They contain no request ids and timings, so that the same request to the same
model gives the same instance again (`inference.dicom.instance`).
"""

import hashlib
import json
import logging
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO

import numpy as np
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    ComprehensiveSR,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
)
from highdicom.sr.value_types import ContentItem
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

from mammopipe.inference.contract.errors import NoSourceIdentityError, NotAcceptableError
from mammopipe.inference.contract.media_types import error_body
from mammopipe.inference.contract.schema import NOTICE, Answer, ExamAnswer
from mammopipe.inference.dicom import presentation_state as grayscale
from mammopipe.inference.dicom.cad_report import cad_report
from mammopipe.inference.dicom.instance import Images, ResultSeries, derive, identifiers, places, written
from mammopipe.inference.dicom.secondary_capture import capture
from mammopipe.inference.dicom.source import SourceImage, identity_of, read_source, read_sources
from mammopipe.inference.dicom.structured_report import SCHEME, Group, Writer, comment, image_library, section
from mammopipe.inference.dicom.wording import Facts

# At level INFO highdicom logs the UIDs of referenced instances.
logging.getLogger("highdicom").setLevel(logging.WARNING)


def structured_report(sources: Sequence[bytes], answer: Answer | ExamAnswer) -> bytes:
    """Return a Comprehensive SR (TID 1500) of an answer, as a DICOM file.

    The report is PARTIAL, UNVERIFIED and PRELIMINARY, because a machine made it for a reader to judge.

    Args:
        sources: The DICOM files that were judged, in the order of the answer's images.
        answer: The endpoint's answer.

    Returns:
        The bytes of the file.

    Raises:
        NoSourceIdentityError: A source is not a DICOM file or lacks a UID; the message names the tag and no value.
        RequestError: The sources belong to several patients or studies, or hold an instance twice (`mixed_patients`,
            `mixed_studies`, `duplicate_image`).
        ValueError: An image of the answer does not match its source.
    """
    facts, images = _matched(read_sources(sources), answer)
    writer = Writer(facts["model"], _digest(images, facts), derive)
    judgements = list(_judgements(writer, images, facts))
    content = MeasurementReport(
        observation_context=ObservationContext(ObserverContext(codes.DCM.Device, _observer(facts["model"]))),
        procedure_reported=codes.SCT.Mammography,
        imaging_measurements=judgements[:1],
    )
    report = ComprehensiveSR(
        evidence=[source.evidence() for source, _ in images],
        content=content[0],
        coding_schemes=[CodingSchemeIdentificationItem(SCHEME, name="mammopipe", responsible_organization="mammopipe")],
        **identifiers(ResultSeries.REPORT, facts["model"]),
    )
    report.CompletionFlagDescription = NOTICE
    # Added after construction, because the constructor copies and searches its content, which doubles the time.
    measurements = report.ContentSequence[-1]
    findings = section(codes.DCM.Findings, [item for group in judgements for item in group])
    measurements.ContentSequence = ContentSequence(list(_measurements(writer, images)))
    library = image_library([(source, part["image"]) for source, part in images])
    report.ContentSequence = ContentSequence([*report.ContentSequence[:-1], library, findings, measurements])
    return written(report, _identity(images))


def mammography_cad_report(sources: Sequence[bytes], answer: Answer | ExamAnswer) -> bytes:
    """Return a Mammography CAD SR (TID 4000) of an answer, as a DICOM file; arguments as for `structured_report`.

    Raises:
        NoSourceIdentityError: As for `structured_report`; also if an image's laterality or view is unknown (`no_view`).
    """
    facts, images = _matched(read_sources(sources), answer)
    return written(cad_report(images, facts), _identity(images))


def presentation_states(sources: Sequence[bytes], answer: Answer | ExamAnswer) -> list[bytes]:
    """Return Grayscale Softcopy Presentation States with an answer's regions; arguments as for `structured_report`.

    Returns:
        DICOM files, one for each group of images with the same modality LUT and polarity. The images of one machine
        usually form one group.
    """
    facts, images = _matched(read_sources(sources), answer)
    return [written(state, _identity(images)) for state in grayscale.presentation_states(images, sources, facts)]


def presentation_state(sources: Sequence[bytes], answer: Answer | ExamAnswer) -> bytes:
    """Return the only presentation state of an answer; arguments and errors as for `structured_report`.

    Raises:
        NotAcceptableError: The images differ in modality LUT or polarity and need several states.
    """
    states = presentation_states(sources, answer)
    if len(states) > 1:
        rule = "the images differ in modality LUT or polarity and need several presentation states; ask for result=all"
        raise NotAcceptableError("not_acceptable", rule)
    return states[0]


def all_results(sources: Sequence[bytes], answer: Answer | ExamAnswer, overlays: Sequence[bytes]) -> bytes:
    """Return a ZIP archive of the answer and all its DICOM results; errors as for `structured_report`.

    Args:
        sources: The DICOM files that were judged, in the order of the answer's images.
        answer: The endpoint's answer.
        overlays: Results of `overlay_capture`, in the order of the images.

    Returns:
        An archive of `answer.json`, `report.dcm`, `cad-report.dcm`, `presentation-state-N.dcm` and `overlay-N.dcm`.
        If an image's laterality or view is unknown, `cad-report.json` states the error instead of the CAD report.
    """
    members = {"answer.json": answer.model_dump_json().encode(), "report.dcm": structured_report(sources, answer)}
    try:
        members["cad-report.dcm"] = mammography_cad_report(sources, answer)
    except NoSourceIdentityError as error:
        members["cad-report.json"] = error_body(error.code, error.message, error.detail)
    for number, state in enumerate(presentation_states(sources, answer)):
        members[f"presentation-state-{number}.dcm"] = state
    members |= {f"overlay-{number}.dcm": data for number, data in enumerate(overlays)}
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in members.items():
            # The overlays are already compressed.
            method = zipfile.ZIP_STORED if name.startswith("overlay") else zipfile.ZIP_DEFLATED
            # `ZipInfo` has a fixed date, so equal results are equal archives.
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method, compresslevel=1)
    return packed.getvalue()


def overlay_capture(source: bytes, overlay_bgr: NDArray[np.uint8], answer: Answer) -> bytes:
    """Return a Secondary Capture of an overlay as a DICOM file, JPEG 2000 lossless, with the notice in the pixels.

    Args:
        source: The DICOM file that was judged.
        overlay_bgr: The overlay over the source's pixels, uint8 (rows, columns, 3) in BGR order; it is not changed.
        answer: The endpoint's answer.

    Returns:
        The bytes of the file.

    Raises:
        NoSourceIdentityError: The source is not a DICOM file or lacks a UID.
        ValueError: The answer or the overlay does not match the source.
    """
    facts, [(read, _)] = _matched([read_source(source)], answer)
    if overlay_bgr.shape != (read.rows, read.columns, 3):
        raise ValueError(f"an overlay of shape {overlay_bgr.shape} over an image of {read.rows} x {read.columns}")
    return written(capture(overlay_bgr, read, facts, **identifiers(ResultSeries.OVERLAY, facts["model"])), read)


def _identity(images: Images) -> SourceImage:
    return identity_of([source for source, _ in images])


def _digest(images: Images, facts: Facts) -> str:
    """Return a digest of request and answer, from which the report's tracking UIDs are derived."""
    names = [name for source, _ in images for name in (source.instance, source.sha256)]
    return hashlib.sha256(json.dumps([names, facts], sort_keys=True).encode()).hexdigest()


def _matched(
    sources: Sequence[SourceImage], answer: Answer | ExamAnswer
) -> tuple[Facts, list[tuple[SourceImage, Facts]]]:
    """Return the answer without facts about the request, and each source with its part of the answer.

    Raises:
        ValueError: A part does not belong to its source: the result would mark the wrong image.
    """
    facts: Facts = answer.model_dump(mode="json", exclude={"request_id", "timings_ms"})
    parts = facts.get("images") or [facts]
    if len(sources) != len(parts):
        raise ValueError(f"{len(sources)} sources for an answer on {len(parts)} images")
    for index, (source, part) in enumerate(zip(sources, parts, strict=True)):
        image = part["image"]
        if (image["sha256"], image["rows"], image["columns"]) != (source.sha256, source.rows, source.columns):
            raise ValueError(f"image {index} of the answer does not belong to its source")
    return facts, list(zip(sources, parts, strict=True))


def _observer(model: Facts) -> DeviceObserverIdentifyingAttributes:
    return DeviceObserverIdentifyingAttributes(
        uid=derive("device", model["weights_sha256"], model["preprocess_digest"]),
        name="mammopipe",
        manufacturer_name="mammopipe",
        model_name=model["architecture"],
        serial_number=model["weights_sha256"],
    )


def _judgements(writer: Writer, images: Images, facts: Facts) -> Iterator[Group]:
    """Yield the groups without coordinates, in the order exam, breasts, images."""
    if facts.get("exam"):
        exam = {**facts["exam"], "warnings": facts.get("warnings", [])}
        yield writer.judged("exam", exam, [source for source, _ in images], None)
    place = places(images)
    for number, breast in enumerate(facts.get("breasts") or []):
        # The indices of an exam have gaps if files were skipped.
        seen = [images[place[index]][0] for index in breast["images"]]
        yield writer.judged(f"breast {breast['laterality'] or number}", breast, seen, breast["laterality"])
    for index, at in place.items():
        source, part = images[at]
        yield writer.judged(f"image {index}", part, [source], part["image"]["laterality"])


def _measurements(writer: Writer, images: Images) -> Iterable[ContentItem]:
    """Yield the groups of all regions, or a sentence if there are none, because readers expect at least one item."""
    found = [
        item
        for index, (source, part) in zip(places(images), images, strict=True)
        for number, region in enumerate((part.get("heatmap") or {}).get("regions", []))
        for item in writer.region(
            f"image {index} region {number}", region, part["heatmap"]["target"], source, part["image"]["laterality"]
        )
    ]
    if found:
        return found
    requested = any(part.get("heatmap") for _, part in images)
    return [comment("The heatmaps have no region" if requested else "Regions were not asked for (option heatmap)")]
