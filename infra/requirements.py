"""Prints the requirements of one extra of pyproject.toml, one per line, for an image to install before our wheel.

    python infra/requirements.py pyproject.toml serving

They are installed before the wheel, so that a change of our code does not rebuild the image's layer of dependencies.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extra: str) -> list[str]:
    """Return the sorted requirements of the project and of `extra`, including other extras that it refers to."""
    found = set(project["dependencies"])
    for item in project["optional-dependencies"][extra]:
        own = re.fullmatch(rf"{project['name']}\[([\w,-]+)\]", item)
        if own is None:
            found.add(item)
        else:
            for name in own[1].split(","):
                found.update(requirements(project, name))
    return sorted(found)


if __name__ == "__main__":
    file, chosen = sys.argv[1:]
    print("\n".join(requirements(tomllib.loads(Path(file).read_text(encoding="utf-8"))["project"], chosen)))
