"""Makes images of noise with real labels: their labels cannot be learned, so any apparent success shows a leak.

Every image has the same breast-shaped outline, filled with its own coarse noise. A network can recognise such an image
after a rotation or stretch, but it can learn nothing else from it.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from mammopipe.processing.datasets.manifest import Laterality
from mammopipe.processing.datasets.mias import FILM_SIZE, LABEL_TABLE, PHANTOM_NOTICE, read_labels
from mammopipe.processing.files import write_bytes

CELLS = 14
"""Number of grains of the noise along a side of the image."""
_DARKEST, _BRIGHTEST = 90, 230
_HALF_HEIGHT, _DEPTH = 0.42, 0.55
"""Half axes of the outline, an ellipse around the middle of the chest wall, as shares of the image's size."""


def write_noise_tree(table: Path, folder: Path, *, seed: int = 0) -> int:
    """Write an image of noise for each film of a MIAS label table, and the table marked as synthetic.

    The images are 8-bit PGM files of 1024 x 1024 pixels. Each depends only on `seed` and on its place in the table.

    Returns:
        The number of images.

    Raises:
        LabelError: The table cannot be read.
    """
    records = read_labels(table)
    for place, record in enumerate(records):
        pixels = noise_image((seed, place), record.laterality)
        write_bytes(folder / record.path, b"P5\n%d %d\n255\n" % pixels.shape[::-1] + pixels.tobytes())
    text = table.read_text(encoding="ascii")
    marked = text if text.startswith(PHANTOM_NOTICE) else f"{PHANTOM_NOTICE}\n{text}"
    write_bytes(folder / LABEL_TABLE, marked.encode("ascii"))
    return len(records)


def noise_image(key: tuple[int, ...], laterality: Laterality | None, size: int = FILM_SIZE) -> npt.NDArray[np.uint8]:
    """Return an image, (size, size), of the noise of a key; the chest wall is at the left unless `laterality` is R."""
    grains = np.random.default_rng(key).random((CELLS, CELLS))
    places = np.linspace(0, CELLS - 1, size)
    # A matrix with two weights in each row performs linear interpolation along one axis.
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(CELLS)[None]))
    smooth = weights @ grains @ weights.T
    grey = _DARKEST + (_BRIGHTEST - _DARKEST) * (smooth - smooth.min()) / np.ptp(smooth)
    rows, columns = np.mgrid[:size, :size] / size
    outline = ((rows - 0.5) / _HALF_HEIGHT) ** 2 + (columns / _DEPTH) ** 2 < 1
    image = np.where(outline, grey, 0).astype(np.uint8)
    return np.ascontiguousarray(image[:, ::-1]) if laterality is Laterality.RIGHT else image
