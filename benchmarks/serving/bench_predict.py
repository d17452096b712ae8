"""Overhead of predicting a folder: `python -m benchmarks.serving.bench_predict [--images 24]`.

One process, synthetic PNG images of 1024 x 800. `mammopipe.inference.prediction.batch` with its CSV file alternates
with a loop that reads and predicts and writes nothing. A JSON list on stdout.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.rows import row
from benchmarks.serving.harness import save_model
from mammopipe.inference.engines.base import EngineSettings
from mammopipe.inference.prediction.batch import Batch, Image, model_columns, predict_groups
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.pipelines.commands.models.predict import PredictionTable
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.phantoms.own_tree import write_own_tree

COMMAND = "python -m benchmarks.serving.bench_predict"


def main() -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_model(folder / "model", export=False)
        write_own_tree(folder / "own", images=options.images, height=1024, width=800)
        paths = sorted((folder / "own" / "images").iterdir())
        predictor = Predictor(folder / "model", engine=EngineSettings(threads=1))
        batch = Batch(folder / "model")
        model, columns = model_columns(batch)
        bare, whole = [], []
        for turn in range(options.repeats + 1):
            begun = time.process_time()
            for path in paths:
                predictor.predict(read_mammogram(path))
            between = time.process_time()
            with PredictionTable(folder / f"{turn}.csv", ["model", *columns], model) as table:
                for rows in predict_groups(batch, [[Image(path)] for path in paths], processes=1):
                    table.add(rows.images)
            if turn:
                bare.append(between - begun)
                whole.append(time.process_time() - between)
        rate = statistics.median(bare) / statistics.median(whole)
        name = "predicting a folder: images a second, times those of the bare work"
        print(json.dumps([row(name, rate, "x", bar=0.95, better="higher", command=COMMAND)]))


if __name__ == "__main__":
    main()
