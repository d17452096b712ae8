"""`mammopipe evaluate MODEL DATASET`: judge a model on a labelled dataset that it has never seen."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mammopipe.pipelines.commands.arguments import command
from mammopipe.processing.datasets.registry import EVALUATED, dataset_in
from mammopipe.processing.errors import ConfigError

if TYPE_CHECKING:
    from mammopipe.pipelines.commands.arguments import Subparsers


def add(subparsers: "Subparsers") -> None:
    """Add the command's parser."""
    parser = command(
        subparsers,
        "evaluate",
        "judge a model on a labelled dataset that it has never seen: figures, calibration, drift, one report",
        "evaluate runs/latest/model.tar.gz INbreast/ -o inbreast-evaluation",
    )
    parser.add_argument("model", type=Path, help="model.tar.gz or the model directory")
    parser.add_argument("dataset", type=Path, help="folder of the dataset as released")
    parser.add_argument("--as", dest="name", choices=[*EVALUATED], help="which dataset it is (default: by its table)")
    parser.add_argument("-o", "--output", type=Path, default=Path("external"), metavar="DIR", help="default: external")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples of each interval")
    parser.add_argument("--seed", type=int, default=0, help="seed of the resamples")
    parser.set_defaults(command=evaluate)


def evaluate(options: argparse.Namespace) -> int:
    """Write `external.json`, `predictions.csv`, `refused.csv` and `report.html`; return 0."""
    # The model needs the packages of the extra `inference`; the other commands do not.
    from mammopipe.inference.prediction.predictor import Predictor
    from mammopipe.pipelines.external import figures, judging
    from mammopipe.pipelines.external.report import render
    from mammopipe.processing.breast.preprocess import PreprocessConfig
    from mammopipe.processing.files import write_bytes, write_csv, write_json
    from mammopipe.training.model.archive import unpack
    from mammopipe.training.model.calibration import Calibration
    from mammopipe.training.model.description import read_description

    if options.bootstrap < 100:
        raise ConfigError(f"--bootstrap {options.bootstrap}: an interval needs at least 100 resamples")
    dataset, folder = dataset_in(options.dataset, options.name)
    table = dataset.check(folder)
    with TemporaryDirectory() as scratch:
        model: Path = options.model
        if not model.is_dir():
            unpack(model, Path(scratch))
            model = Path(scratch)
        description = read_description(model)
        predictor = Predictor(model)
        preprocessing = PreprocessConfig.from_json(description["preprocess"])
        judgement = judging.judge(predictor, preprocessing, table.records, folder / dataset.image_folder)
    judgement.refused += table.refused
    if not judgement.images:
        raise ConfigError(f"{folder}: none of {len(judgement.refused)} images could be judged: {judgement.refused[:1]}")
    plan = figures.Plan(options.bootstrap, options.seed)
    found = figures.figures(description, judgement, dataset, plan, options.model)
    classes = found["classes"]
    shares = Calibration.of(description).probabilities(judgement.predictions(classes).logits)
    rows = list(judging.rows(judgement, shares, classes))
    write_csv(options.output / "predictions.csv", list(rows[0]), rows)
    refused = [{"image_id": name, "reason": reason} for name, reason in judgement.refused]
    write_csv(options.output / "refused.csv", ["image_id", "reason"], refused)
    write_json(options.output / "external.json", found)
    write_bytes(options.output / "report.html", render(found).encode())
    print(_summary(found, options.output))
    return 0


def _summary(found: dict[str, Any], output: Path) -> str:
    def text(figure: dict[str, Any]) -> str:
        """Return a figure with its interval, or why there is none."""
        if figure["value"] is None:
            return str(figure["reason"])
        bounds = "" if figure["low"] is None else f" ({figure['low']:.3f} to {figure['high']:.3f})"
        return f"{figure['value']:.3f}{bounds}"

    counts = found["counts"]
    return "\n".join(
        [
            f"{found['model']} on {found['dataset']}: {counts['images']} images of {counts['patients']} patients, "
            f"{counts['malignant']} malignant, {counts['refused']} refused",
            f"macro AUC {text(found['macro_auc'])}; malignant AUC {text(found['malignant_auc'])}",
            f"expected over observed malignant {text(found['calibration']['expected_over_observed'])}",
            f"report: {output / 'report.html'}",
        ]
    )
