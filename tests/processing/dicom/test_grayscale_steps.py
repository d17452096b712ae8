"""The single steps of the grey-scale pipeline by hand: windows, ranges of values, padding, look-up."""

from typing import Any

import numpy as np
import pytest

from mammopipe.processing.dicom.grayscale import (
    Chain,
    Lut,
    Rescale,
    VoiFunction,
    Window,
    apply,
    padding_shows,
    presentation,
    stored_range,
)

# --- single steps


def test_a_linear_window_of_width_one_is_a_step() -> None:
    step = Window(VoiFunction.LINEAR, 10.0, 1.0)
    assert step(np.array([9.0, 9.5, 9.6, 10.0])).tolist() == [0, 0, 1, 1]


def test_the_other_windows_by_hand() -> None:
    exact = Window(VoiFunction.LINEAR_EXACT, 10.0, 8.0)
    assert exact(np.array([5.0, 6.0, 8.0, 10.0, 12.0, 14.0, 30.0])).tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    linear = Window(VoiFunction.LINEAR, 10.5, 9.0)
    assert linear(np.array([5.0, 6.0, 8.0, 10.0, 12.0, 14.0, 30.0])).tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    sigmoid = Window(VoiFunction.SIGMOID, 10.0, 8.0)
    assert sigmoid(np.array([8.0, 10.0, 12.0])) == pytest.approx([1 / (1 + np.e), 0.5, 1 / (1 + np.exp(-1))])


def test_values_beyond_the_stored_bits_are_white() -> None:
    assert presentation(np.array([4095, 4096, 5000]), 12, False, chain()).tolist() == [65535] * 3
    assert presentation(np.array([-2048, -3000]), 12, True, chain()).tolist() == [0, 0]


def test_a_sigmoid_does_not_overflow() -> None:
    sigmoid = Window(VoiFunction.SIGMOID, 0.0, 1e-12)
    with np.errstate(all="raise"):
        assert sigmoid(np.array([-1e5, 0.0, 1e5])) == pytest.approx([0, 0.5, 1], abs=1e-9)


def test_the_range_of_stored_values() -> None:
    assert stored_range(12, False) == (0, 4095) and stored_range(12, True) == (-2048, 2047)


def test_the_range_of_modality_values_is_ordered() -> None:
    assert Rescale(-2.0, 3.0).scale(4, 10) == (-17, -5) and Rescale(2.0, 3.0).scale(4, 10) == (11, 23)
    assert Lut(5, 10, np.array([1, 2], np.uint16)).scale(-7, 7) == (0, 1023)


def chain(**changes: Any) -> Chain:
    return Chain(**{"modality": Rescale(), "voi": None, "inverted": False, **changes})


def test_padding_shows_only_where_it_would_be_brighter_than_black() -> None:
    assert not padding_shows(16, False, chain())
    assert not padding_shows(16, False, chain(padding=(0, 255))), "255 of 65535 is black in 8 bits"
    assert padding_shows(16, False, chain(padding=(0, 256)))
    assert padding_shows(16, False, chain(padding=(0, 0), inverted=True))
    assert not padding_shows(16, False, chain(padding=(65535, 65535), inverted=True))
    assert padding_shows(12, True, chain(padding=(-2048, -2000))) and not padding_shows(
        12, True, chain(padding=(-2048,) * 2)
    )
    # Only values that can be stored count.
    assert not padding_shows(12, False, chain(padding=(4096, 5000))) and padding_shows(
        12, False, chain(padding=(4095,) * 2)
    )
    assert padding_shows(12, True, chain(padding=(2047, 3000))) and not padding_shows(
        12, True, chain(padding=(-9000, -2048))
    )


def test_the_ends_of_padding_are_padding_themselves() -> None:
    stored = np.arange(8, dtype=np.int64)
    found = presentation(stored, 3, False, chain(padding=(2, 4), inverted=True))
    assert (found == 0).tolist() == [False, False, True, True, True, False, False, True]


def test_cells_are_looked_up_by_their_own_bits() -> None:
    cells = np.array([[0x0123, 0xF123, 0x1230]], np.uint16)
    found = apply(cells.copy(), 12, 0, bits_stored=12, signed=False, chain=chain())
    assert found.tolist() == [[int(value * 65535 / 4095 + 0.5) for value in (0x123, 0x123, 0x230)]]
    shifted = apply(cells.copy(), 12, 4, bits_stored=12, signed=False, chain=chain())
    assert shifted.tolist() == [[int(value * 65535 / 4095 + 0.5) for value in (0x012, 0xF12, 0x123)]]
    signed = apply(np.array([[0x80, 0xFF, 0x00, 0x7F]], np.uint8), 8, 0, bits_stored=8, signed=True, chain=chain())
    assert signed.tolist() == [[0, int(127 * 257), 128 * 257, 65535]]


def test_only_writable_cells_in_one_block_are_overwritten() -> None:
    cells = np.array([[1, 2]], np.uint16)
    found = apply(cells, 16, 0, bits_stored=16, signed=False, chain=chain(inverted=True))
    assert found.tolist() == [[65534, 65533]] and np.shares_memory(found, cells)
    kept = np.array([[1, 2]], np.uint16)
    kept.flags.writeable = False
    found = apply(kept, 16, 0, bits_stored=16, signed=False, chain=chain(inverted=True))
    assert found.tolist() == [[65534, 65533]] and kept.tolist() == [[1, 2]]
    whole = np.arange(16, dtype=np.uint16).reshape(4, 4)
    found = apply(whole[:, ::2], 16, 0, bits_stored=16, signed=False, chain=chain(inverted=True))
    assert found.tolist() == (65535 - np.arange(16).reshape(4, 4)[:, ::2]).tolist()
    assert whole.tolist() == np.arange(16).reshape(4, 4).tolist(), "a view of other cells is left as it is"
