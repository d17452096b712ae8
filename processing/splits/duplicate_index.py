"""Finds candidate pairs of similar images in bounded memory: features on disk, pairs by hashed descriptors.

Each hash table makes a key from every binary descriptor: a selection of its bits (locality-sensitive hashing: P. Indyk
and R. Motwani 1998, STOC). The features of two images of one original differ in few of 256 bits (half of them in 8 or
fewer, measured on mini-MIAS and altered copies), so most of them share a key in some table. The keys of all images are
sorted together, one table after the other. So the time grows with the number of images and of pairs that share keys,
not with the number of all pairs.
"""

import os
import tempfile
from collections.abc import Hashable, Iterator, Mapping, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.splits.near_duplicates import Features

VOTES = 4
"""Least number of shared keys, over all tables, of a candidate pair."""
CANDIDATES = 3
"""Number of likeliest partners kept for each image: those that share the most keys with it."""
_TABLES = 8
_BITS = 24
"""Bits of a key for up to `_FEW` descriptors. Each doubling of their number adds a bit, so that the number of chance
matches of a descriptor does not grow."""
_FEW = 2048 * 300
_MOST_BITS = 32
_CROWDED = 64
"""Greatest number of descriptors with one key. Keys with more are ignored: rims and noise look alike in all images."""
_CHUNK = 65536
"""Number of descriptors converted to keys at a time."""
_ORDER = np.random.default_rng(0).permuted(np.tile(np.arange(256), (_TABLES, 1)), axis=1)

_SLICE = 1 << 16
"""Number of sorted keys compared at a time."""
_IMAGES_A_FILE = 500
"""Number of images whose pairs are counted at a time."""

Codes = NDArray[np.int64]
"""Pairs of images, each as one number: index of the first image x number of images + index of the second."""


class FeatureStore(Mapping[str, Features]):
    """The features of many images, 12 KB each, in a temporary file that is removed on closing."""

    def __init__(self) -> None:
        """Open an empty store in the system's folder for temporary files (`TMPDIR`)."""
        self._file = tempfile.TemporaryFile()
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, name: str, item: Features) -> None:
        """Store the features of one more image; not thread-safe."""
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


def candidate_pairs(
    images: Mapping[str, Features], groups: Sequence[Hashable], altered: Sequence[bool] | None = None
) -> list[tuple[str, str]]:
    """Return pairs of images of different groups that share many features, in the order of the images.

    Args:
        images: The features of each image, by name.
        groups: The group of each image, such as its split; images of one group are not compared.
        altered: Whether the features of each image are those of an altered variant; two variants are not compared.

    Returns:
        Pairs of names: the `CANDIDATES` likeliest partners of each image.
    """
    names = list(images)
    counts = np.array([len(images[name].points) for name in names], np.int64)
    if len(names) < 2 or not counts.sum():
        return []
    _, group_of = np.unique(np.array([str(group) for group in groups]), return_inverse=True)
    own = np.zeros(len(names), bool) if altered is None else np.asarray(altered, bool)
    bits = min(_MOST_BITS, _BITS + max(0, int(np.ceil(np.log2(counts.sum() / _FEW)))))
    owners = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    with _Votes(len(names)) as votes:
        for table in range(_TABLES):
            for codes in _shared(_sorted_keys(images, names, _ORDER[table, :bits]), owners, group_of, own):
                votes.add(codes)
        codes, counted = votes.at_least(VOTES)
    return [(names[first], names[second]) for first, second in _likeliest(codes, counted, len(names))]


class _Votes:
    """Counts how often the code of each pair is added.

    Most pairs share a single key by chance, and there are some thousand such pairs for each image. So the codes are
    kept in temporary files, divided by the pair's first image, and one file at a time is counted.
    """

    def __init__(self, images: int) -> None:
        self._files = [tempfile.TemporaryFile() for _ in range(0, images, _IMAGES_A_FILE)]
        self._bounds = np.arange(len(self._files) + 1, dtype=np.int64) * _IMAGES_A_FILE * images

    def __enter__(self) -> "_Votes":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._files:
            file.close()

    def add(self, codes: Codes) -> None:
        """Add one vote for each code; `codes` ascend."""
        places = np.searchsorted(codes, self._bounds)
        for file, start, end in zip(self._files, places, places[1:], strict=False):
            file.write(codes[start:end].tobytes())

    def at_least(self, votes: int) -> tuple[Codes, NDArray[np.int64]]:
        """Return the codes with at least this number of votes, ascending, and their votes."""
        found, counted = [], []
        for file in self._files:
            file.seek(0)
            codes, times = np.unique(np.frombuffer(file.read(), np.int64), return_counts=True)
            found.append(codes[times >= votes])
            counted.append(times[times >= votes])
        return np.concatenate(found), np.concatenate(counted)


