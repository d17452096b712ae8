"""Makes synthetic images in the layout of a site's own data: 16-bit PNG files and a table with boxes around lesions."""

import csv
import io
from pathlib import Path

import numpy as np

from mammopipe.processing.classes import TWO, class_of
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes
from mammopipe.processing.images.pgm_png import write_png
from mammopipe.processing.phantoms.film import make_film

COLUMNS = ("image", "patient", "side", "view", "label", "lesion_x_min", "lesion_y_min", "lesion_x_max", "lesion_y_max")
TABLE = "labels.csv"
_LABELS = (Label.MALIGNANT, Label.BENIGN, Label.NORMAL)


def write_own_tree(
    folder: Path, *, images: int = 60, seed: int = 0, height: int = 512, width: int = 400, two_classes: bool = False
) -> None:
    """Write `images` PNG files, two per patient, and, last, `labels.csv` with one row per lesion into `folder`.

    A third of the patients have a malignant image and a third a benign image; all other images are normal. With
    `two_classes`, the table calls every image that is not malignant negative. Raises `ConfigError` for fewer than 2
    images.
    """
    if images < 2:
        raise ConfigError(f"images={images}: must be at least 2")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*COLUMNS, "synthetic"], lineterminator="\n")
    writer.writeheader()
    for number in range(images):
        patient, side = divmod(number, 2)
        laterality = (Laterality.LEFT, Laterality.RIGHT)[side]
        label = _LABELS[patient % 3] if side == patient // 3 % 2 else Label.NORMAL
        draw = int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0])
        drawn = make_film(draw, label=label, laterality=laterality, view=View.MLO, height=height, width=width)
        name = f"images/p{patient:03d}-{laterality}.png"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        write_png(folder / name, drawn.pixels)
        row = {"image": name, "patient": f"P{patient:03d}", "side": str(laterality), "view": "MLO"}
        row["label"] = str(class_of(label, TWO) if two_classes else label)
        for item in drawn.lesions or [None]:
            places = [] if item is None else [item.x - item.radius, item.y - item.radius]
            places += [] if item is None else [item.x + item.radius, item.y + item.radius]
            box = dict(zip(COLUMNS[5:], (f"{value:.1f}" for value in places), strict=False))
            writer.writerow({**row, **box, "synthetic": "true"})
    write_bytes(folder / TABLE, text.getvalue().encode())
