"""What every image reader obeys: the errors it may raise and the sizes it may announce.

    mammopipe.processing.errors.ImageError
    ├── UnsupportedImageError      a kind of file, or an encoding, that nothing here decodes
    ├── CorruptImageError          truncated, undecodable, or contradicting itself
    ├── NotAMammogramError         readable, but not one 2-D mammogram of one breast
    ├── ImageTooLargeError         announces more than the limits allow; refused before anything is allocated
    └── NoBreastError              the pixels hold nothing that could be a breast

Messages name the file (`<bytes>` for bytes), the attribute and the rule, and only attributes that identify nobody.
"""

from dataclasses import dataclass
from enum import StrEnum

from mammopipe.processing.errors import ConfigError, CorruptImageError, ImageTooLargeError


class Phi(StrEnum):
    """What Prepare does with an image whose header names its patient."""

    REFUSE = "refuse"
    """Quarantine it."""
    DROP = "drop"
    """Take the pixels and leave the header behind."""


@dataclass(frozen=True)
class Limits:
    """How large an image may announce itself."""

    max_pixels: int = 8192 * 8192
    """Pixels, rows times columns. The largest detectors in use give 5928 x 4728."""
    max_side: int = 16384
    """Rows, or columns."""
    max_bytes: int = 512 * 2**20
    """Bytes of the file, and of the data set that a deflated file inflates to."""

    def __post_init__(self) -> None:
        """Refuse limits that admit no image."""
        for name in ("max_pixels", "max_side", "max_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Limits.{name}={getattr(self, name)} must be at least 1")

    def check_size(self, rows: int, columns: int, where: str) -> None:
        """Raise `CorruptImageError` where an image has no pixel, `ImageTooLargeError` where it has too many."""
        if rows < 1 or columns < 1:
            raise CorruptImageError(f"{where}: size {rows} x {columns} (rows x columns): both must be at least 1")
        if max(rows, columns) > self.max_side or rows * columns > self.max_pixels:
            raise ImageTooLargeError(
                f"{where}: size {rows} x {columns} (rows x columns) is over the limit of "
                f"{self.max_side} a side and {self.max_pixels} pixels"
            )

    def check_bytes(self, count: int, where: str) -> None:
        """Raise `ImageTooLargeError` where a file, or what it inflates to, has more than `max_bytes` bytes."""
        if count > self.max_bytes:
            raise ImageTooLargeError(f"{where}: {count} bytes are over the limit of {self.max_bytes}")


@dataclass(frozen=True)
class ReadConfig:
    """What the reader does where a file leaves a choice; whatever was chosen is in the facts."""

    window_index: int = 0
    """Which of several windows is used, counted from 0 (PS3.3 C.11.2.1.2: they are alternative views)."""
    lut_index: int = 0
    """Which of several VOI LUTs is used, counted from 0."""
    prefer_lut: bool = True
    """Whether a VOI LUT Sequence is used rather than a window where a file has both."""
    threads: int = 1
    """Threads of one decode (JPEG 2000 only; the others have one)."""
    enough_rows: int | None = None
    """Rows that the caller needs. JPEG 2000 with twice as many or more is decoded at half the resolution: three times
    as fast, not the same pixels, and `facts["reduction"]` is then 2. `None`: always at full resolution, as are files
    whose padding would be bright if it were not declared: half a decode blends it into the tissue beside it."""
    limits: Limits = Limits()
    """How large an image may announce itself."""

    def __post_init__(self) -> None:
        """Refuse values that select nothing."""
        if self.enough_rows is not None and self.enough_rows < 1:
            raise ConfigError(f"ReadConfig.enough_rows={self.enough_rows} must be at least 1, or None")
        for name, least in (("window_index", 0), ("lut_index", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"ReadConfig.{name}={getattr(self, name)} must be at least {least}")


DEFAULT_CONFIG = ReadConfig()
