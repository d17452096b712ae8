"""Every refusal of the server, as one tree: what it answers, and never what the image says of a person.

    RequestError                      an answer that is not 200, with a code and a message
    ├── BadOptionError        400     an option breaks a rule
    ├── NotFoundError         404     no such path
    ├── WrongMethodError      405     the path knows another method
    ├── NotAcceptableError    406     no form of the answer fits the Accept header
    ├── TooLargeError         413     more bytes, or announced pixels, than the limits allow
    ├── UnsupportedTypeError  415     the Content-Type is none that is read, or not what the body is
    ├── UnusableImageError    422     the reader's or the segmentation's reason
    ├── InternalError         500     a fault of this program; no details
    ├── UnavailableError      503     starting, busy or stopping: try again
    └── TimeLimitError        504     the answer took longer than the limit

Code and message go to the caller, only the code to the log.
"""

from processing.breast import NoBreastError
from processing.errors import ImageError
from processing.image_rules import CorruptImageError, ImageTooLargeError, NotAMammogramError, UnsupportedImageError


class RequestError(Exception):
    """An answer that is not 200."""

    status = 500

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class BadOptionError(RequestError):
    """An option breaks a rule."""

    status = 400


class NotFoundError(RequestError):
    """The path is none of this server's."""

    status = 404


class WrongMethodError(RequestError):
    """The path knows another method."""

    status = 405


class NotAcceptableError(RequestError):
    """No form of the answer fits the Accept header."""

    status = 406


class TooLargeError(RequestError):
    """More bytes, or announced pixels, than the limits allow."""

    status = 413


class UnsupportedTypeError(RequestError):
    """The Content-Type is none that is read, or not what the body is."""

    status = 415


class UnusableImageError(RequestError):
    """The image cannot be decoded or is not a mammogram."""

    status = 422


class InternalError(RequestError):
    """A fault of this program."""

    def __init__(self) -> None:
        super().__init__("internal", "a fault of the server; the log has it under this request's id")


class UnavailableError(RequestError):
    """The server is starting, busy or stopping."""

    status = 503


class TimeLimitError(RequestError):
    """The answer took longer than the limit."""

    status = 504


_IMAGE_CODES: dict[type[ImageError], str] = {
    UnsupportedImageError: "unsupported_image",
    CorruptImageError: "corrupt_image",
    NotAMammogramError: "not_a_mammogram",
    NoBreastError: "no_breast",
}


def from_image_error(error: ImageError) -> RequestError:
    """Return the refusal for what the image reader or the preprocessing said, in its own words."""
    if isinstance(error, ImageTooLargeError):
        return TooLargeError("image_too_large", str(error))
    code = next((code for kind, code in _IMAGE_CODES.items() if isinstance(error, kind)), "unusable_image")
    return UnusableImageError(code, str(error))
