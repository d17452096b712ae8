"""Makes synthetic mammograms with known masks, singly or as whole trees in the layouts of the datasets.

    make_film          one image with its masks (`mammopipe.processing.phantoms.film`)
    mias_films         the films of a synthetic MIAS tree, with their masks
    write_mias_tree    the same films as `mdb001.pgm` ... and `Info.txt`
    write_rsna_tree    exams of several DICOM views as `train.csv` and `train_images/`
    (`mammopipe.processing.phantoms.rsna_tree`)

The images do not come from patients. They serve to try and test every stage.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mammopipe.processing.datasets.manifest import Label, Laterality
from mammopipe.processing.datasets.mias import FILM_SIZE, LABEL_TABLE, PHANTOM_NOTICE
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes
from mammopipe.processing.phantoms.anatomy import Density
from mammopipe.processing.phantoms.film import Film, make_film

__all__ = ["PHANTOM_NOTICE", "Density", "Film", "make_film", "mias_films", "write_mias_tree", "write_rsna_tree"]

_MOST_FILMS = 998
"""The greatest even number of three digits; MIAS reference numbers have three digits."""
_SCATTERED_FROM = 50
"""From this patient on, some malignant films show calcifications without coordinates; small trees need all lesions."""

_HEADER = f"""{PHANTOM_NOTICE}

             Drawn by a program in the layout of the
                  MiniMammographic Database

=================================================================

INFORMATION:

1st column: reference number, two films to a patient:
                odd - right
                even - left

2nd column: Character of background tissue:
                F - Fatty
                G - Fatty-glandular
                D - Dense-glandular

3rd column: Class of abnormality present:
                CALC - Calcification
                CIRC - Well-defined/circumscribed masses
                SPIC - Spiculated masses
                NORM - Normal

4th column: Severity of abnormality;
                B - Benign
                M - Malignant

5th,6th columns: x,y image-coordinates of centre of abnormality,
            origin in the bottom-left corner.

7th column: Approximate radius (in pixels) of a circle enclosing
            the abnormality.

=================================================================

"""


@dataclass(frozen=True)
class _Plan:
    """The content of the film with a given number."""

    label: Label
    lesions: int = 1
    scattered: bool = False


def mias_films(films: int = 40, seed: int = 0, lesion_size: float = 1.0) -> Iterator[tuple[str, Film]]:
    """Yield `("mdb001", film)`, ...: the films of `write_mias_tree` with their masks, 1024 x 1024 pixels each.

    A film depends only on `seed` and its own number, not on the number of films. Raises `ConfigError` if the number of
    films is out of range or odd (each patient has two films), or if `seed` is negative.
    """
    if films < 2 or films % 2 or films > _MOST_FILMS:
        raise ConfigError(f"films={films}: must be even, two films to a patient, from 2 to {_MOST_FILMS}")
    if seed < 0:
        raise ConfigError(f"seed={seed}: must not be negative")
    return (_mias_film(number, seed, _plan(number), lesion_size) for number in range(1, films + 1))


def write_mias_tree(folder: Path, *, films: int = 40, seed: int = 0, lesion_size: float = 1.0) -> None:
    """Write `mdb001.pgm` ... (8-bit binary PGM) and, last, `Info.txt` into `folder`, in the layout of MIAS.

    About a third of the patients have a malignant film and a third a benign film; all other films are normal. The same
    arguments give the same bytes. `lesion_size` is a factor of the lesions' radius. Raises `ConfigError` like
    `mias_films`.
    """
    rows = []
    for name, film in mias_films(films, seed, lesion_size):
        grey = (film.pixels // 257).astype(np.uint8)
        write_bytes(folder / f"{name}.pgm", b"P5\n%d %d\n255\n" % (FILM_SIZE, FILM_SIZE) + grey.tobytes())
        rows += _table_rows(name, film)
    write_bytes(folder / LABEL_TABLE, (_HEADER + "\n".join(rows) + "\n\n" + "=" * 65 + "\n").encode("ascii"))


def write_rsna_tree(folder: Path, *, patients: int = 12, seed: int = 0, height: int | None = 700) -> None:
    """Write `train.csv` and `train_images/PATIENT/IMAGE.dcm` into `folder`; see `phantoms.rsna_tree`."""
    # Imported here, so that synthetic MIAS films need neither pydicom nor a JPEG 2000 encoder.
    from mammopipe.processing.phantoms import rsna_tree

    rsna_tree.write_rsna_tree(folder, patients=patients, seed=seed, height=height)


def _plan(number: int) -> _Plan:
    """Return the plan of a film: patients alternate between malignant, benign and normal, lesions between the sides."""
    patient, side = divmod(number - 1, 2)
    label = (Label.MALIGNANT, Label.BENIGN, Label.NORMAL)[patient % 3]
    if label is Label.NORMAL or side != patient // 3 % 2:
        return _Plan(Label.NORMAL)
    if patient >= _SCATTERED_FROM and patient % 36 == 30:
        return _Plan(label, scattered=True)
    return _Plan(label, lesions=2 if patient % 12 in (3, 7) else 1)


def _mias_film(number: int, seed: int, plan: _Plan, lesion_size: float) -> tuple[str, Film]:
    film_seed, patient_seed = (_mix(seed, kind, value) for kind, value in ((0, number), (1, (number - 1) // 2)))
    film = make_film(
        film_seed,
        label=plan.label,
        laterality=Laterality.RIGHT if number % 2 else Laterality.LEFT,
        height=FILM_SIZE,
        width=FILM_SIZE,
        lesions=plan.lesions,
        lesion_size=lesion_size,
        scattered=plan.scattered,
        patient_seed=patient_seed,
    )
    return f"mdb{number:03d}", film


def _mix(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def _table_rows(name: str, film: Film) -> list[str]:
    """Return the film's rows of `Info.txt`, in which y counts upwards from the bottom row."""
    if film.label is Label.NORMAL:
        return [f"{name} {film.density} NORM "]
    if not film.lesions:
        return [f"{name} {film.density} CALC {_severity(film.label)} *NOTE 3*"]
    return [
        f"{name} {film.density} {lesion.finding} {_severity(lesion.label)} "
        f"{lesion.x:.0f} {FILM_SIZE - 1 - lesion.y:.0f} {lesion.radius:.0f}"
        for lesion in film.lesions
    ]


def _severity(label: Label) -> str:
    return "M" if label is Label.MALIGNANT else "B"
