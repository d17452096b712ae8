"""Images in shards are the bytes that were packed, each read alone by the index; a damaged shard is refused by name."""

import csv
import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import ImageRecord, Label
from mammopipe.processing.errors import ImageError, ManifestError
from mammopipe.processing.files import sha256
from mammopipe.processing.images.image_files import ImageFiles
from mammopipe.processing.images.mammogram import write_png
from mammopipe.processing.images.shards import members, pack
from mammopipe.processing.jobs.contact_sheets import CAPTION, CELL, overview

FOLDER = "images/train"


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Path, dict[str, bytes], list[Path]]:
    """A folder of 20 images in shards of some 5 kB, the files that were packed, and the shards."""
    folder = tmp_path / FOLDER
    names = [f"{index:02d}.png" for index in range(20)] + [f"{'long' * 40}.png"]
    for index, name in enumerate(names):
        write_png(folder / name, np.random.default_rng(index).integers(1, 2**16, (20, 20 + index), np.uint16))
    before = {name: (folder / name).read_bytes() for name in names}
    return tmp_path, before, pack(folder, names, megabytes=0.005)


def test_every_image_is_read_alone_and_in_any_order(packed) -> None:
    root, before, shards = packed
    assert len(shards) > 3 and not list(root.rglob("*.png"))
    assert all(shard.stat().st_size < 5_000 + tarfile.RECORDSIZE for shard in shards)
    files = ImageFiles(root)
    for name in sorted(before, reverse=True):
        assert f"{FOLDER}/{name}" in files and files.read(f"{FOLDER}/{name}") == before[name]
    index = 7
    expected = np.random.default_rng(index).integers(1, 2**16, (20, 20 + index), np.uint16)
    np.testing.assert_array_equal(files.pixels(f"{FOLDER}/07.png"), expected)
    assert f"{FOLDER}/21.png" not in files
    with pytest.raises(FileNotFoundError):
        files.read(f"{FOLDER}/21.png")


def test_an_overview_shows_images_in_shards(packed) -> None:
    root, before, _ = packed
    files = ImageFiles(root / FOLDER)
    assert files.names({".png"}) == sorted(before)
    records = [
        ImageRecord(name, name, "own", None, None, Label.NORMAL, path=f"{FOLDER}/{name}") for name in sorted(before)[:9]
    ]
    overview(records, root, root / "montage.png")
    height, width, _ = cv2.imread(str(root / "montage.png")).shape
    assert (height, width) == (2 * (CELL + CAPTION), 8 * CELL), "nine images, eight in a row"
    assert cv2.imread(str(root / "montage.png"))[:CELL, :CELL].std() > 20


def test_a_shard_is_a_tar_archive_in_the_order_of_the_names(packed) -> None:
    _, before, shards = packed
    found = {}
    for shard in shards:
        with tarfile.open(shard) as archive:
            found |= {member.name: archive.extractfile(member).read() for member in archive.getmembers()}
    assert found == before and list(found) == list(before)
    offsets = [(member.shard.name, member.offset) for member in members(shards[0].parent).values()]
    assert offsets == sorted(offsets), "reading in the order of the manifest reads each shard from its start to its end"


def test_equal_images_give_equal_shards_and_an_interrupted_run_leaves_nothing(packed, tmp_path: Path) -> None:
    root, before, shards = packed
    folder = root / FOLDER
    sums = [sha256(shard) for shard in shards]
    (folder / "shard-00099.tar").write_bytes(b"left by an interrupted run")
    for name, data in before.items():
        (folder / name).write_bytes(data)
        os.utime(folder / name, (0, 0))
    assert [sha256(shard) for shard in pack(folder, list(before), megabytes=0.005)] == sums
    assert sorted(folder.glob("shard-*")) == shards


def test_the_shards_of_several_hosts_are_one_folder(tmp_path: Path) -> None:
    for host in ("algo-1", "algo-10"):
        write_png(tmp_path / f"{host}.png", np.full((8, 8), 5, np.uint16))
        pack(tmp_path, [f"{host}.png"], megabytes=1, host=host)
    files = ImageFiles(tmp_path)
    assert "algo-1.png" in files and "algo-10.png" in files
    (tmp_path / "index-algo-2.csv").write_bytes((tmp_path / "index-algo-1.csv").read_bytes())
    with pytest.raises(ManifestError, match="index-algo-2.csv, line 2: algo-1.png is in two places"):
        ImageFiles(tmp_path).read("algo-1.png")


def test_a_shard_that_is_cut_off_is_named(packed) -> None:
    root, before, shards = packed
    with shards[0].open("r+b") as stream:
        stream.truncate(700)
    with pytest.raises(ManifestError, match=r"shard-00000.tar: .* bytes at offset .* the shard is not complete"):
        ImageFiles(root).read(f"{FOLDER}/00.png")
    with shards[1].open("r+b") as stream:
        stream.write(b"\0" * 4000)
    with pytest.raises(ImageError, match=rf"{FOLDER}/"):
        damaged = next(name for name, member in members(root / FOLDER).items() if member.shard == shards[1])
        ImageFiles(root).pixels(f"{FOLDER}/{damaged}")


@pytest.mark.parametrize(
    ("column", "value"),
    [("shard", "../shard-00000.tar"), ("shard", "other.tar"), ("offset", "-1"), ("bytes", "many"), ("name", "")],
)
def test_an_index_names_shards_beside_it_and_whole_numbers(packed, column: str, value: str) -> None:
    root, _, _ = packed
    path = root / FOLDER / "index.csv"
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[0][column] = value
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ManifestError, match=r"index.csv, line 2: .* names a shard beside it"):
        members(root / FOLDER)


def test_an_index_of_other_columns_is_refused(packed) -> None:
    root, _, _ = packed
    (root / FOLDER / "index.csv").write_text("name,place\na.png,3\n")
    with pytest.raises(ManifestError, match="an index of shards has name, shard, offset, bytes"):
        members(root / FOLDER)
