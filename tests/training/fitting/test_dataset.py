"""Images reach the network as stored; random variation depends only on its key; epochs are balanced."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mammopipe.processing.breast.preprocess import to_unit
from mammopipe.processing.datasets.manifest import Label, Split, read_manifest
from mammopipe.processing.errors import ManifestError
from mammopipe.processing.images.mammogram import read_mammogram, write_png
from mammopipe.training.config import Sampling, TrainConfig
from mammopipe.training.fitting.dataset import ImageDataset, TrainingImages, require_every_class
from mammopipe.training.fitting.sampling import Draw, EpochBatches, epoch_order, loss_weights


@pytest.fixture
def paths(make_job):
    return make_job()


def dataset_of(paths, split=Split.TRAIN, shape=(64, 64)):
    records = [record for record in read_manifest(paths.channel("manifest")) if record.split is split]
    return ImageDataset(records, paths.channel(str(split)), shape=shape)


def test_an_image_is_its_file_divided_by_full_scale(paths):
    dataset = dataset_of(paths, Split.VALIDATION)
    for index, record in enumerate(dataset.records):
        image, label, image_id = dataset[index]
        pixels = read_mammogram(paths.channel("validation") / f"{record.image_id}.png").pixels
        assert image.shape == (1, 64, 64) and np.array_equal(image[0].numpy(), to_unit(pixels))
        assert (label, image_id) == (record.label.rank, record.image_id)
    assert len(dataset) == 12 and set(dataset.counts().values()) == {4}


def test_the_digest_is_of_the_files(paths):
    before = dataset_of(paths).sha256
    assert dataset_of(paths).sha256 == before
    path = next(paths.channel("train").glob("*.png"))
    pixels = read_mammogram(path).pixels
    pixels[0, 0] ^= 1
    write_png(path, pixels)
    assert dataset_of(paths).sha256 != before


def test_a_missing_image_is_named(paths):
    (paths.channel("train") / "train-benign-3.png").unlink()
    with pytest.raises(ManifestError, match=r"train-benign-3\.png: image_id=train-benign-3 of split train"):
        dataset_of(paths)


def test_an_image_of_another_shape_is_named(paths):
    with pytest.raises(ManifestError, match="64 x 64 pixels; stage.json states 64 x 48"):
        dataset_of(paths, shape=(64, 48))


def test_a_split_without_a_class_is_refused(paths):
    dataset = dataset_of(paths)
    require_every_class(dataset, Split.TRAIN)
    few = ImageDataset(
        [record for record in dataset.records if record.label is Label.NORMAL], paths.channel("train"), shape=(64, 64)
    )
    with pytest.raises(ManifestError, match="split=train has no benign and no malignant image among its 8"):
        require_every_class(few, Split.TRAIN)


def test_disturbance_depends_on_seed_epoch_and_position_alone(paths):
    dataset = dataset_of(paths)
    disturbed = TrainingImages(dataset, TrainConfig(noise=0.1, holes=3))
    first = disturbed[Draw(4, epoch=2, position=7)][0]
    np.testing.assert_array_equal(disturbed[Draw(4, epoch=2, position=7)][0], first)
    for other in (Draw(4, epoch=3, position=7), Draw(4, epoch=2, position=8)):
        assert not np.array_equal(disturbed[other][0], first)
    reseeded = TrainingImages(dataset, TrainConfig(noise=0.1, holes=3, seed=1))
    assert not np.array_equal(reseeded[Draw(4, epoch=2, position=7)][0], first)


def test_disturbance_leaves_the_images_and_the_black_around_the_breast_alone(paths):
    dataset = dataset_of(paths)
    before = [dataset[index][0].clone() for index in range(len(dataset))]
    disturbed = TrainingImages(dataset, TrainConfig(noise=0.3, holes=4))
    for position in range(50):
        image = disturbed[Draw(0, 1, position)][0][0].numpy()
        assert image.min() >= 0 and image.max() <= 1
        assert (image[:, 48:] == 0).all()
    assert all(torch.equal(dataset[index][0], image) for index, image in enumerate(before))


def test_without_noise_and_holes_training_images_are_exact(paths):
    dataset = dataset_of(paths)
    plain = TrainingImages(dataset, TrainConfig(noise=0.0, holes=0))
    assert np.array_equal(plain[Draw(5, 1, 0)][0], dataset[5][0])


def test_holes_blacken_some_tissue_and_never_much_of_it(paths):
    disturbed = TrainingImages(dataset_of(paths), TrainConfig(noise=0.0, holes=2))
    shares = [float((disturbed[Draw(0, 1, position)][0][0, :, :48] == 0).float().mean()) for position in range(60)]
    assert min(shares) == 0 and 0 < max(shares) <= 2 * 64 / (64 * 48)


LABELS = np.array([0] * 50 + [1] * 9 + [2] * 4)


@pytest.mark.parametrize("sampling", [Sampling.PLAIN, Sampling.WEIGHTED])
def test_each_image_comes_once_before_any_comes_again(sampling):
    order = epoch_order(LABELS, sampling, seed=0, epoch=1, batch_size=16)
    assert len(order) == 64 and sorted(order[:63]) == list(range(63))


def test_balanced_epochs_draw_classes_and_their_images_alike():
    order = epoch_order(LABELS, Sampling.BALANCED, seed=0, epoch=1, batch_size=16)
    assert sorted(np.bincount(LABELS[order])) == [21, 21, 22]
    uses = np.bincount(order, minlength=len(LABELS))
    for label in range(3):
        of_class = uses[label == LABELS]
        assert of_class.max() - of_class.min() <= 1


def test_epochs_differ_and_repeat_with_the_seed():
    def order(**key):
        return epoch_order(LABELS, Sampling.BALANCED, batch_size=16, **key).tolist()

    assert order(seed=0, epoch=1) == order(seed=0, epoch=1)
    assert order(seed=0, epoch=1) != order(seed=0, epoch=2) != order(seed=1, epoch=2)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.sampled_from([1, 2, 4]), st.integers(1, 4))
def test_processes_share_each_batch_of_one(count, processes, rows):
    batch = processes * rows
    order = epoch_order(np.arange(count) % 3, Sampling.PLAIN, seed=0, epoch=3, batch_size=batch)
    whole = list(EpochBatches(batch_size=batch).start(order, epoch=3))
    parts = [
        list(EpochBatches(batch_size=batch, rank=rank, world_size=processes).start(order, epoch=3))
        for rank in range(processes)
    ]
    assert whole == [sum(slices, []) for slices in zip(*parts, strict=True)]
    assert len(whole) == -(-count // batch)


def test_loss_weights_make_classes_count_alike():
    weights = loss_weights(LABELS, Sampling.WEIGHTED, 3).numpy()
    np.testing.assert_allclose(weights * np.bincount(LABELS), 63 / 3, rtol=1e-6)
    assert loss_weights(LABELS, Sampling.BALANCED, 3).tolist() == [1, 1, 1]
