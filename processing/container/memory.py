"""Keeps heap memory between images or training steps, and releases it; the memory of the host."""

import ctypes
import os
import platform
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""
_DO_NOT_NEED = 4
"""MADV_DONTNEED of madvise(2)."""


def keep_heap() -> bool:
    """Make glibc keep freed memory instead of returning it to the system; return whether that worked.

    A training step frees gradients and activations and then allocates as much again. Without this setting, touching the
    new pages took a third of AlexNet's step on a CPU (nothing with ResNet-50); the setting takes some 5 % more memory.
    Reading images is similar: each file needs new decoder buffers and masks. The function does nothing on systems other
    than Linux with glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # Set both or none: either one alone disables glibc's own adaptation, which is slower than the defaults.
    return bool(libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1) and libc.mallopt(_MMAP_MAX, 0))


def release_heap() -> None:
    """Return the heap's free pages to the system once (malloc_trim(3)); meant for an idle process."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def release_mapped(file: Path) -> None:
    """Remove the pages of a mapped file from this process's memory; they are read again when they are needed.

    Private mappings are kept, because they may hold changed pages. The function does nothing on systems other than
    Linux.
    """
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return
    number = file.stat().st_ino
    for line in maps.read_text(encoding="utf-8", errors="replace").splitlines():
        span, permissions, _, _, inode, *_ = line.split()
        if int(inode) == number and permissions.endswith("s"):
            first, end = (int(address, 16) for address in span.split("-"))
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), _DO_NOT_NEED)


def host_memory() -> int:
    """Return the memory of this host or container, in bytes."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # cgroup v2, v1
    texts = [path.read_text(encoding="ascii").strip() for path in limits if path.is_file()]
    # Without a limit, version 2 says "max".
    return min([whole, *(int(text) for text in texts if text.isdigit())])
