import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import Label, Laterality
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.processing.splits import duplicate_index
from mammopipe.processing.splits.duplicate_index import CANDIDATES, FeatureStore, candidate_pairs
from mammopipe.processing.splits.near_duplicates import Features, features

FILMS = 14


def film(seed: int) -> np.ndarray:
    return make_film(seed, label=Label.BENIGN, laterality=Laterality.LEFT, height=320, width=200).pixels


@pytest.fixture(scope="module")
def films() -> dict[str, Features]:
    seen = {f"film{number}": features(film(number)) for number in range(FILMS)}
    brighter = np.rint(65535 * (film(9) / 65535) ** 0.8).astype(np.uint16)
    return seen | {"brighter": features(brighter), "blank": features(np.zeros((320, 200), np.uint16))}


def test_a_store_gives_back_what_it_was_given(films: dict[str, Features]) -> None:
    with FeatureStore() as store:
        for name, item in films.items():
            store.add(name, item)
        assert list(store) == list(films) and len(store) == len(films)
        for name in reversed(films):
            assert np.array_equal(store[name].points, films[name].points)
            assert np.array_equal(store[name].descriptors, films[name].descriptors)
        with pytest.raises(KeyError):
            store["another"]


def test_versions_of_one_image_are_candidates_and_few_others(films: dict[str, Features]) -> None:
    groups = ["test" if name == "brighter" else "train" for name in films]
    pairs = candidate_pairs(films, groups)
    assert ("film9", "brighter") in pairs
    assert all("brighter" in pair for pair in pairs), "only images of different groups are compared"
    assert len(pairs) <= CANDIDATES * len(films)


def test_each_image_keeps_its_likeliest_partners(films: dict[str, Features], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicate_index, "CANDIDATES", 1)
    twins = films | {f"{name}-twin": item for name, item in films.items()}
    pairs = candidate_pairs(twins, [name.endswith("-twin") for name in twins])
    assert {(f"film{number}", f"film{number}-twin") for number in range(FILMS)} <= set(pairs)
    assert len(pairs) <= 2 * len(films)


def test_nothing_is_found_in_nothing(films: dict[str, Features]) -> None:
    assert candidate_pairs({}, []) == []
    assert candidate_pairs({"film1": films["film1"]}, ["train"]) == []
    assert candidate_pairs({"blank": films["blank"], "again": films["blank"]}, ["train", "test"]) == []
    assert candidate_pairs({"film1": films["film1"], "blank": films["blank"]}, ["train", "test"]) == []


def test_a_key_that_every_image_has_costs_no_time_and_hides_no_image(films: dict[str, Features]) -> None:
    same = np.zeros((250, 32), np.uint8)
    crowd = {
        name: Features(
            np.concatenate([item.points, np.zeros((250, 2), np.float32)]), np.concatenate([item.descriptors, same])
        )
        for name, item in films.items()
    }
    rims = {"rim": Features(np.zeros((250, 2), np.float32), same)}
    groups = ["test" if name in ("brighter", "rim") else "train" for name in (*crowd, *rims)]
    pairs = candidate_pairs(crowd | rims, groups)
    assert ("film9", "brighter") in pairs
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


def test_pairs_do_not_depend_on_how_the_search_is_cut(
    films: dict[str, Features], monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = films | {f"{name}-twin": item for name, item in films.items()}
    groups = [name.endswith("-twin") for name in twins]
    whole = candidate_pairs(twins, groups)
    assert whole
    monkeypatch.setattr(duplicate_index, "_SLICE", 100)
    monkeypatch.setattr(duplicate_index, "_IMAGES_A_FILE", 3)
    assert candidate_pairs(twins, groups) == whole
