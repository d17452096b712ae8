"""Subgroups: their members, their metrics, and too few patients for a metric."""

from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as reference

from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Lesion, View
from mammopipe.training.metrics import classification
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.subgroups import LEAST_PATIENTS, subgroups
from mammopipe.training.model.exam_scores import Cases, Level

PATIENTS = 60


def rows() -> list[ImageRecord]:
    """Return two images of each patient; every third patient is malignant, and the first of each two is at site 1."""
    return [
        ImageRecord(
            f"{patient:02d}{view}",
            f"p{patient:02d}",
            "rsna",
            Laterality.LEFT,
            view,
            Label.MALIGNANT if patient % 3 == 0 else Label.NORMAL,
            site_id=str(1 + patient % 2),
            implant=False,
        )
        for patient in range(PATIENTS)
        for view in (View.CC, View.MLO)
    ]


def images(records: list[ImageRecord]) -> Cases:
    malignant = np.array([int(record.label is Label.MALIGNANT) for record in records])
    scores = np.random.default_rng(0).random(len(records)) * 0.7 + 0.3 * malignant
    return Cases(Level.IMAGE, malignant, scores, np.arange(len(records)))


def right(records: list[ImageRecord]) -> np.ndarray:
    """Return 1 for the first image of each patient, which is called correctly, and 0 for the second."""
    return np.array([int(record.view is View.CC) for record in records])


def found(records: list[ImageRecord], threshold: float = 0.5):
    draws = Resamples.draw([record.patient_id for record in records], n=100, seed=0)
    return subgroups(records, images(records), right(records), threshold, draws)["by"]


def values(by, name: str) -> list[str]:
    return [group["value"] for group in by[name]]


def test_figures_are_those_of_the_images_of_a_subgroup():
    records = rows()
    cases, by = images(records), found(records)
    for group in by["site"]:
        own = np.array([record.site_id == group["value"] for record in records])
        truth, scores = cases.malignant[own], cases.scores[own]
        assert (group["images"], group["patients"], group["malignant"]) == (60, 30, 20)
        assert group["malignant_auc"]["value"] == pytest.approx(reference.roc_auc_score(truth, scores))
        assert group["sensitivity"]["value"] == pytest.approx((scores[truth == 1] >= 0.5).mean())
        assert group["specificity"]["value"] == pytest.approx((scores[truth == 0] < 0.5).mean())
        assert group["malignant_auc"]["low"] < group["malignant_auc"]["value"] < group["malignant_auc"]["high"]


def test_the_threshold_is_the_given_one():
    by = found(rows(), threshold=0.9)
    assert by["site"][0]["sensitivity"]["value"] < found(rows())["site"][0]["sensitivity"]["value"]
    records = rows()
    draws = Resamples.draw([record.patient_id for record in records], n=100, seed=0)
    assert subgroups(records, images(records), right(records), 0.9, draws)["threshold"] == 0.9


def test_intervals_come_from_the_draws_of_all_images():
    records = rows()
    draws, cases = Resamples.draw([record.patient_id for record in records], n=100, seed=0), images(records)
    own = np.flatnonzero([record.view is View.CC for record in records])
    expected = draws.of(own).interval(classification.roc_auc, cases.malignant[own], cases.scores[own], level=0.95)
    assert found(records)["view"][0]["malignant_auc"] == expected.as_dict()


def test_attributes_of_one_value_are_left_out_whether_or_not_some_images_lack_it():
    assert set(found(rows())) == {"site", "view"}
    records = [replace(record, density="B" if index % 2 else "") for index, record in enumerate(rows())]
    assert "density" not in found(records)
    records[0] = replace(records[0], density="A")
    assert values(found(records), "density") == ["A", "B", "not stated"]


def test_values_stand_in_their_natural_order():
    ages = [70.0, 49.9, None, 69.9, 50.0, 60.0, 95.0, 30.0]
    records = [
        replace(
            record,
            age=ages[index % 8],
            machine_id=("170", "29", "")[index % 3],
            implant=(True, False, None)[index % 3],
            finding=("CIRC", "", "ARCH")[index % 3],
        )
        for index, record in enumerate(rows())
    ]
    by = found(records)
    assert list(by) == ["site", "machine", "age", "view", "implant", "finding"]
    assert values(by, "age") == ["under 50", "50 to 59", "60 to 69", "70 and over", "not stated"]
    assert [group["images"] for group in by["age"]] == [30, 15, 30, 30, 15]
    assert values(by, "machine") == ["29", "170", "not stated"]
    assert values(by, "implant") == ["no", "yes", "not stated"]
    assert values(by, "finding") == ["ARCH", "CIRC", "none"]


def test_an_image_counts_for_each_of_its_flags():
    flags = [{"flags": ["a", "b"]}, {"flags": ["b"]}, {"flags": []}, {}]
    by = found([replace(record, quality=flags[index % 4]) for index, record in enumerate(rows())])
    assert {group["value"]: group["images"] for group in by["film flags"]} == {
        "a": 30,
        "b": 60,
        "none": 30,
        "not stated": 30,
    }


def test_too_few_patients_are_named_instead_of_a_figure():
    # Site 1 has the malignant patients 0, 6, 12 ...: move all but nine of its ten to site 2.
    records = [replace(record, site_id="2") if record.patient_id == "p00" else record for record in rows()]
    first, second = found(records)["site"]
    assert first["malignant"] == 18, "images are many, patients are nine"
    for name in ("malignant_auc", "sensitivity"):
        assert first[name]["value"] is None and first[name]["low"] is None
        assert first[name]["reason"] == "too few: 9 with a malignant image, of 10 patients needed"
        assert second[name]["value"] is not None
    assert first["specificity"]["value"] is not None, "twenty patients have other images"
    assert LEAST_PATIENTS == 10 and found(rows())["site"][0]["sensitivity"]["value"] is not None


