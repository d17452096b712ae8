"""How soon the monitor detects a shift, and how often it raises a false alarm: 100 simulated weeks of each kind.

Run `python -m benchmarks.serving.bench_drift [--patients 200] [--runs 20] [--quiet-runs 200]`: prints a JSON list on
stdout, or the table of how-to/drift.md with `--markdown`. `--allowances` measures the effect of other allowances.
Progress is on stderr.

Phantoms are generated once for each kind of shift, and measured through the preprocessing and a network with random
weights. Each simulated week draws patients from those measurements, since rendering the images of 100 weeks would take
hours. The monitor's own code evaluates the weeks. The model's reference is drawn anew for each run. Three machines each
send a third of the exams, and each forms its own group. The shift starts after `QUIET` weeks. The delay is the number
of weeks with shifted images until the first alarm, 1 being the first such week. The same simulation without a shift
gives the rate of false alarms.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.rows import Row, row
from mammopipe.inference.monitoring.drift import DriftConfig, GroupWindow, judge
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.classes import THREE
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.images.mammogram import Mammogram
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.training.model import distributions
from mammopipe.training.model.distributions import FeatureHistogram, fit_distributions
from mammopipe.training.model.drift_features import EVERYTHING, FIGURES, SCORE, image_figures
from mammopipe.training.networks.registry import build_model

COMMAND = "python -m benchmarks.serving.bench_drift"
WEEKS, QUIET, EXAMS = 100, 8, 90
NEVER = WEEKS - QUIET + 1
"""Delay in weeks that is recorded for a shift that was not detected."""
LEARNT, JUDGED = 103, 26
"""Number of patients in training and validation: those of mini-MIAS in the default split."""
QUIETLY = "no shift"
ALLOWANCES = (1.0, 1.25, 1.5, 2.0)
"""Allowances for the reference's mean, in standard errors, that a CUSUM does not accumulate."""
COPIES, SMOOTHING = 5, 0.2
"""Copies of each measured patient, and their differences in standard deviations of each figure."""
MACHINES = ("A", "B", "C")
CONFIG = PreprocessConfig(height=160, width=112)
SIZE = 512
START = datetime(2026, 1, 5, 12, tzinfo=UTC)
Pixels = NDArray[np.uint16]
Patient = tuple[dict[str, float], ...]
Table = dict[str, NDArray[np.float64]]
"""The values of each figure for all images, (patients, images per patient)."""

SHIFTS: dict[str, Callable[[Pixels], Pixels]] = {
    "gain 0.95": lambda pixels: (pixels * 0.95).astype(np.uint16),
    "gain 0.85": lambda pixels: (pixels * 0.85).astype(np.uint16),
    "gamma 0.85": lambda pixels: (65535 * (pixels / 65535.0) ** 0.85).astype(np.uint16),
    "blur of 1.5 pixels": lambda pixels: np.asarray(cv2.GaussianBlur(pixels, (0, 0), 1.5), np.uint16),
    "inverted": lambda pixels: np.asarray(65535 - pixels, np.uint16),
    "mirrored": lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
}
"""The changes that a machine or an export may apply to every image."""
OTHER_MACHINE = "other machine"
"""A 12-bit digital detector in place of scanned films."""
LIMITS = {"gain 0.85": 2, OTHER_MACHINE: 2, "inverted": 2}
"""Weeks within which the median run must detect the shift."""
MOST_FALSE = 0.17
"""Maximum fraction of 100-week runs with any alarm in any group; from a budget of one alarm in 520 windows."""


def measure(
    patients: int, *, shifts: Mapping[str, Callable[[Pixels], Pixels]], digital: bool = False, malignant: bool = False
) -> dict[str, list[Patient]]:
    """Return the measured figures of both MLO images of each patient, under each shift.

    Args:
        patients: Number of patients.
        shifts: Functions that change an image's pixels (rows, columns) uint16; all apply to the same images.
        digital: Whether the images are those of a 12-bit digital detector instead of 8-bit scanned films.
        malignant: Whether all images are malignant; otherwise the classes alternate.

    Returns:
        For each shift, the figures of both images of each patient.
    """
    network = build_model("modified_cnn", classes=list(THREE), seed=1).eval()
    found: dict[str, list[Patient]] = {name: [] for name in shifts}
    for number in tqdm(range(patients), desc="measuring", disable=None):
        label = Label.MALIGNANT if malignant else list(Label)[number % 3]
        films = {
            side: make_film(
                2 * number + (side is Laterality.RIGHT),
                label=label,
                laterality=side,
                height=SIZE,
                width=SIZE,
                padded=not digital,
                bits=12 if digital else 8,
                patient_seed=number,
            )
            for side in Laterality
        }
        for name, shift in shifts.items():
            found[name].append(tuple(_figures(network, shift(film.pixels), side) for side, film in films.items()))
    return found


