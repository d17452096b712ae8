"""What every image reader obeys: the errors it may raise and the sizes it may announce.

    processing.errors.ImageError
    ├── UnsupportedImageError      a kind of file, or an encoding, that nothing here decodes
    ├── CorruptImageError          truncated, undecodable, or contradicting itself
    ├── NotAMammogramError         readable, but not one 2-D mammogram of one breast
    └── ImageTooLargeError         announces more than the limits allow; refused before anything is allocated
"""

from dataclasses import dataclass

from processing.errors import ConfigError, ImageError


class UnsupportedImageError(ImageError):
    """A kind of file, or an encoding, that nothing here decodes."""


class CorruptImageError(ImageError):
    """The bytes are truncated, cannot be decoded or contradict themselves."""


class NotAMammogramError(ImageError):
    """The file can be read but is not one 2-D mammogram of one breast."""


class ImageTooLargeError(ImageError):
    """The file announces more than the limits allow; refused before anything is allocated."""


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
        """Raise where an image of `rows` x `columns` is empty (`CorruptImageError`) or too large (`ImageTooLargeError`)."""
        if rows < 1 or columns < 1:
            raise CorruptImageError(f"{where}: size {rows} x {columns} (rows x columns): both must be at least 1")
        if max(rows, columns) > self.max_side or rows * columns > self.max_pixels:
            raise ImageTooLargeError(f"{where}: size {rows} x {columns} (rows x columns) is over the limit of "
                                     f"{self.max_side} a side and {self.max_pixels} pixels")

    def check_bytes(self, count: int, where: str) -> None:
        """Raise `ImageTooLargeError` where a file, or what it inflates to, has more than `max_bytes` bytes."""
        if count > self.max_bytes:
            raise ImageTooLargeError(f"{where}: {count} bytes are over the limit of {self.max_bytes}")
