"""Candidate pairs: those of a plain count of shared keys, however the images are stored and cut."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import Label, Laterality
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.processing.splits import duplicate_index
from mammopipe.processing.splits.duplicate_index import CANDIDATES, FeatureStore, candidate_pairs
from mammopipe.processing.splits.near_duplicates import Features, features

PHANTOMS = 14
Images = dict[str, Features]


def phantom(seed: int) -> np.ndarray:
    return make_film(seed, label=Label.BENIGN, laterality=Laterality.LEFT, height=320, width=200).pixels


@pytest.fixture(scope="module")
def phantoms() -> Images:
    seen = {f"phantom{number}": features(phantom(number)) for number in range(PHANTOMS)}
    brighter = np.rint(65535 * (phantom(9) / 65535) ** 0.8).astype(np.uint16)
    return seen | {"brighter": features(brighter), "blank": features(np.zeros((320, 200), np.uint16))}


def test_versions_of_one_image_are_candidates_and_few_others(phantoms: Images) -> None:
    groups = ["test" if name == "brighter" else "train" for name in phantoms]
    pairs = candidate_pairs(phantoms, groups)
    assert ("phantom9", "brighter") in pairs
    assert all("brighter" in pair for pair in pairs), "only images of different groups are compared"
    assert len(pairs) <= CANDIDATES * len(phantoms)


def test_each_image_keeps_its_likeliest_partners(phantoms: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicate_index, "CANDIDATES", 1)
    twins = phantoms | {f"{name}-twin": item for name, item in phantoms.items()}
    pairs = candidate_pairs(twins, [name.endswith("-twin") for name in twins])
    assert {(f"phantom{number}", f"phantom{number}-twin") for number in range(PHANTOMS)} <= set(pairs)
    assert len(pairs) <= 2 * len(phantoms)


def test_no_images_have_no_pairs(phantoms: Images) -> None:
    assert candidate_pairs({}, []) == []
    assert candidate_pairs({"phantom1": phantoms["phantom1"]}, ["train"]) == []
    assert candidate_pairs({"blank": phantoms["blank"], "again": phantoms["blank"]}, ["train", "test"]) == []
    assert candidate_pairs({"phantom1": phantoms["phantom1"], "blank": phantoms["blank"]}, ["train", "test"]) == []


def test_a_key_that_every_image_has_costs_no_time_and_hides_no_image(phantoms: Images) -> None:
    same = np.zeros((250, 32), np.uint8)
    crowd = {
        name: Features(
            np.concatenate([item.points, np.zeros((250, 2), np.float32)]), np.concatenate([item.descriptors, same])
        )
        for name, item in phantoms.items()
    }
    rims = {"rim": Features(np.zeros((250, 2), np.float32), same)}
    groups = ["test" if name in ("brighter", "rim") else "train" for name in (*crowd, *rims)]
    pairs = candidate_pairs(crowd | rims, groups)
    assert ("phantom9", "brighter") in pairs
    assert not any("rim" in pair for pair in pairs)


def test_the_number_of_pairs_grows_with_the_images_not_with_their_square() -> None:
    random = np.random.default_rng(0)
    sizes = {}
    for count in (100, 400):
        images = {
            str(number): Features(np.zeros((50, 2), np.float32), random.integers(0, 256, (50, 32)).astype(np.uint8))
            for number in range(count)
        }
        images["copy"] = images["7"]
        pairs = candidate_pairs(images, [name == "copy" for name in images])
        assert pairs == [("7", "copy")]
        sizes[count] = len(candidate_pairs(images, list(images)))
    assert sizes[400] <= CANDIDATES * 401


def test_pairs_do_not_depend_on_the_block_sizes_of_the_search(
    phantoms: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = phantoms | {f"{name}-twin": item for name, item in phantoms.items()}
    groups = [name.endswith("-twin") for name in twins]
    whole = candidate_pairs(twins, groups)
    assert whole
    monkeypatch.setattr(duplicate_index, "_SLICE", 100)
    monkeypatch.setattr(duplicate_index, "_IMAGES_A_FILE", 3)
    monkeypatch.setattr(duplicate_index, "_CHUNK", 700)
    assert candidate_pairs(twins, groups) == whole


# --- against a plain count of shared keys


def named(descriptors: dict[str, np.ndarray]) -> dict[str, Features]:
    return {name: Features(np.zeros((len(each), 2), np.float32), each) for name, each in descriptors.items()}


def plain_votes(
    descriptors: dict[str, np.ndarray], groups: list[str], altered: list[bool], crowded: int = 64
) -> dict[tuple[int, int], int]:
    """Count, table by table, the features of the first image of a pair that share a key with one of the second."""
    order = np.random.default_rng(0).permuted(np.tile(np.arange(256), (8, 1)), axis=1)
    votes: Counter[tuple[int, int]] = Counter()
    for chosen in order[:, :24]:
        keys = [
            [tuple(row) for row in np.unpackbits(each, axis=1, bitorder="little")[:, chosen].tolist()]
            for each in descriptors.values()
        ]
        uses = Counter(key for image in keys for key in image)
        for first, second in combinations(range(len(keys)), 2):
            if groups[first] != groups[second] and not (altered[first] and altered[second]):
                votes[first, second] += sum(key in keys[second] and uses[key] <= crowded for key in keys[first])
    return votes


def near_copies(images: int, rows: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    """Return descriptors of which each image shares a few with each other, with one to five of 256 bits changed."""
    random = np.random.default_rng(seed)
    pool = random.integers(0, 256, (rows, 32)).astype(np.uint8)
    found = {}
    for number in range(images):
        bits = np.unpackbits(pool[random.permutation(rows)[: rows // 3]], axis=1)
        for row in bits:
            row[random.integers(0, 256, random.integers(1, 30))] ^= 1
        found[f"i{number}"] = np.packbits(bits, axis=1)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_candidates_are_the_three_likeliest_of_a_plain_count(seed: int) -> None:
    descriptors = near_copies(24, seed=seed)
    groups = ["train", "test", "validation"] * 8
    altered = [number % 5 == 0 for number in range(24)]
    votes = plain_votes(descriptors, groups, altered)
    enough = {pair: count for pair, count in votes.items() if count >= 4}
    assert any(count == 3 for count in votes.values()) and any(count == 4 for count in votes.values())
    kept = set()
    for image in range(24):
        for side in (0, 1):
            own = sorted((-count, pair) for pair, count in enough.items() if pair[side] == image)
            kept |= {pair for _, pair in own[:3]}
    names = list(descriptors)
    assert len(kept) < len(enough), "some pairs must be dropped"
    assert candidate_pairs(named(descriptors), groups, altered) == [(names[a], names[b]) for a, b in sorted(kept)]
    of_no_variant = plain_votes(descriptors, groups, [False] * 24)
    assert of_no_variant != votes
    assert candidate_pairs(named(descriptors), groups) == candidate_pairs(named(descriptors), groups, [False] * 24)


@pytest.mark.parametrize(("others", "found"), [(62, True), (63, False)])
def test_a_key_of_more_than_64_features_is_ignored(others: int, found: bool) -> None:
    """Such keys are of rims and noise."""
    one = np.full((1, 32), 7, np.uint8)
    images = named({"a": one, "b": one, "c": np.repeat(one, others, axis=0)})
    pairs = candidate_pairs(images, ["train", "test", "train"])
    assert (("a", "b") in pairs) is found and (("b", "c") in pairs) is found


def test_a_feature_counts_once_however_often_the_other_image_has_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight tables give one feature eight votes, and three copies of it in the other image no more."""
    one = np.full((1, 32), 7, np.uint8)
    images = named({"a": one, "b": np.repeat(one, 3, axis=0)})
    for votes, found in ((8, [("a", "b")]), (9, [])):
        monkeypatch.setattr(duplicate_index, "VOTES", votes)
        assert candidate_pairs(images, ["train", "test"]) == found
    # Three features of the first image count three times.
    monkeypatch.setattr(duplicate_index, "VOTES", 24)
    assert candidate_pairs(dict(reversed(images.items())), ["train", "test"]) == [("b", "a")]


