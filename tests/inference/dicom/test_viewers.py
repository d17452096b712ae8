"""A structured report in the published code of viewers: OHIF's SR extension, Cornerstone's adapters, dcmjs, highdicom.

`make test` installs the npm packages into `.services/viewers`; without them, or without node, the tests are skipped.
"""

import json
import os
import shutil
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from highdicom.sr import srread

from mammopipe.inference.dicom.results import structured_report
from tests.inference.conftest import REPOSITORY
from tests.inference.dicom.dicom_examples import REGIONS, exam, instances, one, phantom_exams

SCRIPT = Path(__file__).parent / "viewers" / "read_report.mjs"
VIEWERS = Path(os.environ.get("MAMMOPIPE_VIEWERS", REPOSITORY / ".services" / "viewers"))
needs_viewers = pytest.mark.skipif(
    shutil.which("node") is None or not (VIEWERS / "node_modules" / "@ohif").is_dir(),
    reason="node or the npm packages of the viewers are missing (make test installs them)",
)
BOXES = [[region["left"], region["top"], region["right"], region["bottom"]] for region in REGIONS]


def viewed(report: bytes, files: list[bytes], folder: Path) -> Any:
    """Return the annotations that the viewers would draw for a report."""
    paths = [folder / "report.dcm", *(folder / f"{number}.dcm" for number in range(len(files)))]
    for path, data in zip(paths, [report, *files], strict=True):
        path.write_bytes(data)
    # Node looks for packages from the folder of the script.
    script = shutil.copy(SCRIPT, VIEWERS)
    done = subprocess.run(["node", script, *paths], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@needs_viewers
@pytest.mark.parametrize("machine", [0, 1])
def test_every_region_of_an_exam_is_drawn_on_its_own_image(machine: int, tmp_path: Path) -> None:
    files = phantom_exams()[machine]
    found = viewed(structured_report(files, exam(files)), files, tmp_path)
    expected = sorted([uid, *box] for uid in instances(files)[1:] for box in BOXES)  # the first image has no heatmap
    assert found["ohif"]["sopClassIsRead"] and found["ohif"]["referencedImages"] == instances(files)
    assert found["ohif"]["measurements"] == len(expected)
    shifted = sorted([uid, *(place - 0.5 for place in box)] for uid, *box in expected)  # 0 is a pixel's centre there
    assert sorted(found["ohif"]["boxes"]) == shifted
    assert sorted(found["cornerstone"]) == shifted
    assert sorted(found["dcmjs"]) == expected


@needs_viewers
@pytest.mark.parametrize("heatmap", [None, {"regions": []}])
def test_a_report_without_regions_is_loaded(heatmap: dict[str, Any] | None, tmp_path: Path) -> None:
    data = phantom_exams()[0][0]
    answer = one(data)
    given = answer.heatmap and answer.heatmap.model_copy(update=heatmap)
    report = structured_report([data], answer.model_copy(update={"heatmap": given if heatmap else None}))
    found = viewed(report, [data], tmp_path)
    assert (found["ohif"]["boxes"], found["cornerstone"], found["dcmjs"]) == ([], [], [])


def test_highdicom_reads_every_region_and_nothing_else_as_a_measurement() -> None:
    files = phantom_exams()[0]
    content = srread(BytesIO(structured_report(files, exam(files)))).content
    found = [
        [group.roi.ContentSequence[0].referenced_sop_instance_uid, *group.roi.value.min(0), *group.roi.value.max(0)]
        for group in content.get_planar_roi_measurement_groups()
    ]
    assert found == [[uid, *box] for uid in instances(files)[1:] for box in BOXES]
    assert content.get_image_measurement_groups() == []
