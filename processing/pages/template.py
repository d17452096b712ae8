"""The template environment of all report pages, with their shared style sheet."""

from pathlib import Path
from types import CodeType

from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined
from jinja2.bccache import Bucket

FOLDER = Path(__file__).parent


class _Compiled(BytecodeCache):
    """Keeps compiled templates as long as the process lives: compiling takes longer than rendering a page."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, str], CodeType] = {}
        """Code by the template's file and the checksum of its source."""

    def load_bytecode(self, bucket: Bucket) -> None:
        """Give the bucket the code of its template, if it was compiled before."""
        bucket.code = self._codes.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the code of a template."""
        assert bucket.code is not None
        self._codes[bucket.key, bucket.checksum] = bucket.code


_COMPILED = _Compiled()


def environment(*folders: Path) -> Environment:
    """Return a template environment for these folders; `page.css.j2`, the shared style sheet, can be included."""
    return Environment(
        loader=FileSystemLoader([*folders, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=_COMPILED,
    )
