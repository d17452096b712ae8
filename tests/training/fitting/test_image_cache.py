"""The memory and the disk cache give the same images; the disk cache decodes an image only when it is used."""

import os
from dataclasses import replace

import numpy as np
import pytest

from mammopipe.processing.container.memory import host_memory
from mammopipe.processing.datasets.manifest import Split, read_manifest
from mammopipe.processing.errors import ManifestError
from mammopipe.processing.files import sha256
from mammopipe.processing.images.pgm_png import write_png
from mammopipe.training.config import Cache
from mammopipe.training.fitting import image_cache
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.fitting.image_cache import choose_cache


@pytest.fixture
def train(make_job):
    paths = make_job()
    records = [item for item in read_manifest(paths.channel("manifest")) if item.split is Split.TRAIN]
    return paths.channel("train"), records


def test_both_give_the_same_images_and_the_same_digest(train):
    folder, records = train
    memory, disk = (ImageDataset(records, folder, shape=(64, 64), cache=cache) for cache in (Cache.MEMORY, Cache.DISK))
    assert memory.sha256 == disk.sha256
    parts = [dataset.part([5, 2]).joined(dataset.part([0])) for dataset in (memory, disk)]
    for index in range(3):
        ours, theirs = (part[index] for part in parts)
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1:] == theirs[1:]


def test_on_disk_an_image_is_decoded_when_it_is_used(train, monkeypatch):
    folder, records = train
    read = []
    decode = image_cache.decoded
    monkeypatch.setattr(
        image_cache, "decoded", lambda data, path, record: read.append(path.name) or decode(data, path, record)
    )
    disk = ImageDataset(records, folder, shape=(64, 64), cache=Cache.DISK)
    assert read == []
    disk[3], disk[3]
    assert read == [f"{records[3].image_id}.png"] * 2


def test_a_file_that_changed_after_the_start_is_refused_by_name(train):
    folder, records = train
    disk = ImageDataset(records, folder, shape=(64, 64), cache=Cache.DISK)
    write_png(folder / f"{records[0].image_id}.png", np.full((64, 64), 9, np.uint16))
    with pytest.raises(ManifestError, match=f"{records[0].image_id}.png: its SHA-256 is .* was changed"):
        disk[0]
    disk[1]


@pytest.mark.parametrize("cache", [Cache.MEMORY, Cache.DISK])
def test_a_file_with_another_sha256_than_in_the_manifest_is_refused(train, cache):
    folder, records = train
    stated = [replace(item, sha256=sha256(folder / f"{item.image_id}.png")) for item in records]
    wrong = [*stated[1:], replace(stated[0], sha256="0" * 64)]
    with pytest.raises(ManifestError, match="its SHA-256 is"):
        dataset = ImageDataset(wrong, folder, shape=(64, 64), cache=cache)
        dataset[len(wrong) - 1]


def test_a_missing_file_is_found_before_the_first_step(train):
    folder, records = train
    (folder / f"{records[4].image_id}.png").unlink()
    stated = [replace(item, sha256="0" * 64) for item in records]
    for rows in (records, stated):
        with pytest.raises(ManifestError, match=f"{records[4].image_id}.png.*cannot be read"):
            ImageDataset(rows, folder, shape=(64, 64), cache=Cache.DISK)


def test_auto_keeps_in_memory_what_takes_less_than_a_quarter_of_it():
    quarter = host_memory() // 4
    assert choose_cache(Cache.AUTO, 10, (384, 256)) is Cache.MEMORY
    assert choose_cache(Cache.AUTO, quarter // 2 - 1, (1, 1)) is Cache.MEMORY
    assert choose_cache(Cache.AUTO, quarter // 2 + 1, (1, 1)) is Cache.DISK
    assert choose_cache(Cache.DISK, 1, (1, 1)) is Cache.DISK
    assert choose_cache(Cache.MEMORY, quarter, (9, 9)) is Cache.MEMORY
    assert host_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
