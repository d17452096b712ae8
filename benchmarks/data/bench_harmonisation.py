"""Measures how similar harmonisation makes two images of one breast from different detectors.

Run `python -m benchmarks.data.bench_harmonisation`.

Each phantom is seen by a digital detector (16 bits) and by a film digitiser (8 bits, another tone curve and noise). The
table shows, for each setting, the mean absolute difference between the two inputs of the network, and how well the
lesion still stands out: its mean grey level minus that of the other tissue, in standard deviations of the tissue.
"""

import argparse
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.harmonisation import Harmonisation
from mammopipe.processing.breast.preprocess import PreprocessConfig, Preprocessed, preprocess
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.images.mammogram import Mammogram
from mammopipe.processing.phantoms.film import Film, make_film

EXPONENTS = (0.5, 0.7, 1.4, 2.2)
"""Tone curves of the digitisers, relative to the digital detector."""


def digitised(pixels: NDArray[np.uint16], exponent: float, seed: int) -> NDArray[np.uint16]:
    """Return the image as a digitiser of 8 bits stores it; air stays black."""
    noise = np.random.default_rng(seed).normal(0, 1.5, pixels.shape)
    levels = np.clip((pixels / 65535) ** exponent * 255 + noise, 0, 255)
    return np.where(pixels > 0, np.round(levels) * 257, 0).astype(np.uint16)


def stands_out(found: Preprocessed) -> float:
    """Return the contrast of the lesions, in standard deviations of the other tissue."""
    rows, columns = np.ogrid[: found.image.shape[0], : found.image.shape[1]]
    inside = np.zeros(found.image.shape, bool)
    for lesion in found.lesions:
        inside |= np.hypot(columns - lesion.x, rows - lesion.y) <= lesion.radius * 0.7
    tissue = found.image > 0
    other = found.image[tissue & ~inside]
    return float((found.image[tissue & inside].mean() - other.mean()) / other.std())


def measured(phantoms: list[Film], harmonisation: Harmonisation) -> Iterator[tuple[float, float, float]]:
    """Yield the difference between the two inputs, and the lesions' contrast in each, for every image."""
    config = PreprocessConfig(height=320, width=192, harmonisation=harmonisation)
    for number, phantom in enumerate(phantoms):
        other = digitised(phantom.pixels, EXPONENTS[number % len(EXPONENTS)], number)
        one, two = (
            preprocess(Mammogram(pixels, phantom.laterality, phantom.view), config, phantom.lesions)
            for pixels in (phantom.pixels, other)
        )
        both = (one.image > 0) & (two.image > 0)
        yield float(np.abs(one.image - two.image)[both].mean()), stands_out(one), stands_out(two)


def _phantom(seed: int) -> Film:
    side, view = list(Laterality)[seed % 2], (View.MLO, View.CC)[seed // 2 % 2]
    return make_film(
        seed, label=Label.MALIGNANT, laterality=side, view=view, height=640, width=512, padded=False, bits=16
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40)
    options = parser.parse_args()
    phantoms = [_phantom(seed) for seed in range(options.images)]
    print("| harmonisation | difference of the detectors | lesion contrast, digital | lesion contrast, digitised |")
    print("|---|---|---|---|")
    for kind in Harmonisation:
        found = np.array(list(measured(phantoms, kind)))
        print(f"| {kind} | " + " | ".join(f"{value:.3f}" for value in found.mean(axis=0)) + " |")


if __name__ == "__main__":
    main()
