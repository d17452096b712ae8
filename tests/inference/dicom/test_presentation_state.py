"""Presentation states: they show each image as the reader does, and draw its regions in its own pixels."""

import shutil
import subprocess
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest

from mammopipe.inference.contract.errors import NotAcceptableError
from mammopipe.inference.dicom.results import all_results, presentation_state, presentation_states
from mammopipe.processing.images.mammogram import read_mammogram
from tests.inference.dicom.dicom_examples import (
    POOR,
    REGIONS,
    SECRETS,
    changed,
    exam,
    image_facts,
    instances,
    one,
    opened,
    phantom_exams,
)


def uncompressed(data: bytes, **attributes: Any) -> bytes:
    """Return the file with native pixels, which every viewer reads."""
    dataset = pydicom.dcmread(BytesIO(data))
    dataset.decompress()
    for keyword, value in {**SECRETS, **attributes}.items():
        setattr(dataset, keyword, value)
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def table(bits: int, entries: int) -> pydicom.Dataset:
    """Return a VOI LUT that is no straight line."""
    item = pydicom.Dataset()
    values = (np.linspace(0, 1, entries) ** 2 * (2**bits - 1)).astype("<u2")
    item.add_new("LUTDescriptor", "US", [entries, 0, bits])
    item.add_new("LUTData", "OW", values.tobytes())
    return item


@pytest.mark.parametrize("machine", [0, 1])
def test_regions_are_boxes_in_pixels_of_their_own_image(machine: int) -> None:
    files = phantom_exams()[machine]
    state = opened(presentation_state(files, exam(files)))
    assert state.SOPClassUID.name == "Grayscale Softcopy Presentation State Storage" and state.Modality == "PR"
    [series] = state.ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedImageSequence] == instances(files)
    for uid, annotation in zip(instances(files), state.GraphicAnnotationSequence, strict=True):
        assert annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID == uid
        found = [list(shape.GraphicData) for shape in annotation.get("GraphicObjectSequence", [])]
        asked = uid != instances(files)[0]  # the first image has no heatmap
        corners = [[one["left"], one["top"], one["right"], one["bottom"]] for one in REGIONS]
        assert [[*box[:2], *box[4:6]] for box in found] == (corners if asked else [])
        assert [len(box) for box in found] == [10] * len(found), "closed"
    areas = [list(item.DisplayedAreaBottomRightHandCorner) for item in state.DisplayedAreaSelectionSequence]
    assert areas == [[opened(data).Columns, opened(data).Rows] for data in files]


def test_the_notice_and_a_referral_are_written_on_the_image() -> None:
    data = phantom_exams()[0][0]
    state = opened(presentation_state([data], one(data, referral=POOR)))
    line = state.GraphicAnnotationSequence[0].TextObjectSequence[0].UnformattedTextValue
    assert line == "research use only: not for diagnosis; malignancy score 70 of 100; REFER TO READER"


def test_images_of_different_polarity_need_several_states() -> None:
    first = phantom_exams()[0][0]
    second = changed(
        phantom_exams()[1][1], StudyInstanceUID=opened(first).StudyInstanceUID, PatientID=opened(first).PatientID
    )
    answer = exam([first, second])
    with pytest.raises(NotAcceptableError, match="result=all"):
        presentation_state([first, second], answer)
    states = [opened(data) for data in presentation_states([first, second], answer)]
    assert [state.PresentationLUTShape for state in states] == ["IDENTITY", "INVERSE"]
    assert [state.InstanceNumber for state in states] == [1, 2]


@pytest.mark.skipif(shutil.which("dcmp2pgm") is None, reason="dcmp2pgm (Debian's dcmtk) is not installed")
@pytest.mark.parametrize(
    ("machine", "attributes"),
    [
        (0, {}),
        (1, {"VOILUTFunction": "LINEAR"}),
        (0, {"RescaleSlope": 2, "RescaleIntercept": -500}),
        (0, {"VOILUTSequence": [table(12, 4096)]}),
    ],
)
def test_a_viewer_shows_the_image_as_the_reader_does(machine: int, attributes: dict[str, Any], tmp_path: Path) -> None:
    data = uncompressed(phantom_exams()[machine][1], **attributes)
    source, state, shown = tmp_path / "image.dcm", tmp_path / "state.dcm", tmp_path / "shown.pgm"
    source.write_bytes(data)
    state.write_bytes(presentation_state([data], one(data)))
    subprocess.run(["dcmp2pgm", "-p", state, source, shown], check=True, capture_output=True)
    picture = cv2.imread(str(shown), cv2.IMREAD_UNCHANGED).astype(int)
    # The reader makes air 0 whatever its grey; the state shows the pixels as they are, air included.
    inside = read_mammogram(data).pixels > 65535 * 0.02
    difference = np.abs(picture - (read_mammogram(data).pixels >> 8).astype(int))[inside]
    assert difference.max() <= 2 and picture.std() > 10


def test_a_window_keeps_its_function() -> None:
    """dcmtk shows every window as a linear one, so that this one is not compared as a picture."""
    data = phantom_exams()[1][1]
    [item] = opened(presentation_state([data], one(data))).SoftcopyVOILUTSequence
    source = opened(data)
    first = (source.WindowCenter[0], source.WindowWidth[0])
    assert (item.VOILUTFunction, item.WindowCenter, item.WindowWidth) == ("SIGMOID", *first)


@pytest.mark.parametrize("program", ["dcmpschk", "dciodvfy"])
@pytest.mark.parametrize("machine", [0, 1])
def test_a_validator_finds_no_error(machine: int, program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} (Debian's dcmtk, dicom3tools) is not installed")
    files = [changed(data, **SECRETS) for data in phantom_exams()[machine]]
    path = tmp_path / "state.dcm"
    path.write_bytes(presentation_state(files, exam(files)))
    done = subprocess.run([program, path], capture_output=True, text=True, check=False, errors="replace")
    output = (done.stderr + done.stdout).splitlines()
    assert done.returncode == 0 and output
    assert not [line for line in output if line.startswith(("Error", "E:", "F:"))]


def test_all_results_are_in_one_archive_under_names_of_their_own() -> None:
    files = [changed(data, **SECRETS) for data in phantom_exams()[0]]
    answer = exam(files)
    archive = zipfile.ZipFile(BytesIO(all_results(files, answer, [b"first", b"second"])))
    dicoms = {
        name: opened(archive.read(name)).SOPClassUID.name
        for name in archive.namelist()
        if "overlay" not in name and name.endswith("dcm")
    }
    assert dicoms == {
        "report.dcm": "Comprehensive SR Storage",
        "cad-report.dcm": "Mammography CAD SR Storage",
        "presentation-state-0.dcm": "Grayscale Softcopy Presentation State Storage",
    }
    assert (archive.read("overlay-0.dcm"), archive.read("overlay-1.dcm")) == (b"first", b"second")
    assert archive.read("answer.json") == answer.model_dump_json().encode()


def test_an_archive_says_why_it_has_no_cad_report() -> None:
    data = phantom_exams()[0][0]
    image = {**image_facts(data)["image"], "view": None}
    archive = zipfile.ZipFile(BytesIO(all_results([data], one(data, image=image), [])))
    assert "cad-report.dcm" not in archive.namelist()
    assert b'"code": "no_view"' in archive.read("cad-report.json")
