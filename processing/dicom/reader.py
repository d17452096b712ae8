"""Reads one DICOM mammogram from its bytes: acceptance, decoding, the grey-scale chain and the header."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.dicom.acceptance import check_is_mammogram, for_processing
from mammopipe.processing.dicom.attributes import Facts, Tag, Tags, label
from mammopipe.processing.dicom.file import PHANTOM_WRITER, DicomFile, parse
from mammopipe.processing.dicom.for_processing import convert_raw
from mammopipe.processing.dicom.grayscale import apply, padding_shows
from mammopipe.processing.dicom.grayscale_attributes import read_chain
from mammopipe.processing.dicom.header import read_flags, read_laterality, read_spacing, read_view
from mammopipe.processing.dicom.orientation import Orientation, darken, read_shutter
from mammopipe.processing.dicom.pixel_data import Layout, decode, read_layout
from mammopipe.processing.dicom.view_text import is_synthetic
from mammopipe.processing.image_flags import ImageFlag
from mammopipe.processing.read_config import DEFAULT_CONFIG, ForProcessing, ReadConfig


@dataclass(frozen=True)
class DicomImage:
    """The content of a DICOM file: pixels on the full 16-bit scale, and laterality, view and spacing if stated."""

    pixels: NDArray[np.uint16]
    laterality: Laterality | None
    view: View | None
    pixel_spacing_mm: float | None
    facts: Facts
    flags: set[ImageFlag]
    orientation: Orientation
    """The Patient Orientation; the pixels are not turned yet, because the laterality may come from elsewhere."""
    rows: int
    """Rows that the file announces; `pixels` may have half as many."""
    columns: int
    """Columns that the file announces."""


def read_dicom(data: bytes, *, where: str, config: ReadConfig = DEFAULT_CONFIG) -> DicomImage:
    """Return the mammogram in the bytes of a DICOM file.

    All checks of attributes come before the pixel data are decoded.

    Args:
        data: The file.
        where: The name of the file in errors.
        config: The choices where a file offers several, and the greatest size of an image.

    Raises:
        ImageError: The file cannot be read; the subclasses are those of `mammopipe.processing.errors`.
    """
    file = parse(data, where=where, limits=config.limits)
    tags = file.tags.with_functional_groups()
    convert = config.for_processing is ForProcessing.CONVERT
    check_is_mammogram(tags, sop_class=file.sop_class, raw=convert)
    raw = convert and bool(for_processing(tags, file.sop_class))
    layout = read_layout(tags, config.limits)
    chain, chain_facts, flags = read_chain(tags, layout, config)
    orientation = Orientation(tags)
    laterality, laterality_facts, laterality_flags = read_laterality(tags)
    if laterality is None and orientation.laterality:
        laterality, laterality_facts = orientation.laterality, {"laterality_source": label(Tag.PATIENT_ORIENTATION)}
    view, view_facts, view_flags = read_view(tags)
    if view is None and "view_reported" not in view_facts and orientation.view:
        view, view_facts = orientation.view, view_facts | {"view_source": label(Tag.PATIENT_ORIENTATION)}
        view_flags.add(ImageFlag.VIEW_INFERRED)
    spacing, spacing_facts, spacing_flags = read_spacing(tags)
    # Decoding at half resolution blends padding with its neighbours, and a blend with bright padding looks like tissue.
    bright = padding_shows(layout.bits_stored, layout.signed, chain)
    cells = decode(file, layout, config.replace(enough_rows=None) if bright or raw else config)
    if raw:
        flags.add(ImageFlag.FOR_PROCESSING_CONVERTED)
        chain_facts = {"for_processing": "converted"}
        pixels = convert_raw(cells, tags, signed=layout.signed, padding=chain.padding)
    else:
        pixels = apply(
            cells.array, cells.bits, cells.shift, bits_stored=layout.bits_stored, signed=layout.signed, chain=chain
        )
    visible, shutter_flags = read_shutter(tags, layout.rows, layout.columns)
    if visible is not None:
        darken(pixels, visible)
    flags |= laterality_flags | view_flags | spacing_flags | shutter_flags | orientation.flags | read_flags(file, tags)
    if cells.beyond:
        flags.add(ImageFlag.VALUES_BEYOND_BITS)
    if cells.lossy:
        flags.add(ImageFlag.LOSSY)
    facts = _file_facts(file, tags, layout) | {"lossy": ImageFlag.LOSSY in flags}
    facts |= chain_facts | laterality_facts | view_facts | spacing_facts
    if cells.reduction > 1:
        facts |= {"reduction": cells.reduction, "decoder": "OpenJPEG (Pillow)"}
        facts |= {"rows": layout.rows, "columns": layout.columns}
    spacing = spacing and spacing * cells.reduction
    return DicomImage(
        pixels, laterality, view, spacing, facts, flags, orientation, rows=layout.rows, columns=layout.columns
    )


def _file_facts(file: DicomFile, tags: Tags, layout: Layout) -> Facts:
    """Return the facts on the allow-list: equipment, encoding and what the image shows."""
    texts = {
        "manufacturer": tags.text(Tag.MANUFACTURER),
        "model": tags.text(Tag.MANUFACTURER_MODEL_NAME),
        "modality": tags.text(Tag.MODALITY),
        "presentation_intent": tags.text(Tag.PRESENTATION_INTENT_TYPE),
        "patient_orientation": "\\".join(tags.texts(Tag.PATIENT_ORIENTATION)),
    }
    return {
        "format": "DICOM",
        "phantom": file.writer == PHANTOM_WRITER,
        "transfer_syntax": file.syntax.name,
        "decoder": str(file.syntax.codec),
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "signed": layout.signed,
        "synthetic_2d": is_synthetic(tags),
        **_stated(tags),
        **{name: text for name, text in texts.items() if re.fullmatch(r"[\w .,&()+/\\-]{1,64}", text, re.ASCII)},
    }


def _stated(tags: Tags) -> Facts:
    """Return the attributes whose value is YES or NO, if stated."""
    named = {
        "implant": Tag.BREAST_IMPLANT_PRESENT,
        "partial_view": Tag.PARTIAL_VIEW,
        "burned_in_annotation": Tag.BURNED_IN_ANNOTATION,
    }
    return {name: tags.code(tag) == "YES" for name, tag in named.items() if tags.code(tag) in ("YES", "NO")}