def test_two_images_of_one_feature_each_are_enough() -> None:
    one = np.full((1, 32), 7, np.uint8)
    assert candidate_pairs(named({"a": one, "b": one}), [1, 2]) == [("a", "b")]
    assert candidate_pairs(named({"a": one, "b": one}), [1, 1]) == []
    assert candidate_pairs(named({"a": one, "b": one}), [1, 2], [True, False]) == [("a", "b")]
    assert candidate_pairs(named({"a": one, "b": one}), [1, 2], [True, True]) == [], "two variants"


def test_one_image_and_images_without_features_have_no_pairs() -> None:
    none, one = np.zeros((0, 32), np.uint8), np.full((1, 32), 7, np.uint8)
    assert candidate_pairs({}, []) == candidate_pairs(named({"a": one}), [1]) == []
    assert candidate_pairs(named({"a": none, "b": none}), [1, 2]) == []
    assert candidate_pairs(named({"a": none, "b": one, "c": one}), [1, 2, 3]) == [("b", "c")]


def test_more_descriptors_need_longer_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each doubling of their number adds one bit, up to 32."""
    order = np.random.default_rng(0).permuted(np.tile(np.arange(256), (8, 1)), axis=1)
    for few, bits in ((2, 24), (1.5, 25), (1, 25), (0.5, 26), (2**-20, 32)):
        monkeypatch.setattr(duplicate_index, "_FEW", few)
        for place in (bits - 1, bits):  # the last bit of the key, and the first one after it
            changed = np.zeros(256, np.uint8)
            changed[order[:5, place]] = 1
            shared = sum(not changed[order[table, :bits]].any() for table in range(8))
            images = named({"a": np.zeros((1, 32), np.uint8), "b": np.packbits(changed, bitorder="little")[None]})
            for votes in (shared, shared + 1):
                monkeypatch.setattr(duplicate_index, "VOTES", votes)
                assert bool(candidate_pairs(images, [1, 2])) is (votes == shared > 0), (few, place)


def test_a_store_keeps_images_of_any_number_of_features_until_it_is_closed() -> None:
    random = np.random.default_rng(0)
    items = {
        name: Features(
            random.normal(size=(count, 2)).astype(np.float32), random.integers(0, 256, (count, 32), np.uint8)
        )
        for name, count in (("b", 3), ("none", 0), ("a", 2))
    }
    with FeatureStore() as store:
        for name, item in items.items():
            store.add(name, item)
        assert (list(store), len(store)) == (["b", "none", "a"], 3)
        for name, item in items.items():
            assert np.array_equal(store[name].points, item.points)
            assert np.array_equal(store[name].descriptors, item.descriptors)
        with pytest.raises(KeyError):
            store["another"]
    with pytest.raises(ValueError, match="closed"):
        store["a"]
