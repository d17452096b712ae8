import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import Label, Laterality
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.processing.splits import duplicate_index
from mammopipe.processing.splits.duplicate_index import FeatureStore, find_same_film
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


@pytest.mark.parametrize("shard", [3, 2048])
def test_a_film_is_found_in_whatever_shard_it_is(
    films: dict[str, Features], monkeypatch: pytest.MonkeyPatch, shard: int
) -> None:
    monkeypatch.setattr(duplicate_index, "SHARD", shard)
    indexed = [f"film{number}" for number in range(FILMS)] + ["blank"]
    found = {(query, name) for query, name, _ in find_same_film(films, ["brighter", "film3", "blank"], indexed)}
    assert found == {("brighter", "film9"), ("film3", "film3")}


def test_nothing_is_found_in_nothing(films: dict[str, Features]) -> None:
    assert list(find_same_film(films, ["film1"], [])) == []
    assert list(find_same_film(films, ["film1"], ["blank"])) == []
    assert list(find_same_film(films, [], ["film1"])) == []


def test_a_key_that_every_film_has_costs_no_time_and_hides_no_film(films: dict[str, Features]) -> None:
    same = np.zeros((250, 32), np.uint8)
    crowd = {
        f"crowd{number}": Features(
            np.concatenate([item.points, np.zeros((250, 2), np.float32)]), np.concatenate([item.descriptors, same])
        )
        for number, item in enumerate(films.values())
    }
    index = duplicate_index.HashIndex(crowd.values())
    assert index.candidates(Features(np.zeros((250, 2), np.float32), same)) == []
    assert index.candidates(crowd["crowd5"])[0] == 5
