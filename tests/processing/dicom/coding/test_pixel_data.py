"""Pixel data of each transfer syntax, intact and damaged."""

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import encapsulate

from mammopipe.processing.dicom.codecs import SYNTAXES
from mammopipe.processing.images.mammogram import (
    CorruptImageError,
    NotAMammogramError,
    ReadConfig,
    UnsupportedImageError,
    read_mammogram,
)

MakeDicom = Callable[..., bytes]
Syntaxes = dict[str, tuple[str, ...]]
RAMP = (np.add.outer(np.arange(64), np.arange(48)) * 36).astype(np.uint16)
"""Smooth, so that lossy syntaxes stay close, over most of 12 bits."""
J2K = "1.2.840.10008.1.2.4.90"


def test_every_syntax_that_is_read_is_tested(syntaxes: Syntaxes) -> None:
    assert set(syntaxes["lossless"]) | set(syntaxes["lossy"]) == set(SYNTAXES)


def test_lossless_syntaxes_give_the_same_pixels(make_dicom: MakeDicom, syntaxes: Syntaxes) -> None:
    expected = np.floor(RAMP * (65535 / 4095) + 0.5)
    for syntax in syntaxes["lossless"]:
        image = read_mammogram(make_dicom(RAMP, bits=12, syntax=syntax))
        assert np.array_equal(image.pixels, expected), syntax
        assert image.facts["lossy"] is False and image.facts["transfer_syntax"] == SYNTAXES[syntax].name


def test_lossy_syntaxes_come_close(make_dicom: MakeDicom, syntaxes: Syntaxes) -> None:
    for syntax in syntaxes["lossy"]:
        image = read_mammogram(make_dicom(RAMP, bits=12, syntax=syntax, LossyImageCompression="01"))
        assert np.abs(image.pixels - RAMP * (65535 / 4095)).max() < 65535 / 100, syntax
        assert image.facts["lossy"] is True


def test_8_bit_pixels_in_big_endian_words(make_dicom: MakeDicom) -> None:
    cells = np.arange(15, dtype=np.uint8).reshape(3, 5)
    pixels = read_mammogram(make_dicom(cells, syntax="1.2.840.10008.1.2.2")).pixels
    assert np.array_equal(pixels, cells.astype(np.uint16) * 257)


def test_fragments_are_joined_and_jp2_boxes_removed(make_dicom: MakeDicom) -> None:
    import imagecodecs  # the encoder; the module under test never encodes

    whole = imagecodecs.jpeg2k_encode(RAMP, codecformat="jp2", reversible=True, level=0, bitspersample=12)
    assert whole[4:8] == b"jP  "
    for pieces in (1, 3):
        data = make_dicom(
            RAMP, bits=12, syntax=J2K, pixel_data=encapsulate([whole], fragments_per_frame=pieces, has_bot=False)
        )
        assert np.array_equal(read_mammogram(data).pixels, np.floor(RAMP * (65535 / 4095) + 0.5))


def test_truncation_anywhere_is_an_error(make_dicom: MakeDicom, syntaxes: Syntaxes) -> None:
    for syntax in (*syntaxes["lossless"], *syntaxes["lossy"]):
        data = make_dicom(RAMP, bits=12, syntax=syntax)
        for keep in (0.3, 0.6, 0.9, 0.99):
            with pytest.raises(CorruptImageError):
                read_mammogram(data[: int(len(data) * keep)])


