"""Lesion circles label places of the feature map, or leave them unknown; the loss uses only labelled places."""

import numpy as np
import pytest
import torch

from mammopipe.processing.classes import TWO
from mammopipe.processing.datasets.manifest import Label, Lesion
from mammopipe.training.fitting.lesion_loss import UNKNOWN, WithPlaces, grid_of, location_losses, targets
from mammopipe.training.model.architecture import Pooling
from mammopipe.training.networks.registry import build_model

SHAPE, GRID = (128, 96), (8, 6)
"""Places of 16 x 16 pixels."""


def lesion(x, y, radius, label=Label.MALIGNANT):
    return Lesion(x, y, radius, label)


def marked(lesions, label=Label.MALIGNANT):
    return targets(lesions, label, shape=SHAPE, grid=GRID).numpy()


def test_a_circle_marks_its_places_and_leaves_its_rim_unknown():
    found = marked([lesion(39.5, 55.5, 17)])
    # The centres of places are at 7.5, 23.5, 39.5, ...; the circle contains that of column 2, row 3 and its neighbours.
    assert found[3, 2] == 2 and found[2, 2] == found[4, 2] == found[3, 1] == found[3, 3] == 2
    assert found[2, 1] == found[4, 3] == UNKNOWN
    assert found[7, 5] == found[0, 0] == 0
    assert (found == 2).sum() == 5


def test_the_smallest_lesion_has_a_place():
    found = marked([lesion(45, 60, 1.5)])
    assert (found == 2).sum() == 1 and found[3, 2] == 2


def test_a_circle_whose_centre_is_cut_off_marks_what_is_left_of_it():
    found = marked([lesion(-4, 55.5, 13)])
    assert (found == 2).sum() == 1 and found[3, 0] == 2
    assert (marked([lesion(-40, 55.5, 3)]) == 0).all()


def test_the_worst_circle_decides():
    for lesions in (
        [lesion(39.5, 55.5, 20), lesion(39.5, 55.5, 30, Label.BENIGN)],
        [lesion(39.5, 55.5, 30, Label.BENIGN), lesion(39.5, 55.5, 20)],
    ):
        found = marked(lesions)
        assert found[3, 2] == 2 and 1 in found


def test_without_a_circle_all_places_of_a_finding_are_unknown():
    assert (marked([], Label.BENIGN) == UNKNOWN).all()
    assert (marked([], Label.NORMAL) == 0).all()


def test_unknown_places_do_not_count():
    wanted = torch.from_numpy(marked([lesion(39.5, 55.5, 17)]))[None]
    places = torch.randn(1, 3, *GRID, generator=torch.Generator().manual_seed(1))
    changed = places.clone()
    changed[:, :, wanted[0] == UNKNOWN] += torch.tensor([5.0, 0.0, 0.0])[None, :, None]
    assert torch.equal(location_losses(changed, wanted), location_losses(places, wanted))
    assert location_losses(places, torch.full((1, *GRID), UNKNOWN)).item() == 0


def test_a_lesion_weighs_as_much_as_all_normal_tissue():
    wanted = torch.zeros(1, *GRID, dtype=torch.int64)
    wanted[0, 2, 3] = 2
    places = torch.zeros(1, 3, *GRID)
    assert location_losses(places, wanted).mean().item() == pytest.approx(2 * np.log(3), rel=1e-6)
    places[0, 2, 2, 3] = 20
    assert location_losses(places, wanted).mean().item() == pytest.approx(np.log(3), rel=1e-6)


def test_images_weigh_alike():
    wanted = torch.zeros(2, *GRID, dtype=torch.int64)
    wanted[0, :, :3] = 1
    places = torch.randn(2, 3, *GRID, generator=torch.Generator().manual_seed(2))
    alone = [location_losses(places[index : index + 1], wanted[index : index + 1]) for index in range(2)]
    assert location_losses(places, wanted).mean().item() == pytest.approx(float(sum(alone)) / 2, rel=1e-6)


@pytest.mark.parametrize("name", ["modified_cnn", "resnet50", "efficientnet_lite0"])
@pytest.mark.parametrize("pooling", Pooling)
def test_the_places_of_an_image_make_its_logits(name, pooling):
    network = build_model(name, classes=3, pooling=pooling).eval()
    images = torch.rand(2, 1, 128, 96)
    with torch.no_grad():
        logits, places = WithPlaces(network)(images)
        torch.testing.assert_close(logits, network(images), rtol=1e-4, atol=1e-5)
    assert places.shape[2:] == grid_of(network, (128, 96)) and min(places.shape[2:]) > 1


def test_one_strong_place_is_a_peak_and_hardly_moves_a_mean():
    places = torch.zeros(1, 3, 8, 8)
    places[0, 2, 4, 4] = 10
    network = build_model("modified_cnn", classes=3, pooling=Pooling.PEAKS)
    assert network.pool(places)[0].tolist() == pytest.approx([0, 0, np.log((63 + np.exp(10)) / 64)], rel=1e-5)
    network.pooling = Pooling.MEAN
    assert network.pool(places)[0, 2].item() == pytest.approx(10 / 64)


def test_the_strongest_places_make_the_top():
    places = torch.zeros(1, 3, 4, 4)
    places[0, 0], places[0, 2, 0, 0], places[0, 2, 3, 1], places[0, 1] = 1, 10, 5, -1
    network = build_model("modified_cnn", classes=3, pooling=Pooling.TOP, top_places=3)
    assert network.pool(places)[0].tolist() == pytest.approx([1, -1, 5])
    network.top_places = 99
    assert network.pool(places)[0].tolist() == pytest.approx([1, -1, 15 / 16])


def test_the_grid_leaves_the_network_as_it_was():
    network = build_model("modified_cnn", classes=3).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    grid_of(network, (96, 64))
    assert network.training and all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_with_two_classes_only_malignant_circles_are_targets():
    def of(label, *lesions):
        return targets(lesions, label, shape=(64, 64), grid=(4, 4), classes=TWO)

    benign, malignant = (Lesion(8, 8, 4, label) for label in (Label.BENIGN, Label.MALIGNANT))
    assert not of(Label.BENIGN, benign).any() and not of(Label.BENIGN).any() and not of(Label.NEGATIVE).any()
    found = of(Label.MALIGNANT, benign, malignant)
    assert found[0, 0] == 1 and set(found.flatten().tolist()) <= {UNKNOWN, 0, 1}
    assert (of(Label.MALIGNANT, benign) == UNKNOWN).all()