def _figures(network: torch.nn.Module, pixels: Pixels, side: Laterality) -> dict[str, float]:
    prepared = preprocess(Mammogram(pixels, side, View.MLO), CONFIG)
    with torch.inference_mode():
        logits = network(torch.from_numpy(prepared.image)[None, None])[0].double()
    shares = torch.softmax(20 * logits, 0).numpy()
    scores = {"malignancy": float(shares[-1]), "entropy": float(-(shares * np.log(shares)).sum())}
    return {**image_figures(prepared.quality), **scores}


def smoothed(pools: Mapping[str, list[Patient]]) -> dict[str, list[Patient]]:
    """Return `COPIES` of each patient with small random differences, which are the same under each shift.

    Few patients were measured for many draws. Without the differences the same values would recur, and the smallest
    change of one would be noticed.
    """
    films = [film for patient in pools[QUIETLY] for film in patient]
    values = {name: np.array([film[name] for film in films]) for name in films[0]}
    sizes = {
        name: SMOOTHING * float(found.std()) for name, found in values.items() if len(np.unique(found)) > len(found) / 2
    }
    found: dict[str, list[Patient]] = {}
    for kind, patients in pools.items():
        rng = np.random.default_rng(7)
        found[kind] = [
            tuple(
                {name: value + sizes.get(name, 0.0) * float(rng.standard_normal()) for name, value in film.items()}
                for film in patient
            )
            for patient in patients
            for _ in range(COPIES)
        ]
    return found


def usual(population: Sequence[Patient], rng: np.random.Generator) -> dict[str, dict[str, FeatureHistogram]]:
    """Return a model's reference: figures of `LEARNT` + `JUDGED` patients; only the `JUDGED` ones have scores."""
    films, exams = [], []
    for number, chosen in enumerate(rng.integers(len(population), size=LEARNT + JUDGED)):
        for film in population[chosen]:
            kept = {name: value for name, value in film.items() if number < JUDGED or name not in SCORE}
            films.append(kept)
            exams.append(str(number))
    return {EVERYTHING: fit_distributions(films, exams)}


def table_of(patients: Sequence[Patient]) -> Table:
    """Return each figure of all images, (patients, images per patient)."""
    return {name: np.array([[film[name] for film in patient] for patient in patients]) for name in patients[0][0]}


def weeks_of(
    quiet: Table, shifted: Table, rng: np.random.Generator, *, machines: Sequence[str]
) -> dict[str, list[GroupWindow]]:
    """Return every group's windows in the form of `monitoring.drift.gather`, but much faster than from requests.

    After `QUIET` weeks the named machines send shifted images.
    """
    sender = np.arange(EXAMS) % len(MACHINES)
    members = {
        EVERYTHING: np.ones(EXAMS, bool),
        **{f"machine {name}": sender == number for number, name in enumerate(MACHINES)},
    }
    moved = np.isin(sender, [MACHINES.index(name) for name in machines])[:, None]
    found: dict[str, list[GroupWindow]] = {group: [] for group in members}
    for week in range(WEEKS):
        start = DriftConfig().span.start_of((START + timedelta(weeks=week)).date())
        patients = rng.integers(len(quiet[FIGURES[0]]), size=EXAMS)
        films = {
            name: np.where(moved & (week >= QUIET), shifted[name][patients], quiet[name][patients]) for name in quiet
        }
        for group, asked in members.items():
            values = {name: all_[asked].ravel().tolist() for name, all_ in films.items()}
            found[group].append(GroupWindow(start, int(asked.sum()), len(values[FIGURES[0]]), values))
    return found


def alarms(
    groups: Mapping[str, Sequence[GroupWindow]], known: Mapping[str, Mapping[str, FeatureHistogram]]
) -> list[int]:
    """Return the weeks, counted from 0, in which an alarm of some figure starts that was off the week before."""
    config, begins = DriftConfig(), np.zeros(WEEKS, bool)
    for group in judge(groups, known, {}, config):
        for figure in group.figures.values():
            firing = np.array(figure.strength) >= 1
            begins |= firing & ~np.concatenate([[False], firing[:-1]])
    return np.flatnonzero(begins).tolist()


def figures(patients: int, runs: int, quiet_runs: int) -> list[Row]:
    """Return the rows of the benchmark."""
    same = {QUIETLY: lambda pixels: pixels}
    pools = measure(patients, shifts=same | SHIFTS)
    pools[OTHER_MACHINE] = measure(patients, shifts=same, digital=True)[QUIETLY]
    pools["only malignant films"] = measure(patients, shifts=same, malignant=True)[QUIETLY]
    return simulate(pools, runs, quiet_runs)