def test_a_patient_counts_on_both_sides_when_she_has_both_kinds_of_image():
    records = [replace(record, label=Label.NORMAL) if record.view is View.MLO else record for record in rows()]
    records = [replace(record, site_id="1" if int(record.patient_id[1:]) % 3 == 0 else "2") for record in records]
    first, second = found(records)["site"]
    assert first["specificity"]["value"] is not None and first["malignant_auc"]["value"] is not None
    assert second["malignant_auc"]["reason"] == "too few: 0 with a malignant image, of 10 patients needed"


def test_accuracy_is_the_share_of_images_that_are_called_rightly():
    by = found(rows())
    for group in by["site"]:
        assert group["accuracy"]["value"] == 0.5
    assert [group["accuracy"]["value"] for group in by["view"]] == [1.0, 0.0]
    assert by["view"][0]["accuracy"]["low"] > 0.9 and by["view"][1]["accuracy"]["high"] < 0.1
    few = [replace(record, machine_id="21" if int(record.patient_id[1:]) < 9 else "29") for record in rows()]
    assert found(few)["machine"][0]["accuracy"]["reason"] == "too few: 9 patients, of 10 patients needed"


def test_malignant_images_of_a_finding_are_compared_with_all_images_that_are_not_malignant():
    records = [
        replace(record, finding="CIRC" if int(record.patient_id[1:]) % 2 else "SPIC")
        if record.label is Label.MALIGNANT
        else record
        for record in rows()
    ]
    cases = images(records)
    for group in found(records)["finding"][:2]:
        own = np.array([record.finding == group["value"] or record.label is not Label.MALIGNANT for record in records])
        expected = reference.roc_auc_score(cases.malignant[own], cases.scores[own])
        assert group["malignant_auc"]["value"] == pytest.approx(expected)
        assert group["images"] == 20 and group["specificity"]["value"] is None


def test_lesions_stand_in_bands_of_their_diameter_in_millimetres():
    radii = {0: 20.0, 3: 40.0, 6: 90.0, 9: 300.0}
    records = []
    for record in rows():
        patient = int(record.patient_id[1:])
        lesions = (
            (Lesion(1, 1, 1.0, Label.BENIGN), Lesion(5, 5, radii[patient % 12], Label.MALIGNANT))
            if record.label is Label.MALIGNANT
            else ()
        )
        spacing = None if patient == 0 else 0.2
        records.append(replace(record, lesions=lesions, pixel_spacing_mm=spacing))
    by = found(records)["lesion size"]
    assert {group["value"]: group["malignant"] for group in by} == {
        "under 10 mm": 8,
        "10 to 19 mm": 10,
        "20 to 49 mm": 10,
        "50 mm and over": 10,
        "none": 0,
        "not stated": 2,
    }
    assert values({"lesion size": by}, "lesion size")[-3:] == ["20 to 49 mm", "50 mm and over", "not stated"]


@pytest.mark.parametrize(
    ("radius", "band"), [(4.99, "under 10 mm"), (5.0, "10 to 19 mm"), (10.0, "20 to 49 mm"), (25.0, "50 mm and over")]
)
def test_a_lesion_at_the_bound_of_a_band_is_in_the_next(radius: float, band: str):
    lesion = Lesion(1, 1, radius, Label.MALIGNANT)
    records = [
        replace(record, lesions=(lesion,), pixel_spacing_mm=1.0) if record.label is Label.MALIGNANT else record
        for record in rows()
    ]
    assert values(found(records), "lesion size") == sorted(["none", band], key=len)


def test_a_lesion_that_is_not_marked_has_no_known_size():
    lesion = Lesion(1, 1, 3.0, Label.MALIGNANT)
    marked = [replace(rows()[0], lesions=(lesion,), pixel_spacing_mm=1.0), *rows()[1:]]
    by = {group["value"]: group["images"] for group in found(marked)["lesion size"]}
    assert by == {"none": 80, "under 10 mm": 1, "not stated": 39}


def test_every_attribute_of_a_record_makes_subgroups():
    other = {
        "dataset": "mias",
        "laterality": Laterality.RIGHT,
        "density": "C",
        "quality": {"image_flags": ["implant", "marker"]},
        "site_id": "",
    }
    records = [replace(record, **other) if index < 60 else record for index, record in enumerate(rows())]
    records = [replace(record, density=record.density or "D") for record in records]
    by = found(records)
    assert values(by, "dataset") == ["mias", "rsna"] and values(by, "side") == ["L", "R"]
    assert values(by, "density") == ["C", "D"] and values(by, "image flags") == ["implant", "marker", "none"]
    assert values(by, "site") == ["1", "2", "not stated"]


def test_the_reason_names_every_kind_of_which_there_are_too_few():
    records = [replace(record, machine_id="21" if int(record.patient_id[1:]) < 10 else "29") for record in rows()]
    group = found(records)["machine"][0]
    few = "6 with a non-malignant image", "4 with a malignant image"
    assert group["malignant_auc"]["reason"] == f"too few: {few[0]} and {few[1]}, of 10 patients needed"
    assert group["specificity"]["reason"] == f"too few: {few[0]}, of 10 patients needed"
    assert group["accuracy"]["value"] == 0.5, "ten patients of any kind are enough"
    draws = Resamples.draw([record.patient_id for record in records], n=20, seed=0)
    assert subgroups(records, images(records), right(records), 0.5, draws)["least_patients"] == 10
