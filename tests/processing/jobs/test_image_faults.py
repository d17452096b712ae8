"""A failed image gets a row in the quarantine; a read image gets its flags and turned lesions."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import (
    ImageRecord,
    Label,
    Laterality,
    Lesion,
    Split,
    View,
    read_manifest,
    write_manifest,
)
from mammopipe.processing.errors import ConfigError, ImageError
from mammopipe.processing.jobs.half_decode import ImageFile
from mammopipe.processing.jobs.prepare import Phi, PrepareTask, prepare_image
from mammopipe.processing.jobs.stage import Stage


class OddError(Exception):
    """An error that cannot be unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


@dataclass(frozen=True)
class Task:
    record: ImageRecord


def record(number: int) -> ImageRecord:
    return ImageRecord(
        str(number), str(number), "rsna", Laterality.LEFT, View.MLO, Label.NORMAL, Split.TRAIN,
        lesions=(Lesion(10.0, 20.0, 5.0, Label.MALIGNANT),),
    )  # fmt: skip


def work(task: Task) -> list[ImageRecord]:
    faults = {
        "3": OddError("Doe^Jane", "4711"),
        "5": KeyError("Doe^Jane"),
        "6": MemoryError(),
        "7": ImageError("seven"),
    }
    if task.record.image_id in faults:
        raise faults[task.record.image_id]
    return [task.record]


def misconfigured(task: Task) -> list[ImageRecord]:
    raise ConfigError("a setting")


def stage(folder: Path) -> Stage:
    return Stage("test", folder, "algo-1", ["algo-1"], {}, "digest")


def test_any_error_of_a_worker_refuses_its_image_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    at_work = stage(tmp_path)
    at_work.work(work, [Task(record(number)) for number in range(9)])
    reasons = dict(at_work.quarantined)
    assert sorted(each.image_id for each in at_work.records) == ["0", "1", "2", "4", "8"]
    assert [reasons[name].split(":")[0] for name in ("3", "5", "6", "7")] == [
        "OddError",
        "KeyError",
        "MemoryError",
        "seven",
    ]
    printed = "".join(capfd.readouterr()) + repr(reasons)
    assert "Doe" not in printed and "4711" not in printed


def test_an_error_of_the_settings_ends_the_job(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        stage(tmp_path).work(misconfigured, [Task(record(1))])


@pytest.mark.parametrize("mirrored", [True, False])
def test_lesions_and_flags_follow_a_turned_image(
    make_dicom: Callable[..., bytes], tmp_path: Path, mirrored: bool
) -> None:
    y, x = np.mgrid[0:96, 0:64]
    cells = np.where(np.hypot((y - 48) / 43, x / 40) < 1, 1500 + 10 * y, 0).astype(np.uint16)
    values = {"ImageLaterality": "L", "PatientOrientation": ["A", "FR"]}
    if mirrored:
        cells, values["PatientOrientation"] = cells[::-1, ::-1].copy(), ["P", "HL"]
    (tmp_path / "1.dcm").write_bytes(make_dicom(cells, bits=12, PartialView="YES", **values))
    source = ImageFile(record(1), tmp_path / "1.dcm", 48)
    (prepared,) = prepare_image(PrepareTask(source, tmp_path, Phi.REFUSE))
    x, y = (63 - 10, 95 - 20) if mirrored else (10, 20)
    (lesion,) = prepared.lesions
    assert (lesion.x, lesion.y, lesion.radius) == pytest.approx(((x + 0.5) / 2 - 0.5, (y + 0.5) / 2 - 0.5, 2.5))
    assert prepared.image_flags == (("partial-view", "turned") if mirrored else ("partial-view",))
    write_manifest([prepared], tmp_path / "manifest.csv")
    assert read_manifest(tmp_path / "manifest.csv")[0].image_flags == prepared.image_flags
