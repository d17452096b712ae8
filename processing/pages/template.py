"""The template environment of all report pages, with their shared style sheet."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent


def environment(*folders: Path) -> Environment:
    """Return a template environment for these folders; `page.css.j2`, the shared style sheet, can be included."""
    return Environment(
        loader=FileSystemLoader([*folders, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
