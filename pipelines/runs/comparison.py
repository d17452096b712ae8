"""Compares runs: their figures, the settings in which they differ, and whether a difference is beyond chance.

If the images are the same, the difference is measured on each resample of patients (`paired_comparison`). If the images
differ, or a run did not keep its predictions, the interval of a difference is computed from the two intervals (Zou and
Donner 2008, the method of variance estimates recovery), as if the runs were of different patients. On the same images
that interval is too wide, so a difference that it shows to be beyond chance certainly is.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mammopipe.pipelines.backends.supported import all_steps
from mammopipe.pipelines.runs.folder import RunFolder

MEASURES: Mapping[str, str] = {
    "macro_auc": "macro AUC",
    "malignant_auc": "malignant AUC",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "expected_calibration_error": "calibration error",
}
"""The compared figures, in table order, with their column names."""
COMPARABLE = "malignant_auc"
"""The only figure that means the same in runs with different classes."""
SPLITS = ("validation", "test")
CANDIDATES = "candidates"
"""The setting that lists the trained networks; only a run's definition contains it."""
MAJORITY = "majority_accuracy"
"""The accuracy of always predicting the most frequent training class."""
SECRETS, SET = frozenset({"--patient-salt"}), "set"
"""Secret settings and what is shown instead: with the salt, anyone could find patients by their hashes."""
ADVICE = (
    "* beyond chance: the 95 % interval, by patient, excludes 0. Choose by validation: a test split that was used to "
    "choose no longer tests."
)
Figure = Mapping[str, Any]
Rows = list[tuple[str, list[str]]]


def facts(folder: RunFolder) -> dict[str, Any]:
    """Return a run's figures and settings for comparison; raises `ConfigError` if the run was not evaluated."""
    document, execution = folder.document("evaluation.json"), folder.execution()
    return {
        "id": folder.id,
        "profile": document["profile"],
        "dataset": document["dataset"],
        "synthetic": bool(document.get("synthetic")),
        "protocol": document.get("protocol", ""),
        "classes": document.get("classes", []),
        "selected": document["selected"]["cnn"],
        "leakage_audit_passed": document["leakage"]["passed"],
        **{split: _split(document, split) for split in SPLITS},
        "settings": settings(folder, execution),
    }


def _split(document: Mapping[str, Any], split: str) -> dict[str, Any]:
    measured = document["selected"][split]
    folds = document.get("validation_folds", 0) if split == "validation" else 0
    majority = document.get("baseline", {}).get(split, {}).get("accuracy")
    return {
        "images": measured.get("images"),
        "patients": measured.get("patients"),
        "folds": folds,
        "films": _images_of_split(document, split, folds, measured.get("images")),
        **{name: measured.get(name) for name in MEASURES},
        MAJORITY: majority,
    }


def _images_of_split(document: Mapping[str, Any], split: str, folds: int, images: int | None) -> str | None:
    """Return a text that is equal for the same images of a split; None if the run does not record how it was split."""
    divided = document.get("stage", {}).get("config", {}).get("split")
    if divided is None:
        return None
    # The test split, and with it the set that all folds cover, is drawn before the folds are.
    one_fold = split == "validation" and not folds
    names = ("seed", "test_fraction", *(("folds", "validation_fold") if one_fold else ()))
    return json.dumps(
        [
            document["dataset"],
            document.get("synthetic"),
            document.get("protocol"),
            images,
            [divided.get(name) for name in names],
        ]
    )


