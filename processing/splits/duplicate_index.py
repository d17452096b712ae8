"""Films looked up by what they show, in bounded memory: features on disk, candidates by hashed descriptors.

Keys of `_BITS` bits are taken from a binary descriptor, `_TABLES` of them (locality-sensitive hashing: P. Indyk and
R. Motwani 1998, STOC). Features of two pictures of one film differ in few of 256 bits (half of them in 8 or fewer,
measured on mini-MIAS and altered copies), so that most share a key. Films that share many are compared in full.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.container.job import cores
from mammopipe.processing.splits.near_duplicates import SAME_FILM, Features, agreement

SHARD = 2048
"""Films whose keys are in memory at a time: about 30 MB."""
_TABLES = 8
_BITS = 24
_CROWDED = 64
"""Descriptors with one key from which on the key says nothing: rims and noise look alike in every film."""
_VOTES = 4
"""Shared keys that make a film a candidate."""
_CANDIDATES = 5
"""Films of a shard that are compared in full with a query."""
_CHUNK = 16384
"""Descriptors that are cut into keys at a time."""
_CHOSEN = np.random.default_rng(0).permuted(np.tile(np.arange(256), (_TABLES, 1)), axis=1)[:, :_BITS].ravel()
_WEIGHTS = np.uint32(1) << np.arange(_BITS, dtype=np.uint32)


class FeatureStore(Mapping[str, Features]):
    """The features of many films, 12 KB each, in a temporary file that goes when it is closed."""

    def __init__(self) -> None:
        """Open an empty store in the machine's folder for temporary files (`TMPDIR`)."""
        self._file = tempfile.TemporaryFile()
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, name: str, item: Features) -> None:
        """Keep the features of one more film; not for several threads at once."""
        data = item.points.tobytes() + item.descriptors.tobytes()
        os.pwrite(self._file.fileno(), data, self._end)
        self._places[name] = (self._end, len(item.points))
        self._end += len(data)

    def __getitem__(self, name: str) -> Features:
        place, count = self._places[name]
        data = os.pread(self._file.fileno(), count * 40, place)
        points = np.frombuffer(data, np.float32, count * 2).reshape(count, 2)
        return Features(points, np.frombuffer(data, np.uint8, offset=count * 8).reshape(count, 32))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class HashIndex:
    """The keys of at most `SHARD` films, sorted, with the film of each."""

    def __init__(self, films: Iterable[Features]) -> None:
        """Index the films, which are then known by their place in the order given."""
        descriptors = [item.descriptors for item in films]
        self.size = len(descriptors)
        counts = [len(each) for each in descriptors]
        keys = _keys(np.concatenate([np.zeros((0, 32), np.uint8), *descriptors]))
        films_of_keys = np.repeat(np.arange(self.size, dtype=np.uint16), counts)
        self._tables = []
        for column in keys.T:
            order = np.argsort(column, kind="stable")
            self._tables.append((column[order], films_of_keys[order]))

    def candidates(self, item: Features) -> list[int]:
        """Return the places of the films that share most keys with a picture, the likeliest first."""
        votes = np.zeros(self.size, np.int64)
        for column, (keys, films) in zip(_keys(item.descriptors).T, self._tables, strict=True):
            first = np.searchsorted(keys, column, "left")
            count = np.searchsorted(keys, column, "right") - first
            count[count > _CROWDED] = 0
            starts = first - np.cumsum(count) + count
            hits = films[np.repeat(starts, count) + np.arange(count.sum())]
            # A film has one vote for each of the picture's features, however many of its own share the key.
            voters = np.repeat(np.arange(len(column), dtype=np.int64), count)
            votes += np.bincount(np.unique(voters * self.size + hits) % self.size, minlength=self.size)
        likeliest = np.argsort(-votes, kind="stable")[:_CANDIDATES]
        return [int(place) for place in likeliest if votes[place] >= _VOTES]


def _keys(descriptors: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the keys (n, tables) of descriptors (n, 32)."""
    keys = np.zeros((len(descriptors), _TABLES), np.uint32)
    for start in range(0, len(descriptors), _CHUNK):
        part = descriptors[start : start + _CHUNK]
        bits = (part[:, _CHOSEN >> 3] >> (_CHOSEN & 7).astype(np.uint8)) & 1
        keys[start : start + _CHUNK] = bits.reshape(len(part), _TABLES, _BITS) @ _WEIGHTS
    return keys


def find_same_film(
    films: Mapping[str, Features], queries: Sequence[str], indexed: Sequence[str]
) -> Iterator[tuple[str, str, int]]:
    """Yield (query, indexed, agreement) for each two of the films, by name, that are found to be the same.

    Every query is looked up in every shard of the index, so that it finds as much among many films as among few. The
    time grows with the product of their numbers, about 16 ms for a query and `SHARD` films (one core): two hours of one
    core for the splits of 54,706 films.
    """
    for start in range(0, len(indexed), SHARD):
        yield from _find_in_shard(films, queries, indexed[start : start + SHARD])


def _find_in_shard(
    films: Mapping[str, Features], queries: Sequence[str], names: Sequence[str]
) -> Iterator[tuple[str, str, int]]:
    shard = HashIndex(films[name] for name in names)

    def matches(query: str) -> list[tuple[str, str, int]]:
        item = films[query]
        found = [(query, names[place], agreement(item, films[names[place]])) for place in shard.candidates(item)]
        return [match for match in found if match[2] >= SAME_FILM]

    with ThreadPoolExecutor(cores()) as pool:
        for found in pool.map(matches, queries):
            yield from found
