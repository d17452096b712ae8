"""A plain loop of `Predictor` in one thread, as a notebook would run it, on the image of the benchmarks.

`python -m benchmarks.serving.plain_loop MODEL` reads lines "work count" and answers each with the seconds it took. The
work is `film` (bytes to prediction), `forward` (only the network) or `heat` (only the heatmap).
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from benchmarks.serving.harness import film
from mammopipe.inference.contract.request import OperatingPoint
from mammopipe.inference.engines.base import EngineSettings
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.processing.datasets.manifest import Label
from mammopipe.processing.images.mammogram import read_mammogram


def predictor_of_one_thread(model: Path) -> Predictor:
    """Return a predictor that has answered its warm-up image."""
    cv2.setNumThreads(1)
    predictor = Predictor(model, engine=EngineSettings(threads=1))
    predictor.warm_up()
    return predictor


def main(model: Path) -> None:
    """Process input lines until the input ends."""
    predictor = predictor_of_one_thread(model)
    data = film()
    mammogram = read_mammogram(data)
    prepared = predictor.prepare(mammogram)
    prediction = predictor.predict(mammogram)
    works: dict[str, Callable[[], object]] = {
        "film": lambda: predictor.predict(read_mammogram(data)),
        "forward": lambda: predictor.judge(mammogram, prepared, operating_point=OperatingPoint.SENSITIVITY),
        "heat": lambda: predictor.explain(prediction, mammogram, Label.MALIGNANT),
    }
    for line in sys.stdin:
        name, count = line.split()
        seconds = []
        for _ in range(int(count)):
            begun = time.perf_counter()
            works[name]()
            seconds.append(time.perf_counter() - begun)
        print(*seconds, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
