"""Patches show what their targets say, the same ones for the same draw; networks learn from them what circles mark."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from processing.errors import ConfigError
from processing.imaging import write_png
from processing.records import Dataset, ImageRecord, Label, Laterality, Lesion, View
from training.config import Cnn, Pooling, TrainConfig
from training.dataset import FilmDataset
from training.location import UNKNOWN
from training.loop import fit
from training.models import build_model
from training.patches import Patches, learn_patches
from training.sampling import Draw

SHAPE = (256, 160)
CONFIG = TrainConfig(cnn=Cnn.MODIFIED_CNN, epochs=3, patch_epochs=3, patch_side=64, noise=0.0, pooling=Pooling.PEAKS,
                     batch_size=8, learning_rate=3e-3)
GRID = (8, 8)
SPOT = 60000
"""Value of a lesion's pixels; tissue stays below half of it."""


def film(folder, name, label, spots, lesions=None):
    random = np.random.default_rng(list(name.encode()))
    pixels = random.integers(5000, 25000, SHAPE).astype(np.uint16)
    pixels[:, 120:] = 0
    rows, columns = np.ogrid[:SHAPE[0], :SHAPE[1]]
    for x, y, radius in spots:
        pixels[(columns - x) ** 2 + (rows - y) ** 2 <= radius ** 2] = SPOT
    write_png(folder / f"{name}.png", pixels)
    circles = tuple(Lesion(x, y, radius, label) for x, y, radius in spots) if lesions is None else lesions
    return ImageRecord(name, name, Dataset.MIAS, Laterality.LEFT, View.MLO, label, lesions=circles)


@pytest.fixture
def films(tmp_path):
    records = [film(tmp_path, f"normal{index}", Label.NORMAL, ()) for index in range(4)]
    records += [film(tmp_path, f"malignant{index}", Label.MALIGNANT, ((30 + 15 * index, 60 + 40 * index, 14),))
                for index in range(4)]
    records.append(film(tmp_path, "unmarked", Label.BENIGN, ((60, 60, 20),), lesions=()))
    return FilmDataset(records, tmp_path, shape=SHAPE)


def test_a_patch_shows_its_lesion_where_its_targets_say(films):
    patches = Patches(films, CONFIG, GRID)
    for position in range(0, 40, 2):
        image, wanted = patches[Draw(position, 1, position)]
        assert image.shape == (1, 64, 64) and image.dtype == torch.float32 and wanted.shape == GRID
        places = image[0].reshape(8, 8, 8, 8).mean(dim=(1, 3))
        # Brightness and contrast differ between patches: what lies in a circle is brighter than any other tissue.
        assert places[wanted == 2].min() > places[wanted == 0].max()
        assert set(wanted.unique().tolist()) <= {UNKNOWN, 0, 2} and (wanted == 2).any()


def test_odd_positions_show_any_tissue_of_films_whose_lesions_are_known(films):
    patches = Patches(films, CONFIG, GRID)
    drawn = [patches[Draw(position, 1, position)] for position in range(1, 60, 2)]
    assert all(image[0, 24:40, 24:40].max() > 0 for image, _ in drawn)
    assert any((wanted == 0).all() for _, wanted in drawn)
    assert "unmarked" not in {films.records[index].image_id for index in patches.known}


def test_the_draw_alone_decides_the_patch(films):
    patches = Patches(films, CONFIG, GRID)
    first, again, other = (patches[draw] for draw in (Draw(0, 1, 4), Draw(0, 1, 4), Draw(0, 2, 4)))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_a_network_learns_from_patches_where_lesions_are(films):
    network = build_model("modified_cnn", classes=3, pooling=Pooling.PEAKS)
    losses = learn_patches(network, films, replace(CONFIG, patch_epochs=12, epochs=20), pretrained=False)
    assert len(losses) == 12 and losses[-1] < losses[0] / 2
    network.eval()
    with torch.no_grad():
        for index in range(4, 8):
            places = network.places(films[index][0][None])[0]
            circle = films.records[index].lesions[0]
            row, column = divmod(int((places[2] - places[0]).argmax()), places.shape[2])
            height, width = SHAPE[0] / places.shape[1], SHAPE[1] / places.shape[2]
            assert np.hypot((column + 0.5) * width - circle.x, (row + 0.5) * height - circle.y) < circle.radius + width


def test_the_same_seed_ends_with_the_same_weights(films):
    ends = []
    for _ in range(2):
        network = build_model("modified_cnn", classes=3)
        torch.manual_seed(len(ends))
        learn_patches(network, films, CONFIG, pretrained=False)
        ends.append(network.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_films_without_circles_are_refused(films):
    with pytest.raises(ConfigError, match="patch_epochs=3 needs films with annotated circles; none of the 4"):
        learn_patches(build_model("modified_cnn", classes=3), films.part(range(4)), CONFIG, pretrained=False)


def test_so_are_they_for_the_loss_on_places(films):
    config = replace(CONFIG, location_weight=0.5, patch_epochs=0)
    with pytest.raises(ConfigError, match="location_weight=0.5 needs films with annotated circles"):
        fit(build_model("modified_cnn", classes=3), films.part(range(4)), films, config, pretrained=False)


def test_a_job_that_is_to_stop_stops(films):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_patches(build_model("modified_cnn", classes=3), films, CONFIG, pretrained=False, check_stop=stop)
