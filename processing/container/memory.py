"""Memory that is kept from one image, or one training step, to the next."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""


def keep_heap() -> bool:
    """Make glibc keep freed memory instead of giving it back to the system; return whether it does.

    A training step frees gradients and activations and takes as much again at once; touching fresh pages cost AlexNet a
    third of its step on a CPU (ResNet-50 nothing), for some 5 % more memory. So with images: a decoder's buffers and a
    breast's masks are fresh pages for each file. Elsewhere than on Linux with glibc nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # Both or neither: either alone switches glibc's own adaptation off, which is slower than leaving all as it is.
    return bool(libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1) and libc.mallopt(_MMAP_MAX, 0))


def release_heap() -> None:
    """Give the heap's free pages back to the system, once (malloc_trim(3)); for a process that has nothing to do."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
