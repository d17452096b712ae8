"""A mapped file's pages leave the memory of the process, and are read again when they are needed."""

import mmap
import os
import re
from pathlib import Path

import pytest

from mammopipe.processing.container.memory import release_mapped


def resident(path: Path) -> int:
    """Return the bytes of a mapped file that are in this process's memory."""
    number = str(path.stat().st_ino)
    text = Path("/proc/self/smaps").read_text()
    found = re.findall(rf"^\S+ \S+ \S+ \S+ {number} .*\n(?:.*\n)*?Rss:\s+(\d+)", text, re.MULTILINE)
    return sum(1024 * int(size) for size in found)


@pytest.mark.parametrize("access", [mmap.ACCESS_READ, mmap.ACCESS_COPY])
def test_the_pages_of_a_shared_mapping_are_released_and_read_again(tmp_path: Path, access: int) -> None:
    path = tmp_path / "weights"
    path.write_bytes(content := os.urandom(2**20))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=access) as mapped:
        assert mapped[:] == content and resident(path) == 2**20
        if access == mmap.ACCESS_COPY:
            mapped[0] ^= 255
        release_mapped(path)
        if access == mmap.ACCESS_COPY:
            assert mapped[0] == content[0] ^ 255, "a changed page of a private mapping is nowhere else"
        else:
            assert resident(path) == 0
        assert mapped[1:] == content[1:]
