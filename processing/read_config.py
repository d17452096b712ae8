"""The settings and limits of all image readers; `mammopipe.processing.errors` lists the errors that they raise."""

from enum import StrEnum

from pydantic import Field

from mammopipe.processing.errors import CorruptImageError, ImageTooLargeError
from mammopipe.processing.settings import Settings


class Phi(StrEnum):
    """How Prepare treats an image whose header names its patient."""

    REFUSE = "refuse"
    """Quarantine the image."""
    DROP = "drop"
    """Use the pixels and drop the header."""


class ForProcessing(StrEnum):
    """How raw detector data (images for processing) are treated."""

    REFUSE = "refuse"
    """The image is refused by name."""
    CONVERT = "convert"
    """The image is converted (`mammopipe.processing.dicom.for_processing`) and has the flag
    `for-processing-converted`."""


class Limits(Settings):
    """The greatest size that an image may announce."""

    max_pixels: int = Field(
        default=8192 * 8192,
        ge=1,
        description="greatest number of pixels, rows times columns; the largest detectors in use have 5928 x 4728",
    )
    max_side: int = Field(default=16384, ge=1, description="greatest number of rows and of columns")
    max_bytes: int = Field(
        default=512 * 2**20,
        ge=1,
        description="greatest number of bytes of the file, and of the data set to which a deflated file inflates",
    )

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


class ReadConfig(Settings):
    """The reader's choices where a file offers several; the facts of the image record them."""

    window_index: int = Field(
        default=0,
        ge=0,
        description="index of the window to use, counted from 0 (PS3.3 C.11.2.1.2: several windows are alternative "
        "views)",
    )
    lut_index: int = Field(default=0, ge=0, description="index of the VOI LUT to use, counted from 0")
    prefer_lut: bool = Field(
        default=True, description="whether a VOI LUT Sequence takes precedence over a window if a file has both"
    )
    threads: int = Field(
        default=1, ge=1, description="number of threads for decoding (JPEG 2000 only; other decoders use one)"
    )
    enough_rows: int | None = Field(
        default=None,
        ge=1,
        description="number of rows that the caller needs. A JPEG 2000 image with at least twice as many rows is "
        "decoded at half the resolution: this is three times as fast, does not give the same pixels, and sets "
        '`facts["reduction"]` to 2. With `None`, every image is decoded at full resolution. Images with bright '
        "padding always are, because half resolution blends padding with the tissue beside it",
    )
    jpeg_files: bool = Field(
        default=False,
        description="whether JPEG files are read. Copies of public collections hold them; they are not accepted for "
        "serving",
    )
    for_processing: ForProcessing = Field(
        default=ForProcessing.REFUSE, description="what is done with raw images: `refuse` them, or `convert` them"
    )
    limits: Limits = Field(default=Limits(), description="the greatest size that an image may announce")


DEFAULT_CONFIG = ReadConfig()