def settings(folder: RunFolder, execution: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a run as text: its parameters and, if its definition is here, the settings of its jobs.

    Settings that the definition takes from a parameter or another step are left out, since the parameters are listed
    already. Of a secret, only its existence is shown.
    """
    found = {name: str(value) for name, value in execution.get("parameters", {}).items()}
    if not (folder.path / "pipeline.json").is_file():
        return found
    steps = list(all_steps(folder.document("pipeline.json")["Steps"]))
    networks: dict[str, Mapping[str, Any]] = {}
    for step in steps:
        if step["Type"] == "Training":
            given = step["Arguments"].get("HyperParameters", {})
            networks[str(given.get("cnn", step["Name"]))] = given
        elif step["Type"] == "Processing":
            words = step["Arguments"]["AppSpecification"].get("ContainerArguments", [])
            found |= {
                f"{step['Name']} {name}": SET if name in SECRETS else value
                for name, value in zip(words[::2], words[1::2], strict=True)
                if isinstance(value, str)
            }
    return {CANDIDATES: ", ".join(sorted(networks)), **_hyperparameters(networks), **found}


def _hyperparameters(networks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return hyperparameters by name if all networks share the value, else by the network's name and their own."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(name for given in networks.values() for name in given if name != "cnn"):
        recorded = {cnn: given[name] for cnn, given in networks.items() if isinstance(given.get(name), str)}
        if len(recorded) == len(networks) and len(set(recorded.values())) == 1:
            found[f"training.{name}"] = next(iter(recorded.values()))
        else:
            found |= {f"training.{cnn}.{name}": value for cnn, value in recorded.items()}
    return found


def rows(found: Sequence[Mapping[str, Any]]) -> Rows:
    """Return one row per figure: a label, and one cell per run."""
    made = [
        (
            "profile, dataset",
            [f"{item['profile']}, {item['dataset']}{' phantoms' * item['synthetic']}" for item in found],
        ),
        ("protocol", [item["protocol"] for item in found]),
        ("classes", [", ".join(item["classes"]) for item in found]),
        ("selected", [item["selected"] for item in found]),
        ("leakage audit", ["passed" if item["leakage_audit_passed"] else "FAILED" for item in found]),
    ]
    for split in SPLITS:
        made.append((split, [_size(item[split]) for item in found]))
        for name, label in MEASURES.items():
            made.append((f"  {label}", [figure(item[split][name]) for item in found]))
            if name == "accuracy" and any(item[split][MAJORITY] for item in found):
                made.append(("  the majority's accuracy", [figure(item[split][MAJORITY]) for item in found]))
    return made


def _size(split: Mapping[str, Any]) -> str:
    if split["images"] is None:
        return ""
    return f"{split['images']} images" + (f", {split['folds']} folds" if split["folds"] else "")


def other_settings(found: Sequence[Mapping[str, Any]]) -> Rows:
    """Return the settings that differ between runs.

    `-` means that the run has no such setting; `?` means that it is unknown because the run's definition is not here.
    """
    names = dict.fromkeys(name for item in found for name in item["settings"])
    made = [
        (name, [item["settings"].get(name, "-" if CANDIDATES in item["settings"] else "?") for item in found])
        for name in names
    ]
    return [(name, cells) for name, cells in made if len({cell for cell in cells if cell != "?"}) > 1]


def against(
    first: Mapping[str, Any], other: Mapping[str, Any], paired: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Return the figures of `other` minus those of `first`, for each split, and whether the images are the same.

    Args:
        first: The facts of the first run.
        other: The facts of the other run.
        paired: The differences measured image by image, by split and figure (`paired_comparison`). They prove that the
            images are the same.

    Returns:
        For each split its differences and `same_films`, which is None if a run of an earlier version does not record
        how it was split.
    """
    same_classes = first["classes"] == other["classes"]
    made: dict[str, Any] = {"run": first["id"], "same_classes": same_classes}
    for split in SPLITS:
        known = first[split]["films"] is not None and other[split]["films"] is not None
        same = first[split]["films"] == other[split]["films"] if known else None
        pairs = (paired or {}).get(split, {})
        made[split] = {
            "same_films": True if pairs else same,
            "paired": bool(pairs),
            **{
                name: pairs.get(name) or difference(first[split][name], other[split][name])
                if same_classes or name == COMPARABLE
                else None
                for name in MEASURES
            },
        }
    return made


def difference(first: Figure | None, other: Figure | None) -> dict[str, Any] | None:
    """Return `other` minus `first` with its 95 % interval; None if a value or an interval is missing."""
    if any(item is None or item.get("low") is None for item in (first, other)):
        return None
    assert first is not None and other is not None
    value = other["value"] - first["value"]
    # Each bound takes the two distances that move the difference in its direction.
    low = value - math.hypot(other["value"] - other["low"], first["high"] - first["value"])
    high = value + math.hypot(other["high"] - other["value"], first["value"] - first["low"])
    return {"value": value, "low": low, "high": high, "paired": False, "beyond_chance": low > 0 or high < 0}


def heads(compared: Mapping[str, Any]) -> list[str]:
    """Return the heading above the differences of each split."""
    words = {True: "the same", False: "other", None: "perhaps other"}
    return [
        f"{split}, {words[compared[split]['same_films']]} images{', paired' * compared[split]['paired']}"
        for split in SPLITS
    ]


def difference_rows(compared: Mapping[str, Any]) -> Rows:
    """Return one row per figure for two runs: a label, and one cell per split."""
    return [(label, [signed(compared[split][name]) for split in SPLITS]) for name, label in MEASURES.items()]


def verdict(compared: Mapping[str, Any], first: str, other: str) -> str:
    """Return one sentence saying which run is better on validation, by the figure that also selects networks."""
    found, name = compared["validation"]["macro_auc"], "macro AUC"
    if not compared["same_classes"]:
        found, name = compared["validation"][COMPARABLE], MEASURES[COMPARABLE]
    if found is None:
        return f"Validation has no interval of the {name} for both, so chance is not ruled out."
    if not found["beyond_chance"]:
        return f"By the {name} of validation neither is shown to be better: chance may have made the difference."
    best = other if found["value"] > 0 else first
    return f"By the {name} of validation {best} is better, by more than chance explains."


def figure(measure: Figure | None) -> str:
    """Return a figure with its interval, or an empty text for None."""
    if measure is None or measure["value"] is None:
        return ""
    bounds = f" ({measure['low']:.3f}-{measure['high']:.3f})" if measure.get("low") is not None else ""
    return f"{measure['value']:.3f}{bounds}"


def signed(found: Figure | None) -> str:
    """Return a difference with its interval, and a star if it is beyond chance."""
    if found is None:
        return "no interval"
    star = " *" if found["beyond_chance"] else ""
    return f"{found['value']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f}){star}"