def _sorted_keys(images: Mapping[str, Features], names: Sequence[str], chosen: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the key, made of the chosen bits, and the number of each descriptor of all images, sorted by key.

    The key is in the upper 32 bits, the descriptor's number in the lower ones: one array to sort, in place.
    """
    weights = np.uint32(1) << np.arange(len(chosen), dtype=np.uint32)
    parts, start = [], 0
    for block in _blocks(images, names):
        bits = (block[:, chosen >> 3] >> (chosen & 7).astype(np.uint8)) & 1
        numbers = np.arange(start, start + len(block), dtype=np.uint64)
        parts.append(((bits @ weights).astype(np.uint64) << np.uint64(32)) | numbers)
        start += len(block)
    keys = np.concatenate(parts)
    keys.sort()
    return keys


def _blocks(images: Mapping[str, Features], names: Sequence[str]) -> Iterator[NDArray[np.uint8]]:
    """Yield the descriptors of all images, in blocks of about `_CHUNK`."""
    waiting: list[NDArray[np.uint8]] = []
    for name in names:
        waiting.append(images[name].descriptors)
        if sum(map(len, waiting)) >= _CHUNK:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _shared(
    keys: NDArray[np.uint64], owners: NDArray[np.int32], group_of: NDArray[np.int64], altered: NDArray[np.bool_]
) -> Iterator[Codes]:
    """Yield ascending codes, first image x images + second image, of features with one key in different groups.

    A feature of the first image counts once per second image, even if several features of that image have the key.
    """
    start = 0
    while start < len(keys):
        # A slice ends after the last descriptor of a key, so that no key is in two slices.
        last = keys[min(start + _SLICE, len(keys)) - 1] | np.uint64(0xFFFFFFFF)
        end = int(np.searchsorted(keys, last, side="right"))
        numbers = (keys[start:end] & np.uint64(0xFFFFFFFF)).astype(np.int64)
        yield _shared_in((keys[start:end] >> np.uint64(32)).astype(np.uint32), numbers, owners, group_of, altered)
        start = end


def _shared_in(
    keys: NDArray[np.uint32],
    numbers: NDArray[np.int64],
    owners: NDArray[np.int32],
    group_of: NDArray[np.int64],
    altered: NDArray[np.bool_],
) -> Codes:
    """Return the codes of one slice of sorted keys, with the numbers of their descriptors."""
    first_of_run = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    lengths = np.diff(np.concatenate([first_of_run, [len(keys)]]))
    left = np.flatnonzero(np.repeat((lengths > 1) & (lengths <= _CROWDED), lengths))
    found: list[NDArray[np.int64]] = []
    for distance in range(1, _CROWDED):
        # Equal keys are adjacent: a feature without a partner at this distance has none farther away.
        left = left[left + distance < len(keys)]
        left = left[keys[left] == keys[left + distance]]
        if not len(left):
            break
        low, high = owners[numbers[left]], owners[numbers[left + distance]]
        apart = (group_of[low] != group_of[high]) & ~(altered[low] & altered[high])
        codes = low[apart].astype(np.int64) * len(group_of) + high[apart]
        found.append(np.stack([codes, numbers[left[apart]]]))
    if not found:
        return np.zeros(0, np.int64)
    code, feature = np.concatenate(found, axis=1)
    by = np.lexsort((feature, code))
    code, feature = code[by], feature[by]
    fresh = np.ones(len(code), bool)
    fresh[1:] = (code[1:] != code[:-1]) | (feature[1:] != feature[:-1])
    return np.asarray(code[fresh], np.int64)


def _likeliest(codes: Codes, votes: Codes, images: int) -> list[tuple[int, int]]:
    """Return the pairs that are among the `CANDIDATES` pairs with most votes of either image."""
    first, second = codes // images, codes % images
    kept = np.zeros(len(codes), bool)
    for side in (first, second):
        order = np.lexsort((codes, -votes, side))
        ordered = side[order]
        starts = (
            np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(order) else np.zeros(0, int)
        )
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.concatenate([starts, [len(order)]])))
        kept[order[rank < CANDIDATES]] = True
    return list(zip(first[kept].tolist(), second[kept].tolist(), strict=True))
