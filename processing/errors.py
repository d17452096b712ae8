"""Every error that a user can cause, as one tree.

    MammopipeError                 what the caller gave cannot be used; the message is one line and safe to log
    ├── ConfigError                a setting, argument or hyperparameter breaks a rule
    ├── LabelError                 a label table breaks a rule
    ├── ManifestError              a manifest breaks a rule
    ├── LeakageError               information crosses from one split into another
    ├── QuarantineError            more images were refused than the stated share allows
    ├── StorageError               an S3 location or endpoint cannot be used
    └── ImageError                 an image file cannot become a mammogram (its subclasses:
    `mammopipe.processing.images.mammogram`)

A message names the file, the tag or field, the value and the rule it breaks. It never holds a patient's identity.
Anything that is not a `MammopipeError` is a fault of this program and keeps its traceback.
"""


class MammopipeError(Exception):
    """What the caller gave cannot be used; `str(error)` is one line for the user."""


class ConfigError(MammopipeError):
    """A setting, argument or hyperparameter breaks a rule."""


class LabelError(MammopipeError):
    """A label table breaks a rule."""


class ManifestError(MammopipeError):
    """A manifest breaks a rule."""


class LeakageError(MammopipeError):
    """Information crosses from one split into another."""


class QuarantineError(MammopipeError):
    """More images were refused than the stated share allows."""


class StorageError(MammopipeError):
    """An S3 location or endpoint cannot be used."""


class ImageError(MammopipeError):
    """An image file cannot become a mammogram."""


class UnsupportedImageError(ImageError):
    """A kind of file, or an encoding, that nothing here decodes."""


class CorruptImageError(ImageError):
    """The bytes are truncated, cannot be decoded or contradict themselves."""


class NotAMammogramError(ImageError):
    """The file can be read but is not one 2-D mammogram of one breast."""


class ImageTooLargeError(ImageError):
    """The file announces more than the limits allow; refused before anything is allocated."""


class NoBreastError(ImageError):
    """The image holds nothing that could be a breast."""


class ReaderFaultError(CorruptImageError):
    """The reader failed on the file in a way that it does not foresee: a fault of this program, or hostile bytes."""
