"""Every refusal of the server, as one tree: what it answers, and never what the image says of a person.

    RequestError                      an answer that is not 200, with a code and a message
    ├── BadOptionError        400     an option breaks a rule
    ├── BadBodyError          400     the body is not the JSON, form or archive that its Content-Type says
    ├── ForbiddenError        403     what the request names may not be read by this endpoint
    ├── NotFoundError         404     no such path, or no such object
    ├── WrongMethodError      405     the path knows another method
    ├── NotAcceptableError    406     no form of the answer fits the Accept header
    ├── TooLargeError         413     more bytes, or announced pixels, than the limits allow
    ├── UnsupportedTypeError  415     the Content-Type is none that is read, or not what the body is
    ├── UnusableImageError    422     the reader's or the segmentation's reason
    │   ├── NoSourceIdentityError     a DICOM result was asked for, and the source does not say whose it is
    │   ├── MixedPatientsError        the images of an exam are of several patients
    │   ├── MixedStudiesError         the images of an exam are of several studies
    │   ├── DuplicateImageError       an image is in an exam twice
    │   └── ExcludedViewError         the model is not for this kind of image, and the deployment refuses it
    ├── InternalError         500     a fault of this program; no details
    ├── UnavailableError      503     starting, busy, stopping, or the worker died over it: try again
    └── TimeLimitError        504     the answer took longer than the limit

Code, message and detail go to the caller, only the code to the log. All of them can be pickled: workers raise them. And
all are here, because the process that takes requests in unpickles them and must not load an image reader for it.
"""

import traceback
from collections.abc import Mapping
from typing import Any

from mammopipe.inference.contract.exclusions import ExcludedImageError
from mammopipe.processing.errors import (
    CorruptImageError,
    ImageError,
    ImageTooLargeError,
    MammopipeError,
    NoBreastError,
    NotAMammogramError,
    UnsupportedImageError,
)


class RequestError(Exception):
    """An answer that is not 200."""

    status = 500

    def __init__(self, code: str, message: str, detail: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail
        """Where in the request the problem lies, e.g. `{"image": 2}`; numbers and names of options only."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message, self.detail)

    def at(self, image: int, place: str = "") -> "RequestError":
        """Return the same refusal, naming the image of the exam, counted from 0, that it is about.

        `place` says in words where in the request it is, such as `file 3 (.dcm)`; the message then begins with it.
        """
        message = f"{place}: {self.message}" if place else self.message
        return type(self)(self.code, message, {**(self.detail or {}), "image": image})


class BadOptionError(RequestError):
    """An option breaks a rule."""

    status = 400


class BadBodyError(RequestError):
    """The body is not the JSON, form or archive that its Content-Type says."""

    status = 400


class ForbiddenError(RequestError):
    """What the request names may not be read by this endpoint."""

    status = 403


class NotFoundError(RequestError):
    """The path is none of this server's, or an object that the request names does not exist."""

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


class NoSourceIdentityError(UnusableImageError):
    """The source is no DICOM file, or lacks an attribute that a result must repeat."""


class MixedPatientsError(UnusableImageError):
    """The images of an exam are of several patients."""


class MixedStudiesError(UnusableImageError):
    """The images of an exam are of several studies."""


class DuplicateImageError(UnusableImageError):
    """An image is in an exam twice: its breast would be weighed twice."""


class ExcludedViewError(UnusableImageError):
    """The model is not for this kind of image, and the deployment refuses it (`contract.exclusions`)."""


class InternalError(RequestError):
    """A fault of this program."""

    def __init__(self) -> None:
        super().__init__("internal", "a fault of the server; the log has it under this request's id")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class UnavailableError(RequestError):
    """The server is starting, busy or stopping, or the worker died over the request."""

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
    if isinstance(error, ExcludedImageError):
        return ExcludedViewError("excluded_view", str(error), {"flag": str(error.flag)})
    if isinstance(error, ImageTooLargeError):
        return TooLargeError("image_too_large", str(error))
    code = next((code for kind, code in _IMAGE_CODES.items() if isinstance(error, kind)), "unusable_image")
    return UnusableImageError(code, str(error))


class CannotServeError(MammopipeError):
    """No worker can load the model; the server ends with this as its reason."""


class WorkerFault(Exception):
    """A fault of this program in a worker: where it happened, for the log."""

    def __init__(self, trace: list[str]) -> None:
        super().__init__(trace)
        self.trace = trace


def fault_trace(fault: BaseException) -> list[str]:
    """Return the type of a fault and where it happened, without its text: that could identify a patient."""
    if isinstance(fault, WorkerFault):
        return fault.trace
    frames = traceback.extract_tb(fault.__traceback__)
    return [type(fault).__name__, *(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)]
