"""The settings and limits of all image readers, and the errors that they raise.

    mammopipe.processing.errors.ImageError
    ├── UnsupportedImageError      the format or encoding is not supported
    ├── CorruptImageError          truncated, undecodable, or contradicting itself
    ├── NotAMammogramError         readable, but not one 2-D mammogram of one breast
    ├── ImageTooLargeError         announces more than the limits allow; refused before memory is allocated
    └── NoBreastError              the pixels show no breast

Messages name the file (`<bytes>` for bytes), the attribute and the rule. They show no value that identifies a person.
"""

from dataclasses import dataclass
from enum import StrEnum

from mammopipe.processing.errors import ConfigError, CorruptImageError, ImageTooLargeError


class Phi(StrEnum):
    """How Prepare treats an image whose header names its patient."""

    REFUSE = "refuse"
    """Quarantine the image."""
    DROP = "drop"
    """Use the pixels and drop the header."""


@dataclass(frozen=True)
class Limits:
    """The greatest size that an image may announce."""

    max_pixels: int = 8192 * 8192
    """Greatest number of pixels, rows times columns. The largest detectors in use have 5928 x 4728."""
    max_side: int = 16384
    """Greatest number of rows and of columns."""
    max_bytes: int = 512 * 2**20
    """Greatest number of bytes of the file, and of the data set to which a deflated file inflates."""

    def __post_init__(self) -> None:
        """Refuse limits that allow no image."""
        for name in ("max_pixels", "max_side", "max_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Limits.{name}={getattr(self, name)} must be at least 1")

    def check_size(self, rows: int, columns: int, where: str) -> None:
        """Raise `CorruptImageError` if an image has no pixels, `ImageTooLargeError` if it has too many."""
        if rows < 1 or columns < 1:
            raise CorruptImageError(f"{where}: size {rows} x {columns} (rows x columns): both must be at least 1")
        if max(rows, columns) > self.max_side or rows * columns > self.max_pixels:
            raise ImageTooLargeError(
                f"{where}: size {rows} x {columns} (rows x columns) is over the limit of "
                f"{self.max_side} a side and {self.max_pixels} pixels"
            )

    def check_bytes(self, count: int, where: str) -> None:
        """Raise `ImageTooLargeError` if a file, or its inflated data set, has more than `max_bytes` bytes."""
        if count > self.max_bytes:
            raise ImageTooLargeError(f"{where}: {count} bytes are over the limit of {self.max_bytes}")


@dataclass(frozen=True)
class ReadConfig:
    """The reader's choices where a file offers several; the facts of the image record them."""

    window_index: int = 0
    """Index of the window to use, counted from 0 (PS3.3 C.11.2.1.2: several windows are alternative views)."""
    lut_index: int = 0
    """Index of the VOI LUT to use, counted from 0."""
    prefer_lut: bool = True
    """Whether a VOI LUT Sequence takes precedence over a window if a file has both."""
    threads: int = 1
    """Number of threads for decoding (JPEG 2000 only; other decoders use one)."""
    enough_rows: int | None = None
    """Number of rows that the caller needs. A JPEG 2000 image with at least twice as many rows is decoded at half the
    resolution: this is three times as fast, does not give the same pixels, and sets `facts["reduction"]` to 2. With
    `None`, every image is decoded at full resolution. So are images whose padding would be bright without its
    declaration, because decoding at half resolution blends padding into the tissue beside it."""
    jpeg_files: bool = False
    """Whether JPEG files are read. Copies of public collections hold them; they are not accepted for serving."""
    limits: Limits = Limits()
    """The greatest size that an image may announce."""

    def __post_init__(self) -> None:
        """Refuse values that cannot select anything."""
        if self.enough_rows is not None and self.enough_rows < 1:
            raise ConfigError(f"ReadConfig.enough_rows={self.enough_rows} must be at least 1, or None")
        for name, least in (("window_index", 0), ("lut_index", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"ReadConfig.{name}={getattr(self, name)} must be at least {least}")


DEFAULT_CONFIG = ReadConfig()
