"""DICOM results: their identity, times and series, the secondary capture, and a validator that reads them."""

import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import UID

from mammopipe.inference.contract.schema import NOTICE
from mammopipe.inference.dicom.results import overlay_capture, structured_report
from mammopipe.processing.images.mammogram import read_mammogram
from tests.inference.dicom.dicom_examples import (
    MODEL,
    POOR,
    SECRETS,
    changed,
    exam,
    groups,
    heat_over,
    items,
    one,
    opened,
    oriented,
    results,
)


def test_text_beyond_ascii_does_not_break_a_result(exams: list[list[bytes]]) -> None:
    data = exams[0][0]
    model = {**MODEL, "id": "modèle-7"}
    written = overlay_capture(data, heat_over(read_mammogram(data)), one(data, model=model))
    assert opened(written).SoftwareVersions == "mod?le-7"
    group = groups(opened(structured_report([data], one(data, model=model))))["image 0"]
    assert "mod?le-7" in [item.TextValue for item in items(group) if item.ValueType == "TEXT"]


def test_the_same_question_gives_the_same_instance(exams: list[list[bytes]]) -> None:
    data = exams[0][0]

    def uid(**other: Any) -> str:
        return str(opened(structured_report([data], one(data, **other))).SOPInstanceUID)

    first = uid()
    assert uid(request_id="r2") == first
    others = {uid(model={**MODEL, "weights_sha256": "ef" * 32}), uid(malignancy_score=71.0), first}
    others |= {str(opened(result).SOPInstanceUID) for result in results(exams[0][1])}
    assert len(others) == 5
    assert all(UID(other).is_valid and other.startswith("2.25.") for other in others)


def test_another_source_attribute_gives_another_instance(exams: list[list[bytes]]) -> None:
    """What is kept of the source is content, too: the same pixels under another accession number are other results."""
    data = exams[0][0]
    answers = [one(other) for other in (data, changed(data, AccessionNumber="ACC-1"))]
    reports = [
        structured_report([data], answers[0]),
        structured_report([changed(data, AccessionNumber="ACC-1")], answers[1]),
    ]
    assert len({str(opened(report).SOPInstanceUID) for report in reports}) == 2


def test_an_instance_with_equal_uid_differs_in_times_alone(exams: list[list[bytes]]) -> None:
    first, second = (opened(results(exams[0][0])[0]) for _ in range(2))
    assert first.SOPInstanceUID == second.SOPInstanceUID
    for report in (first, second):
        for keyword in ("InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime"):
            setattr(report, keyword, "")
    assert first == second


@pytest.mark.parametrize(("offset", "hours"), [("+0900", 9), ("-0330", -3.5), ("+1400", 14)])
def test_times_are_in_the_zone_of_the_source(exams: list[list[bytes]], offset: str, hours: float) -> None:
    data = changed(exams[0][0], TimezoneOffsetFromUTC=offset)
    there = timezone(timedelta(hours=hours))
    for result in map(opened, results(data)):
        assert result.TimezoneOffsetFromUTC == offset
        for day, time in (("ContentDate", "ContentTime"), ("InstanceCreationDate", "InstanceCreationTime")):
            if day in result:
                written = datetime.strptime(f"{result[day].value}{result[time].value}", "%Y%m%d%H%M%S.%f")
                assert abs(written.replace(tzinfo=there) - datetime.now(there)) < timedelta(minutes=5)
    assert "ContentTime" in opened(results(data)[0])


@pytest.mark.parametrize("offset", [None, "UTC+9", "+2500", "0900", ""])
def test_a_zone_that_is_not_stated_or_unusable_is_left_out(exams: list[list[bytes]], offset: str | None) -> None:
    data = exams[0][0] if offset is None else changed(exams[0][0], TimezoneOffsetFromUTC=offset)
    for result in map(opened, results(data)):
        assert "TimezoneOffsetFromUTC" not in result


@pytest.mark.parametrize(("stated", "kept"), [("YES", "YES"), ("NO", "NO"), (None, None), ("MAYBE", None)])
def test_burned_in_annotation_is_what_the_source_says(
    exams: list[list[bytes]], stated: str | None, kept: str | None
) -> None:
    data = changed(exams[0][0], BurnedInAnnotation=stated)
    assert opened(results(data)[1]).get("BurnedInAnnotation") == kept


def test_each_result_is_a_series_of_its_own(exams: list[list[bytes]]) -> None:
    series = [opened(result).SeriesInstanceUID for data in exams[0][:2] for result in results(data)]
    assert len(set(series)) == 4


@pytest.mark.parametrize("machine", [0, 1])
@pytest.mark.parametrize("index", [0, 3])
def test_the_capture_shows_the_overlay_and_the_notice_in_air(
    exams: list[list[bytes]], machine: int, index: int
) -> None:
    data = exams[machine][index]
    mammogram = read_mammogram(data)
    painted = heat_over(mammogram)
    untouched = painted.copy()
    capture = opened(overlay_capture(data, painted, one(data, referral=POOR)))
    shown = capture.pixel_array[..., ::-1]
    assert np.array_equal(painted, untouched)
    written = (shown != painted).any(axis=2)
    assert 0.002 < written.mean() < 0.1
    assert np.median(mammogram.pixels[written]) < 0.02 * 65535
    assert capture.file_meta.TransferSyntaxUID.name == "JPEG 2000 Image Compression (Lossless Only)"
    assert capture.LossyImageCompression == "00"
    assert capture.ConversionType == "WSD", "a workstation made it"


def test_the_capture_refers_to_its_source(exams: list[list[bytes]]) -> None:
    data = changed(exams[0][0], PatientOrientation=["A", "R"], PixelSpacing=[0.07, 0.07], BurnedInAnnotation="YES")
    capture, source = opened(results(data)[1]), opened(data)
    [reference] = capture.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == source.file_meta.MediaStorageSOPClassUID
    assert capture.StudyInstanceUID == source.StudyInstanceUID
    assert list(capture.PatientOrientation) == ["A", "R"]
    assert list(capture.PixelSpacing) == [0.07, 0.07]
    assert capture.BurnedInAnnotation == "YES"
    assert capture.Laterality == source.ImageLaterality
    assert MODEL["id"] in capture.DerivationDescription
    assert NOTICE in capture.SeriesDescription


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is not installed")
@pytest.mark.parametrize("machine", [0, 1])
def test_a_validator_finds_no_error(exams: list[list[bytes]], machine: int, tmp_path: Path) -> None:
    files = [oriented(data, **SECRETS) for data in exams[machine]]
    for number, result in enumerate(
        [structured_report(files, exam(files)), *results(files[0]), *results(exams[machine][1])]
    ):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(result)
        done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
        assert not [line for line in done.stderr.splitlines() if line.startswith("Error")]
        assert done.returncode == 0
        assert done.stderr.splitlines()[-1:] or done.stdout, "the validator must have said something"
