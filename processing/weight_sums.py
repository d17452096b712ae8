"""Checks files of weights against the SHA-256 sums that are stated in their names or in a file beside them."""

import re
from pathlib import Path

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import sha256

SUM_SUFFIX = ".sha256"
"""`<file>.sha256` holds the sum of `<file>`."""
SUMS = "SHA256SUMS"
"""A file with the sums of several files, one a line."""
NOT_WEIGHTS = (SUM_SUFFIX, ".json")
"""Suffixes of the files beside weights: their sums, and the declarations of their data."""


def checked_sha256(path: Path) -> str:
    """Return a file's SHA-256, which must begin with each sum that is stated for it.

    A sum is stated by `<file>.sha256` and `SHA256SUMS` beside the file, and by the eight digits that torchvision puts
    at the end of a file's name (`resnet50-0676ba61.pth`).

    Raises:
        ConfigError: The sum differs.
    """
    digest = sha256(path)
    for stated in _stated_sums(path):
        if not digest.startswith(stated):
            raise ConfigError(f"{path}: its SHA-256 is {digest}, but it must begin with {stated}")
    return digest


def check_sums(folder: Path) -> None:
    """Refuse a folder of weights without any, or with a file that differs from its stated sum.

    Raises:
        ConfigError: The folder is of no use; the message names the file.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    weights = [path for path in files if path.suffix not in NOT_WEIGHTS and path.name != SUMS]
    if not weights:
        raise ConfigError(f"{folder}: no file of weights here; mammopipe stage weights uploads them")
    for path in weights:
        checked_sha256(path)


def _stated_sums(path: Path) -> list[str]:
    named = re.search(r"-([0-9a-f]{8})$", path.stem)
    sums = [named[1]] if named else []
    for table in (path.with_name(path.name + SUM_SUFFIX), path.with_name(SUMS)):
        lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
        pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
        sums += [pair[0].lower() for pair in pairs if len(pair) == 1 or pair[1].lstrip("*").strip() == path.name]
    return sums
