"""Random and altered bodies are read or refused; none raises any other error."""

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mammopipe.inference.contract.errors import (
    RequestError,
)
from mammopipe.inference.payload.exam_body import unpack
from tests.inference.payload.test_exam_body import FILES, FORM, JSON, LIMITS, PGM, ZIP, encoded, form, listed, zipped

TYPES = st.sampled_from([JSON, FORM, ZIP, "multipart/form-data", PGM])
VALID = {JSON: listed(encoded(FILES)), FORM: form(FILES), ZIP: zipped(list(zip("abc", FILES, strict=True)))}


def survives(content_type: str, body: bytes) -> None:
    try:
        payload = unpack(content_type, body, LIMITS)
    except RequestError as error:
        assert 400 <= error.status < 500
        return
    assert 1 <= len(payload.sources) <= LIMITS.max_views
    assert all(len(source.data) <= LIMITS.max_bytes for source in payload.sources)


@settings(max_examples=150, deadline=None)
@given(TYPES, st.binary(max_size=300))
@example(ZIP, b"PK\5\6" + bytes(18))
def test_random_bytes_are_answered_or_refused(content_type: str, body: bytes) -> None:
    survives(content_type, body)


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(sorted(VALID)),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), max_size=4),
    st.integers(0, 60),
)
def test_changed_bodies_are_answered_or_refused(kind: str, changes: list[tuple[int, bytes]], cut: int) -> None:
    body = bytearray(VALID[kind])
    for place, new in changes:
        at = place % len(body)
        body[at : at + len(new)] = new
    survives(kind, bytes(body[: len(body) - cut] if cut < 30 else body))


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=9) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["images", "data", "s3_uri", "laterality", "view", "options", "x"]), inner
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_is_answered_or_refused(value: Any) -> None:
    survives(JSON, json.dumps(value).encode())
    survives(JSON, listed([value]))
