"""The monitor job: captures of changed phantoms make the stack's alarm fire, unchanged ones do not."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from pydicom import dcmread

from mammopipe.inference import monitor
from mammopipe.inference.monitoring.captures import Captures
from mammopipe.inference.monitoring.drift import DriftConfig, Verdict
from mammopipe.inference.server import capture
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View
from mammopipe.processing.datasets.registry import read_labels
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.images.mammogram import Mammogram
from mammopipe.processing.jobs.half_decode import ImageFile
from mammopipe.processing.jobs.prepare import Phi, PrepareTask, prepare_image
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.processing.phantoms.rsna_tree import write_rsna_tree
from mammopipe.training.model.drift_features import fit_drift_reference, groups_of
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.model.prevalence import PrevalenceShift
from tests.inference.conftest import PGM, save_model

CONFIG = PreprocessConfig(height=96, width=64)
PATIENTS, WEEKS, A_WEEK = 60, 6, 24
START = datetime(2026, 1, 5, 9, tzinfo=UTC)
STACK = Path(__file__).parents[3] / "infra" / "stack.yaml"
Pixels = NDArray[np.uint16]
Shift = Callable[[Pixels], Pixels]


def same(pixels: Pixels) -> Pixels:
    return pixels


SHIFTS: dict[str, Shift] = {
    "gain": lambda pixels: (pixels * 0.8).astype(np.uint16),
    "inverted": lambda pixels: np.asarray(65535 - pixels, np.uint16),
    "blurred": lambda pixels: np.asarray(
        (pixels.astype(float) + np.roll(pixels, 2, 0) + np.roll(pixels, 2, 1)) / 3, np.uint16
    ),
}


@cache
def drawn(patient: int, digital: bool = False) -> Pixels:
    image = make_film(
        patient,
        label=list(Label)[patient % 3],
        laterality=Laterality.LEFT,
        height=256,
        width=256,
        padded=not digital,
        bits=12 if digital else 8,
    )
    return image.pixels


@cache
def quality(patient: int, shift: str, digital: bool = False) -> dict[str, Any]:
    pixels = SHIFTS.get(shift, same)(drawn(patient, digital))
    return dict(preprocess(Mammogram(pixels, Laterality.LEFT, View.MLO), CONFIG).quality)


def probabilities(patient: int) -> NDArray[np.float64]:
    shares = np.random.default_rng(patient).dirichlet((4, 2, 2))
    return np.asarray(shares, np.float64)


def record(patient: int) -> ImageRecord:
    return ImageRecord(
        f"film{patient}",
        str(patient),
        "mias",
        Laterality.LEFT,
        View.MLO,
        Label.NORMAL,
        quality=quality(patient, ""),
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder)
    description = json.loads((folder / "model.json").read_text())
    learnt, judged = [record(n) for n in range(40)], [record(n) for n in range(40, PATIENTS)]
    fitted = fit_drift_reference(learnt, judged, np.array([probabilities(n) for n in range(40, PATIENTS)]), malignant=2)
    strangeness = {"file": "reference.safetensors", "sha256": "0" * 64, "limit": 2.0}
    description["reference"] = {
        "fitted_on": "validation",
        "malignancy_deciles": [n / 10 for n in range(1, 10)],
        "entropy_limit": 1.0,
        "strangeness": strangeness,
        "distributions": fitted,
    }
    description["files"][strangeness["file"]] = strangeness["sha256"]
    (folder / "model.json").write_text(json.dumps(description))
    return folder


def answer(patient: int, shift: str = "", digital: bool = False) -> dict[str, Any]:
    shares = probabilities(patient)
    return {
        "schema_version": 2,
        "image": {"quality": quality(patient, shift, digital)},
        "malignancy_score": 100 * shares[2],
        "entropy": float(-(shares * np.log(shares)).sum()),
    }


def line(answer: dict[str, Any], moment: datetime, body: bytes = b"", kind: str = PGM) -> dict[str, Any]:
    return capture.captured(
        body, {"content-type": kind}, json.dumps(answer).encode(), {"content-type": "application/json"}, moment
    )


def weeks(answers: Callable[[int, int], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the captured lines of all weeks; `answers` gives the answer of a week to a patient."""
    order = np.random.default_rng(5)
    for week in range(WEEKS):
        for place, patient in enumerate(order.permutation(PATIENTS)[:A_WEEK]):
            yield line(answers(week, int(patient)), START + timedelta(weeks=week, minutes=10 * place))


