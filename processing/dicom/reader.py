"""One DICOM mammogram from its bytes: refusals, decoding, the grey-scale chain, side, view, spacing and facts."""

import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.dicom.acceptance import check_is_mammogram
from mammopipe.processing.dicom.attributes import Tag, Tags
from mammopipe.processing.dicom.file import PHANTOM_WRITER, DicomFile, parse
from mammopipe.processing.dicom.grayscale import apply, padding_shows, read_chain
from mammopipe.processing.dicom.header import read_laterality, read_spacing, read_view
from mammopipe.processing.dicom.pixel_data import Layout, decode, read_layout
from mammopipe.processing.read_config import DEFAULT_CONFIG, ReadConfig

Facts = dict[str, str | int | float | bool]


@dataclass(frozen=True)
class DicomImage:
    """What a DICOM file gives: pixels on the full 16-bit scale, and side, view and spacing where it states them."""

    pixels: NDArray[np.uint16]
    laterality: Laterality | None
    view: View | None
    pixel_spacing_mm: float | None
    facts: Facts


def read_dicom(data: bytes, *, where: str, config: ReadConfig = DEFAULT_CONFIG) -> DicomImage:
    """Return the mammogram in a DICOM file's bytes; `where` names the file in errors.

    Raises the `ImageError` subclasses of `mammopipe.processing.read_config`. Everything that can be refused from the
    attributes is refused before pixel data are decoded.
    """
    file = parse(data, where=where, limits=config.limits)
    tags = file.tags
    check_is_mammogram(tags)
    layout = read_layout(tags, config.limits)
    chain, chain_facts = read_chain(tags, layout, config)
    laterality, laterality_facts = read_laterality(tags)
    view, view_facts = read_view(tags)
    spacing, spacing_facts = read_spacing(tags)
    # Half a decode blends padding with what it borders on, and a blend with bright padding looks like tissue.
    bright = padding_shows(layout.bits_stored, layout.signed, chain)
    cells = decode(file, layout, replace(config, enough_rows=None) if bright else config)
    pixels = apply(
        cells.array, cells.bits, cells.shift, bits_stored=layout.bits_stored, signed=layout.signed, chain=chain
    )
    facts = _file_facts(file, layout) | chain_facts | laterality_facts | view_facts | spacing_facts
    if cells.reduction > 1:
        facts |= {"reduction": cells.reduction, "decoder": "OpenJPEG (Pillow)"}
        facts |= {"rows": layout.rows, "columns": layout.columns}
    return DicomImage(pixels, laterality, view, spacing and spacing * cells.reduction, facts)


def _file_facts(file: DicomFile, layout: Layout) -> Facts:
    """Return the allow-list of what may be told about the file: equipment, encoding and what the image shows."""
    tags = file.tags
    texts = {
        "manufacturer": tags.text(Tag.MANUFACTURER),
        "model": tags.text(Tag.MANUFACTURER_MODEL_NAME),
        "modality": tags.text(Tag.MODALITY),
        "presentation_intent": tags.text(Tag.PRESENTATION_INTENT_TYPE),
        "patient_orientation": "\\".join(tags.texts(Tag.PATIENT_ORIENTATION)),
    }
    kinds = tags.texts(Tag.IMAGE_TYPE)
    return {
        "format": "DICOM",
        "phantom": file.writer == PHANTOM_WRITER,
        "transfer_syntax": file.syntax.name,
        "decoder": str(file.syntax.codec),
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "signed": layout.signed,
        "lossy": file.syntax.lossy or tags.text(Tag.LOSSY_IMAGE_COMPRESSION) == "01",
        "synthetic_2d": "GENERATED_2D" in kinds or "TOMO_2D" in kinds,
        **_flags(tags),
        **{name: text for name, text in texts.items() if re.fullmatch(r"[\w .,&()+/\\-]{1,64}", text, re.ASCII)},
    }


def _flags(tags: Tags) -> Facts:
    """Return the YES and NO attributes that are stated."""
    named = {
        "implant": Tag.BREAST_IMPLANT_PRESENT,
        "partial_view": Tag.PARTIAL_VIEW,
        "burned_in_annotation": Tag.BURNED_IN_ANNOTATION,
    }
    return {name: tags.text(tag) == "YES" for name, tag in named.items() if tags.text(tag) in ("YES", "NO")}
