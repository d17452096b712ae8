"""The errors that a user can cause, as one class hierarchy.

    MammopipeError                 the caller's input cannot be used; the message is one line and safe to log
    ├── ConfigError                a setting, argument or hyperparameter breaks a rule
    ├── LabelError                 a label table breaks a rule
    ├── ManifestError              a manifest breaks a rule
    ├── QuarantineError            more images were refused than the stated share allows
    ├── StorageError               an S3 location or endpoint cannot be used
    ├── LostProcessError           another process of the same job ended, or cannot be reached
    └── ImageError                 an image file cannot be read as a mammogram
        ├── UnsupportedImageError  the format or encoding is not supported
        ├── CorruptImageError      truncated, undecodable, or contradicting itself
        │   └── ReaderFaultError   the reader failed unexpectedly
        ├── NotAMammogramError     readable, but not one 2-D mammogram of one breast
        ├── ImageTooLargeError     announces more than the limits allow; refused before memory is allocated
        ├── NoBreastError          the pixels show no breast
        └── DuplicatePictureError  a picture occurs twice in an exam

A message names the file (`<bytes>` for bytes), the tag or field, the value and the broken rule. It never contains a
patient's identity. Any other exception is a bug of this program and keeps its traceback.
"""


class MammopipeError(Exception):
    """The caller's input cannot be used; `str(error)` is one line for the user."""


class ConfigError(MammopipeError):
    """A setting, argument or hyperparameter breaks a rule."""


class LabelError(MammopipeError):
    """A label table breaks a rule."""


class ManifestError(MammopipeError):
    """A manifest breaks a rule."""


class QuarantineError(MammopipeError):
    """More images were refused than the stated share allows."""


class StorageError(MammopipeError):
    """An S3 location or endpoint cannot be used."""


class LostProcessError(MammopipeError):
    """Another process of the same job ended, or cannot be reached."""


class ImageError(MammopipeError):
    """An image file cannot be read as a mammogram."""


class UnsupportedImageError(ImageError):
    """The format or encoding of the file is not supported."""


class CorruptImageError(ImageError):
    """The bytes are truncated, cannot be decoded or contradict themselves."""


class NotAMammogramError(ImageError):
    """The file can be read but is not one 2-D mammogram of one breast."""


class ImageTooLargeError(ImageError):
    """The file announces more than the limits allow; it is refused before memory is allocated."""


class NoBreastError(ImageError):
    """The image shows no breast."""


class DuplicatePictureError(ImageError):
    """An image occurs twice in an exam; the score of its breast would count it twice."""


class ReaderFaultError(CorruptImageError):
    """The reader failed unexpectedly: a bug of this program, or a hostile file."""
