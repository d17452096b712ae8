"""The server's error classes. No error contains personal data of an image.

    RequestError                      an answer that is not 200, with a code and a message
    ├── BadOptionError        400     an option breaks a rule
    ├── BadBodyError          400     the body is not the JSON, form or archive that its Content-Type names
    ├── ForbiddenError        403     the endpoint may not read what the request names
    ├── NotFoundError         404     no such path, or no such object
    ├── WrongMethodError      405     the path does not support the method
    ├── NotAcceptableError    406     no form of the answer fits the Accept header
    ├── BodyTimeoutError      408     the body arrives too slowly, or has stopped
    ├── TooLargeError         413     more bytes, or announced pixels, than the limits allow
    ├── UnsupportedTypeError  415     the Content-Type is not supported, or does not match the body
    ├── UnusableImageError    422     the image cannot be read or segmented, or shows no breast
    │   ├── NoSourceIdentityError     a DICOM result was requested, and the source does not identify its patient
    │   ├── MixedPatientsError        the images of an exam belong to several patients
    │   ├── MixedStudiesError         the images of an exam belong to several studies
    │   ├── DuplicateImageError       an exam contains an image twice
    │   ├── NotAMammogramViewError    the image is readable, but not one view of one whole breast
    │   └── ExcludedViewError         the model is not intended for this kind of image, and the deployment refuses it
    ├── InternalError         500     a fault of this program; no details
    ├── UnavailableError      503     starting, busy, stopping, or the worker ended during the request; try again
    └── TimeLimitError        504     the answer took longer than the limit

The caller gets code, message and detail; the log gets only the code. All errors can be pickled, because workers raise
them. All are in this module, because the process that receives requests unpickles them without loading an image reader.
"""

import traceback
from collections.abc import Mapping
from typing import Any

from mammopipe.inference.contract.exclusions import Action, ExcludedImageError
from mammopipe.processing.datasets.manifest import Laterality
from mammopipe.processing.errors import (
    CorruptImageError,
    DuplicatePictureError,
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
        """Location of the problem in the request, such as `{"image": 2}`; only numbers and names of options."""

    def __reduce__(self) -> tuple[Any, ...]:
        # `Exception` would pickle its own arguments, the message alone, and unpickling would fail.
        return type(self), (self.code, self.message, self.detail)

    def at(self, image: int, place: str = "") -> "RequestError":
        """Return the same error with the location of the image that caused it.

        Args:
            image: Index of the image in the exam, from 0.
            place: Location in words, such as `file 3 (.dcm)`; if given, the message begins with it.
        """
        message = f"{place}: {self.message}" if place else self.message
        return type(self)(self.code, message, {**(self.detail or {}), "image": image})


class BadOptionError(RequestError):
    """An option breaks a rule."""

    status = 400


class BadBodyError(RequestError):
    """The body is not the JSON, form or archive that its Content-Type names."""

    status = 400


class ForbiddenError(RequestError):
    """The endpoint may not read what the request names."""

    status = 403


class NotFoundError(RequestError):
    """The server has no such path, or an object that the request names does not exist."""

    status = 404


class WrongMethodError(RequestError):
    """The path does not support the method."""

    status = 405


class NotAcceptableError(RequestError):
    """No form of the answer fits the Accept header."""

    status = 406


class BodyTimeoutError(RequestError):
    """The body arrives too slowly, or has stopped."""

    status = 408


class TooLargeError(RequestError):
    """More bytes, or announced pixels, than the limits allow."""

    status = 413


class UnsupportedTypeError(RequestError):
    """The Content-Type is not supported, or does not match the body."""

    status = 415


class UnusableImageError(RequestError):
    """The image cannot be decoded or is not a mammogram."""

    status = 422


class NoSourceIdentityError(UnusableImageError):
    """The source is not a DICOM file, or lacks an attribute that a result must repeat."""


class MixedPatientsError(UnusableImageError):
    """The images of an exam belong to several patients."""


class MixedStudiesError(UnusableImageError):
    """The images of an exam belong to several studies."""


class DuplicateImageError(UnusableImageError):
    """An exam contains an image twice; its breast would count it twice."""


class NotAMammogramViewError(UnusableImageError):
    """The image is readable, but not one view of one whole breast; an exam is judged without it."""


class ExcludedViewError(UnusableImageError):
    """The model is not intended for this kind of image, and the deployment refuses it (`contract.exclusions`)."""

    leaves_exam = False
    """Whether an exam is judged without the image."""
    laterality: Laterality | None = None
    """The breast that the image shows, if known."""


class InternalError(RequestError):
    """A fault of this program."""

    def __init__(self) -> None:
        super().__init__("internal", "a fault of the server; the log has it under this request's id")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class UnavailableError(RequestError):
    """The server is starting, busy or stopping, or the worker ended during the request."""

    status = 503


class TimeLimitError(RequestError):
    """The answer took longer than the limit."""

    status = 504


_IMAGE_CODES: dict[type[ImageError], str] = {
    UnsupportedImageError: "unsupported_image",
    CorruptImageError: "corrupt_image",
    NoBreastError: "no_breast",
}


def from_image_error(error: ImageError) -> RequestError:
    """Return the server's error for an error of the image reader or the preprocessing, with the same message."""
    if isinstance(error, ExcludedImageError):
        excluded = ExcludedViewError("excluded_view", str(error), {"flag": str(error.flag)})
        excluded.leaves_exam = error.action is Action.LEAVE_OUT
        return excluded
    if isinstance(error, NotAMammogramError):
        return NotAMammogramViewError("not_a_mammogram", str(error))
    if isinstance(error, DuplicatePictureError):
        return DuplicateImageError("duplicate_image", str(error))
    if isinstance(error, ImageTooLargeError):
        return TooLargeError("image_too_large", str(error))
    code = next((code for kind, code in _IMAGE_CODES.items() if isinstance(error, kind)), "unusable_image")
    return UnusableImageError(code, str(error))


class CannotServeError(MammopipeError):
    """No worker can load the model; the server ends with this error."""


class WorkerFault(Exception):
    """A fault of this program in a worker, with its location for the log."""

    def __init__(self, trace: list[str]) -> None:
        super().__init__(trace)
        self.trace = trace


def fault_trace(fault: BaseException) -> list[str]:
    """Return the type and the location of a fault, without its text, which could identify a patient."""
    if isinstance(fault, WorkerFault):
        return fault.trace
    frames = traceback.extract_tb(fault.__traceback__)
    return [type(fault).__name__, *(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)]