class Job:
    """The job as its container runs it."""

    def __init__(self, base: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
        self.base, self.inputs = base, base / "processing" / "input"
        monkeypatch.setenv("MAMMOPIPE_BASE", str(base))
        (self.inputs / "captures").mkdir(parents=True)
        (self.inputs / "model").mkdir()
        with tarfile.open(self.inputs / "model" / "model.tar.gz", "w:gz") as packed:
            packed.add(model / "model.json", "model.json")

    def keep(self, lines: Sequence[dict[str, Any]] | Iterator[dict[str, Any]]) -> None:
        for each in lines:
            capture.append(self.inputs / "captures" / "mammopipe" / "AllTraffic", each)

    def run(self, *arguments: str) -> dict[str, Any]:
        monitor.main(arguments)
        found: dict[str, Any] = json.loads((self.output / "drift.json").read_text())
        return found

    @property
    def output(self) -> Path:
        return self.base / "processing" / "output" / "monitor"


@pytest.fixture
def job(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    return Job(tmp_path, model, monkeypatch)


def fires(log: str) -> bool:
    """Return whether the job's log would make the stack's alarm fire."""
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_multi_constructor("!", lambda loader, tag, node: str(node.value))
    alarm = yaml.load(STACK.read_text(), loader)["Resources"]["InputDriftAlarm"]["Properties"]
    assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold" and "Dimensions" not in alarm
    values = []
    for text in filter(lambda text: text.startswith("{"), log.splitlines()):
        document = json.loads(text)
        (directive,) = document["_aws"]["CloudWatchMetrics"]
        names = [metric["Name"] for metric in directive["Metrics"]]
        if directive["Namespace"] == alarm["Namespace"] and [] in directive["Dimensions"]:
            assert alarm["MetricName"] in names
            values.append(document[alarm["MetricName"]])
    assert len(values) == 1
    return bool(values[0] >= alarm["Threshold"])


def metrics(log: str) -> dict[str, dict[str, float]]:
    """Return the metrics that CloudWatch would extract from the log, by group; "" for all groups together."""
    found: dict[str, dict[str, float]] = {}
    for document in map(json.loads, filter(lambda text: text.startswith("{"), log.splitlines())):
        (directive,) = document["_aws"]["CloudWatchMetrics"]
        found[document.get("Group", "")] = {each["Name"]: document[each["Name"]] for each in directive["Metrics"]}
    return found


def test_quiet_weeks_do_not_raise_the_alarm(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.keep(weeks(lambda week, patient: answer(patient)))
    report = job.run()
    output = capsys.readouterr().out
    assert not fires(output) and report["alarms"] == [] and "quiet: drift index" in output
    assert report["exams"] == WEEKS * A_WEEK and report["drift_index"] > 0
    assert "No drift found" in (job.output / "drift.html").read_text()


def test_too_few_requests_are_not_called_quiet(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    few = DriftConfig().least_exams - 1
    job.keep(line(answer(patient, "inverted"), START + timedelta(minutes=patient)) for patient in range(few))
    report = job.run()
    assert report["verdict"] == Verdict.NOT_JUDGED and report["exams"] == few
    output = capsys.readouterr().out
    assert f"not judged: {few} requests" in output and report["drift_index"] is None
    assert metrics(output) == {"": {"Requests": few, "UnreadableShare": 0.0}, "all": {"Requests": few}}, "no index of 0"
    page = (job.output / "drift.html").read_text()
    assert "Too few requests to judge" in page and "No drift found" not in page


@pytest.mark.parametrize("shift", [*SHIFTS, "other machine"])
def test_shifted_images_raise_the_alarm(job: Job, capsys: pytest.CaptureFixture[str], shift: str) -> None:
    digital = shift == "other machine"
    job.keep(weeks(lambda week, patient: answer(patient, shift, digital) if week >= 4 else answer(patient)))
    report = job.run()
    assert fires(capsys.readouterr().out)
    figure = report["groups"]["all"]["figures"][report["alarms"][0]["figure"]]
    assert all(strength < 1 for strength in figure["strength"][:4]) and figure["strength"][-1] >= 1
    page = (job.output / "drift.html").read_text()
    assert "The images have drifted" in page and page.count("<svg") >= 4


def test_a_change_of_the_scores_alone_raises_the_alarm(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    def answered(week: int, patient: int) -> dict[str, Any]:
        return {**answer(patient), **({"malignancy_score": 97.0, "entropy": 0.15} if week >= 3 else {})}

    job.keep(weeks(answered))
    report = job.run()
    assert fires(capsys.readouterr().out)
    assert {alarm["figure"] for alarm in report["alarms"]} == {"malignancy", "entropy"}


def test_what_was_accepted_is_no_drift_any_more(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.keep(weeks(lambda week, patient: answer(patient, "gain")))
    assert job.run()["drift_index"] >= 1
    (job.inputs / "baseline").mkdir()
    (job.output / "baseline.json").rename(job.inputs / "baseline" / "baseline.json")
    report = job.run()
    assert report["drift_index"] < 1 and report["groups"]["all"]["known"] == "baseline"


def test_machines_and_sites_are_judged_apart(job: Job, tmp_path: Path) -> None:
    write_rsna_tree(tmp_path / "rsna", patients=2, height=256)
    source = next((tmp_path / "rsna").rglob("*.dcm"))

    def dicom(model: str) -> bytes:
        dataset, target = dcmread(source), io.BytesIO()
        dataset.Manufacturer, dataset.ManufacturerModelName, dataset.InstitutionName = "ACME", model, "St. Elsewhere"
        dataset.save_as(target)
        return target.getvalue()

    bodies = {machine: dicom(machine) for machine in ("One", "Two")}
    for week in range(WEEKS):
        for place in range(2 * A_WEEK):
            machine = "Two" if place % 2 else "One"
            answered = answer(place, "inverted" if machine == "Two" and week >= 4 else "")
            job.keep(
                [line(answered, START + timedelta(weeks=week, minutes=place), bodies[machine], "application/dicom")]
            )
    report = job.run()
    assert set(report["groups"]) == {"all", "machine ACME One", "machine ACME Two", *sites(report)}
    assert len(sites(report)) == 1 and "Elsewhere" not in json.dumps(report)
    assert report["groups"]["machine ACME Two"]["alarms"] and not report["groups"]["machine ACME One"]["alarms"]


def test_a_machine_has_one_name_in_training_and_in_requests(job: Job, tmp_path: Path) -> None:
    write_rsna_tree(tmp_path / "rsna", patients=1, height=256)
    source = next((tmp_path / "rsna").rglob("*.dcm"))
    of_table = next(row for row in read_labels("rsna", tmp_path / "rsna" / "train.csv") if row.image_id == source.stem)
    task = PrepareTask(ImageFile(of_table, source, 256), tmp_path / "out", Phi.DROP)
    (silent,) = prepare_image(task)
    assert (silent.machine_id, silent.site_id) == (of_table.machine_id, of_table.site_id), "its header says nothing"
    dataset = dcmread(source)
    dataset.Manufacturer, dataset.ManufacturerModelName = "ACME Ltd.", " Mammo,  Model\\One"
    dataset.InstitutionName = "St. Elsewhere"
    dataset.save_as(source)
    (learnt,) = prepare_image(task)
    job.keep([line(answer(1), START, source.read_bytes(), "application/dicom")])
    (exam,) = Captures(job.inputs / "captures", CONFIG).exams()
    (image,) = exam.images
    assert groups_of(learnt.machine_id, learnt.site_id) == groups_of(image.machine, image.site)
    assert learnt.machine_id == "ACME Ltd. Mammo Model" and learnt.site_id != of_table.site_id


def sites(report: dict[str, Any]) -> set[str]:
    return {name for name in report["groups"] if name.startswith("site ")}


@pytest.mark.parametrize(("validation", "expected"), [(0.2, 0.5), (None, None)])
def test_a_score_at_a_deployments_prevalence_is_moved_back(
    job: Job, validation: float | None, expected: float | None
) -> None:
    """The reference assumes validation's prevalence; another prevalence of the deployment must not raise an alarm."""
    shift = PrevalenceShift({Level.IMAGE: 0.2, Level.BREAST: 0.25, Level.PATIENT: 0.4}, 0.01)
    answered = answer(1) | {
        "malignancy_score": 100 * shift.malignancy(Level.IMAGE, 0.5),
        "prevalence": {"value": shift.prevalence[Level.IMAGE], "of": "deployment", "level": "image"},
    }
    job.keep([line(answered, START)])
    (exam,) = Captures(job.inputs / "captures", CONFIG, prevalence=validation).exams()
    assert exam.images[0].figures.get("malignancy") == (expected and pytest.approx(expected))


def test_an_image_whose_answer_is_a_picture_is_measured_again(job: Job, phantom: Any) -> None:
    captured_line = capture.captured(
        phantom.pgm, {"content-type": PGM}, b"\x89PNG", {"content-type": "image/png"}, START
    )
    job.keep([captured_line])
    (exam,) = Captures(job.inputs / "captures", CONFIG).exams()
    assert exam.images[0].figures["coverage"] > 0.1 and "malignancy" not in exam.images[0].figures


def test_broken_lines_are_counted_and_many_end_the_job(job: Job) -> None:
    job.keep(weeks(lambda week, patient: answer(patient)))
    broken = job.inputs / "captures" / "x.jsonl"
    broken.write_text("{\n" * 10)
    assert job.run()["unreadable"] == {"not a captured request (JSONDecodeError)": 10}
    broken.write_bytes(b'"\xff"\n' * 10)
    assert job.run()["unreadable"] == {"not a captured request (UnicodeDecodeError)": 10}
    broken.write_text("{\n" * 1000)
    with pytest.raises(ConfigError, match="1000 of 1144 captured requests have no readable image"):
        job.run()


def test_without_captures_or_reference_there_is_one_line(job: Job, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no \*\.jsonl files"):
        job.run()
    save_model(tmp_path / "old")
    (job.inputs / "model" / "model.tar.gz").unlink()
    (tmp_path / "old" / "model.json").rename(job.inputs / "model" / "model.json")
    job.keep(weeks(lambda week, patient: answer(patient)))
    with pytest.raises(ConfigError, match="has no reference.distributions"):
        job.run()


def test_captures_before_the_windows_are_not_read(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.keep(weeks(lambda week, patient: answer(patient)))
    (oldest, *_) = sorted((job.inputs / "captures").rglob("*.jsonl"))
    oldest.write_text("{\n" * 1000)
    report = job.run("--windows", "2")
    assert report["exams"] == 2 * A_WEEK and report["unreadable"] == {}
    assert metrics(capsys.readouterr().out)[""]["Requests"] == 2 * A_WEEK