def simulate(pools: Mapping[str, list[Patient]], runs: int, quiet_runs: int) -> list[Row]:
    """Return the rows by kind of shift; each row has `runs` simulations of weeks drawn from measured patients."""
    pools = smoothed(pools)
    quiet = pools.pop(QUIETLY)
    rows = [_quiet(quiet, quiet_runs)]
    for name, pool in pools.items():
        rows += [_delay(name, quiet, table_of(pool), runs, machines) for machines in (MACHINES, MACHINES[:1])]
    return rows


def _quiet(quiet: Sequence[Patient], runs: int) -> Row:
    found, table = [], table_of(quiet)
    for run in tqdm(range(runs), desc="quiet weeks", disable=None):
        rng = np.random.default_rng((1, run))
        found.append(len(alarms(weeks_of(table, table, rng, machines=()), usual(quiet, rng))))
    return row(
        f"drift, quiet: share of {WEEKS} weeks with a false alarm",
        statistics.fmean(map(bool, found)),
        "share",
        MOST_FALSE,
        "lower",
        COMMAND,
        runs=runs,
        alarms_that_begin=statistics.fmean(found),
        exams_a_week=EXAMS,
    )


def _delay(name: str, quiet: Sequence[Patient], pool: Table, runs: int, machines: Sequence[str]) -> Row:
    delays, table = [], table_of(quiet)
    for run in tqdm(range(runs), desc=name, disable=None):
        rng = np.random.default_rng((2, run))
        begun = alarms(weeks_of(table, pool, rng, machines=machines), usual(quiet, rng))
        delays.append(next((week - QUIET + 1 for week in begun if week >= QUIET), NEVER))
    who = "all machines" if len(machines) > 1 else "one machine of three"
    bar = LIMITS.get(name) if len(machines) > 1 else None
    never = sum(delay == NEVER for delay in delays)
    return row(
        f"drift, {name}, {who}: weeks to the alarm, median",
        statistics.median(delays),
        "weeks",
        bar,
        "lower",
        COMMAND,
        slowest=max(delays),
        never=never,
        runs=runs,
    )


def allowances(patients: int, runs: int, quiet_runs: int) -> list[Row]:
    """Return the false alarms and delays with other allowances for the reference's error (`REFERENCE_ERRORS`)."""
    name = "gain 0.95"
    pools = smoothed(measure(patients, shifts={QUIETLY: lambda pixels: pixels, name: SHIFTS[name]}))
    quiet, pool, rows, usual_errors = pools[QUIETLY], table_of(pools[name]), [], distributions.REFERENCE_ERRORS
    try:
        for errors in ALLOWANCES:
            distributions.REFERENCE_ERRORS = errors
            made = [_quiet(quiet, quiet_runs), _delay(name, quiet, pool, runs, MACHINES[:1])]
            rows += [{**row, "name": f"{row['name']}, allowance {errors:g}", "bar": None} for row in made]
    finally:
        distributions.REFERENCE_ERRORS = usual_errors
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of docs/how-to/drift.md: for each shift, the median and the longest delay in weeks."""
    found: dict[str, dict[str, str]] = {}
    for each in rows:
        shift, _, who = each["name"].removeprefix("drift, ").partition(":")[0].rpartition(", ")
        if shift:
            slowest = "never" if each["peers"]["never"] else f"{each['peers']['slowest']:g}"
            found.setdefault(shift, {})[who] = f"{each['value']:g} ({slowest})"
    head = "| shift, from the ninth week | all machines: median weeks to the alarm (slowest) | one machine of three |"
    lines = [
        f"| {shift} | {cells['all machines']} | {cells['one machine of three']} |" for shift, cells in found.items()
    ]
    return "\n".join([head, "|---|---|---|", *lines])


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--patients", type=int, default=200, help="measured of each kind")
    parser.add_argument("--runs", type=int, default=20, help="times 100 weeks of each kind of shift")
    parser.add_argument("--quiet-runs", type=int, default=200, help="times 100 weeks without one")
    parser.add_argument("--allowances", action="store_true", help="measure other allowances of the CUSUM instead")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/how-to/drift.md, not JSON")
    options = parser.parse_args()
    if options.allowances and options.markdown:
        parser.error("--markdown is the table of shifts, not of allowances")
    # Images this small gain nothing from threads, which wait for each other on a busy machine.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = (allowances if options.allowances else figures)(options.patients, options.runs, options.quiet_runs)
    print(markdown(rows) if options.markdown else json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
