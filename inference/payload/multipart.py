"""The files of a multipart/form-data body (RFC 7578), in the order of the parts."""

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mammopipe.inference.contract.errors import BadBodyError, TooLargeError, UnsupportedTypeError
from mammopipe.inference.contract.media_types import content_type, sniff
from mammopipe.inference.payload.limits import HandlerLimits

_PLAIN = ("", "binary", "8bit", "7bit")
"""Transfer encodings that leave the bytes unchanged; RFC 7578, 4.7 deprecates all others."""


@dataclass
class _Part:
    """One part of the form while it is read."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)


class _Collector:
    """The parser's callbacks. They collect parts and headers, and allow no more parts than images."""

    def __init__(self, limits: HandlerLimits) -> None:
        self._limits = limits
        self.parts: list[_Part] = []
        self.ended = False
        self._name, self._value = bytearray(), bytearray()

    def on_part_begin(self) -> None:
        if len(self.parts) == self._limits.max_views:
            raise TooLargeError("too_many_views", f"more parts than {self._limits.max_views}, the limit")
        self.parts.append(_Part())

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].data += data[start:end]

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self.parts[-1].headers[self._name.decode("latin-1").lower()] = self._value.decode("latin-1")
        self._name, self._value = bytearray(), bytearray()

    def on_end(self) -> None:
        self.ended = True


def read(header: str, body: bytes, limits: HandlerLimits) -> list[bytes]:
    """Return the files of a form.

    Args:
        header: The whole Content-Type header with its boundary.
        body: The body.
        limits: Limits on parts and bytes.

    Raises:
        BadBodyError: The form is damaged, or a part is not a file.
        UnsupportedTypeError: The Content-Type of a part does not match its image.
        TooLargeError: More parts or bytes than the limits allow.
    """
    collector = _Collector(limits)
    try:
        _, parameters = parse_options_header(header)
        boundary = parameters.get(b"boundary", b"")
        if not boundary:
            raise BadBodyError("bad_multipart", "Content-Type must name the boundary of the parts")
        # The parser takes its callbacks as a table by name.
        parser = MultipartParser(
            boundary,
            {  # type: ignore[arg-type]
                name: getattr(collector, name) for name in dir(collector) if name.startswith("on_")
            },
        )
        parser.write(body)
        parser.finalize()
    except (FormParserError, UnicodeError):
        raise BadBodyError("bad_multipart", "the form's parts cannot be separated") from None
    if not collector.ended:
        raise BadBodyError("bad_multipart", "the form has no end")
    return [_file(part, index, limits) for index, part in enumerate(collector.parts)]


def _file(part: _Part, index: int, limits: HandlerLimits) -> bytes:
    _, parameters = parse_options_header(part.headers.get("content-disposition", ""))
    if b"filename" not in parameters:
        raise BadBodyError(
            "bad_multipart", "the part is not a file: options belong to the query or the custom attributes"
        ).at(index)
    if part.headers.get("content-transfer-encoding", "").strip().lower() not in _PLAIN:
        raise BadBodyError("bad_multipart", "Content-Transfer-Encoding must be binary").at(index)
    if len(part.data) > limits.max_bytes:
        raise TooLargeError("too_large", f"more than {limits.max_bytes} bytes, the limit").at(index)
    stated, found = content_type(part.headers.get("content-type", "")), sniff(bytes(part.data[:132]))
    # A part without a known signature is left to the image reader, whose error says more.
    if stated is not None and found is not None and stated is not found:
        raise UnsupportedTypeError(
            "content_type_mismatch", f"Content-Type says {stated}; the part begins as {found}"
        ).at(index)
    return bytes(part.data)