def test_a_codestream_cut_inside_an_intact_file_is_an_error(make_dicom: MakeDicom, syntaxes: Syntaxes) -> None:
    for syntax in sorted(set(SYNTAXES) - set(syntaxes["native"])):
        data = make_dicom(RAMP, bits=12, syntax=syntax)
        start = data.index(b"\xfe\xff\x00\xe0", data.index(b"\xe0\x7f\x10\x00") + 20)
        frame = data[start + 8 : -8]
        cut = make_dicom(RAMP, bits=12, syntax=syntax, pixel_data=encapsulate([frame[: len(frame) // 2]]))
        with pytest.raises(CorruptImageError, match=r"Pixel Data \(7FE0,0010\)"):
            read_mammogram(cut)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"not a codestream" * 4, "cannot be read by OpenJPEG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x08junk", "JP2 file without a codestream"),
    ],
)
def test_data_without_a_codestream_are_refused(make_dicom: MakeDicom, frame: bytes, message: str) -> None:
    with pytest.raises(CorruptImageError, match=message):
        read_mammogram(make_dicom(RAMP, bits=12, syntax=J2K, pixel_data=encapsulate([frame])))


def test_a_codestream_of_another_syntax_is_not_decoded(make_dicom: MakeDicom) -> None:
    lossless = make_dicom(RAMP, bits=12, syntax="1.2.840.10008.1.2.4.70")
    with pytest.raises(CorruptImageError, match="marker FFC3"):
        read_mammogram(lossless.replace(b"1.2.840.10008.1.2.4.70", b"1.2.840.10008.1.2.4.51"))


def test_attributes_and_codestream_must_agree_on_the_size(make_dicom: MakeDicom, syntaxes: Syntaxes) -> None:
    for syntax in sorted(set(SYNTAXES) - set(syntaxes["native"])):
        with pytest.raises(CorruptImageError, match="holds an image of 64 x 48 .* say 63 x 48"):
            read_mammogram(make_dicom(RAMP, bits=12, syntax=syntax, Rows=63))


def test_a_high_bit_that_compressed_data_cannot_have(make_dicom: MakeDicom) -> None:
    with pytest.raises(UnsupportedImageError, match=r"HighBit \(0028,0102\) is 13 in a compressed image"):
        read_mammogram(make_dicom(RAMP, bits=12, syntax=J2K, HighBit=13))


@pytest.mark.parametrize("header", [[3, 64, 70, 80], [2, 64, 5000, 0], [2, 80, 64, 0], [2, 10, 80, 0], [0, 0, 0, 0]])
def test_rle_headers_with_offsets_outside_the_data_are_refused(make_dicom: MakeDicom, header: list[int]) -> None:
    frame = np.array(header + [0] * 12, "<u4").tobytes() + b"\x81\x00" * 100
    with pytest.raises(CorruptImageError, match="RLE"):
        read_mammogram(make_dicom(RAMP, syntax="1.2.840.10008.1.2.5", pixel_data=encapsulate([frame])))


def test_half_resolution_is_opt_in_close_and_recorded(make_dicom: MakeDicom) -> None:
    for bits in (8, 10, 12, 16):
        cells = (RAMP << 4 >> (16 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
        data = make_dicom(
            cells, bits=bits, syntax=J2K, PixelSpacing=["0.1", "0.1"], PhotometricInterpretation="MONOCHROME1"
        )
        full = read_mammogram(data, config=ReadConfig(enough_rows=33))
        assert full.pixels.shape == (64, 48) and "reduction" not in full.facts and full.pixel_spacing_mm == 0.1
        half = read_mammogram(data, config=ReadConfig(enough_rows=32))
        assert half.facts["reduction"] == 2 and half.pixel_spacing_mm == 0.2
        mean = full.pixels.reshape(32, 2, 24, 2).mean((1, 3))
        assert half.pixels.shape == (32, 24) and np.abs(half.pixels - mean).max() < 65535 * 0.03


def test_samples_that_are_indexes_of_a_palette_are_refused(make_dicom: MakeDicom) -> None:
    import imagecodecs  # the encoder; the module under test never encodes

    whole = imagecodecs.jpeg2k_encode(RAMP, codecformat="jp2", reversible=True, level=0, bitspersample=12)
    header = whole.index(b"jp2h") - 4
    length = int.from_bytes(whole[header : header + 4], "big")
    palette = (8 + 7).to_bytes(4, "big") + b"pclr" + b"\0\x02\x01\x07\xff\0\0"
    boxes = (length + len(palette)).to_bytes(4, "big") + whole[header + 4 : header + length] + palette
    frame = whole[:header] + boxes + whole[header + length :]
    with pytest.raises(NotAMammogramError, match="a JP2 file with a palette"):
        read_mammogram(
            make_dicom(RAMP, bits=12, syntax=J2K, pixel_data=encapsulate([frame + b"\0" * (len(frame) % 2)]))
        )


def test_half_resolution_of_a_damaged_file_is_an_error(make_dicom: MakeDicom) -> None:
    data = make_dicom(RAMP, bits=12, syntax=J2K)
    frame = data[data.index(b"\xff\x4f\xff\x51") : -8]
    cut = make_dicom(RAMP, bits=12, syntax=J2K, pixel_data=encapsulate([frame[: len(frame) // 2]]))
    with pytest.raises(CorruptImageError, match="cannot be decoded"):
        read_mammogram(cut, config=ReadConfig(enough_rows=8))


def test_the_real_files_decode_to_pydicoms_pixels(rsna_folder: Any) -> None:
    import pydicom

    files = sorted((rsna_folder / "train_images" / "10011").glob("*.dcm"))
    assert len(files) == 4
    for file in files:
        stored = pydicom.dcmread(file).pixel_array.astype(np.float64)
        share = np.clip((stored - 2047.5) / 4095 + 0.5, 0, 1)
        image = read_mammogram(file)
        assert np.array_equal(image.pixels, np.where(stored == 0, 0, np.floor(share * 65535 + 0.5)))
        assert image.pixels.shape == (2776, 2082)
        assert {
            "photometric": "MONOCHROME2",
            "window_center": 2048.0,
            "window_width": 4096.0,
            "bits_stored": 12,
            "transfer_syntax": "JPEG 2000 Lossless",
        }.items() <= image.facts.items()


def test_native_pixels_that_end_before_their_length_are_truncated(make_dicom: MakeDicom) -> None:
    cells = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    data = make_dicom(cells, bits=12)
    place = data.index(b"\xe0\x7f\x10\x00OW\0\0") + 8
    for more, refused in ((1, False), (2, True), (cells.nbytes, True)):
        longer = data[:place] + (cells.nbytes + more).to_bytes(4, "little") + data[place + 4 :]
        if refused:
            with pytest.raises(CorruptImageError, match=f"announces {cells.nbytes + more} bytes, 6144 are there"):
                read_mammogram(longer)
        else:
            assert read_mammogram(longer).pixels.any()


def test_a_codestream_of_more_bits_than_are_allocated_is_refused(make_dicom: MakeDicom) -> None:
    wide = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    stream = encapsulate([bytes(imagecodecs.jpegls_encode(wide))])
    with pytest.raises(CorruptImageError, match=r"holds 16 bits a sample; BitsAllocated \(0028,0100\) is 8"):
        read_mammogram(make_dicom(wide.astype(np.uint8), bits=8, syntax="1.2.840.10008.1.2.4.80", pixel_data=stream))
