"""Grayscale Softcopy Presentation States: the images as in their files, with the heatmap's regions drawn.

A presentation state replaces the grayscale transformations of its images (PS3.4 N.2); a transformation that it omits is
not applied. It therefore repeats each image's modality LUT, VOI LUT or window, and polarity. Modality LUT and polarity
apply to a whole state, so images that differ in them need separate states.
Source: PS3.3 A.33.1, C.10.4 (Displayed Area), C.10.5 (Graphic Annotation), C.11.6, C.11.8.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from highdicom import SOPClass
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from mammopipe.inference.contract.schema import NOTICE
from mammopipe.inference.dicom.instance import Images, ResultSeries, identifiers
from mammopipe.inference.dicom.source import SourceImage
from mammopipe.inference.dicom.wording import Facts
from mammopipe.processing.dicom.attributes import Tag, Tags
from mammopipe.processing.dicom.file import parse
from mammopipe.processing.errors import ImageError
from mammopipe.processing.read_config import DEFAULT_CONFIG

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.11.1"
"""Grayscale Softcopy Presentation State Storage (PS3.4 B.5)."""
LAYER = "MAMMOPIPE"
CIELAB_AMBER = [51400, 34500, 49000]
"""Recommended colour of the graphics, in CIELab as unsigned 16-bit values (PS3.3 C.10.7.1.1)."""


def presentation_states(images: Images, files: Sequence[bytes], facts: Facts) -> list[SOPClass]:
    """Return the presentation states of an answer, still without identity, times and UIDs.

    All images with the same modality LUT and polarity share a state.

    Args:
        images: Each source with its part of the answer.
        files: The DICOM files of the sources, in the same order.
        facts: The whole answer.
    """
    grayscales = [read_grayscale(data) for data in files]
    groups: dict[tuple[bytes, bool], list[int]] = {}
    for index, grayscale in enumerate(grayscales):
        groups.setdefault((grayscale.modality_key, grayscale.inverse), []).append(index)
    return [
        _state(number, [images[index] for index in group], [grayscales[index] for index in group], facts)
        for number, group in enumerate(groups.values(), 1)
    ]


@dataclass(frozen=True)
class Grayscale:
    """The grayscale transformations of one image."""

    modality: Dataset
    """Attributes of the Modality LUT module; empty without one."""
    voi: Dataset
    """Attributes of one item of the Softcopy VOI LUT Sequence; empty without one."""
    inverse: bool
    """Whether the image is MONOCHROME1: low values are bright."""

    @property
    def modality_key(self) -> bytes:
        """A key that is equal for images with the same modality LUT."""
        return repr(self.modality).encode()


def read_grayscale(data: bytes) -> Grayscale:
    """Return the grayscale transformations of a DICOM file that the image reader has accepted.

    An unusable attribute counts as absent, as in the image reader.
    """
    tags = parse(data, where="<bytes>", limits=DEFAULT_CONFIG.limits).tags
    signed = tags.integer(Tag.PIXEL_REPRESENTATION) == 1
    return Grayscale(
        _modality(tags, signed), _voi(tags, signed), tags.text(Tag.PHOTOMETRIC_INTERPRETATION) == "MONOCHROME1"
    )


def _modality(tags: Tags, signed: bool) -> Dataset:
    module = Dataset()
    if luts := tags.items(Tag.MODALITY_LUT_SEQUENCE):
        module.ModalityLUTSequence = [_lut(luts[0], signed)]
        module.ModalityLUTSequence[0].ModalityLUTType = "US"  # unspecified
        return module
    slope, intercept = _number(tags, Tag.RESCALE_SLOPE), _number(tags, Tag.RESCALE_INTERCEPT)
    # A slope of 0 would make every pixel equal; the reader ignores it as well.
    if slope and intercept is not None:
        module.RescaleIntercept, module.RescaleSlope, module.RescaleType = f"{intercept:.10g}", f"{slope:.10g}", "US"
    return module


def _voi(tags: Tags, signed: bool) -> Dataset:
    """Return the first VOI LUT, else the first window; an item of the sequence holds only one of them (C.11.8)."""
    item = Dataset()
    if luts := tags.items(Tag.VOI_LUT_SEQUENCE):
        # The VOI LUT's input is the output of the modality transformation, whose values are signed if the intercept is
        # below 0 (PS3.3 C.11.2.1.1).
        rescaled = _number(tags, Tag.RESCALE_INTERCEPT)
        item.VOILUTSequence = [_lut(luts[0], rescaled < 0 if rescaled is not None else signed)]
        return item
    center, width = _number(tags, Tag.WINDOW_CENTER), _number(tags, Tag.WINDOW_WIDTH)
    if center is not None and width is not None and width > 0:
        item.WindowCenter, item.WindowWidth = f"{center:.10g}", f"{width:.10g}"
        if function := tags.text(Tag.VOI_LUT_FUNCTION):
            item.VOILUTFunction = function
    return item


def _lut(item: Tags, signed: bool) -> Dataset:
    """Return a copy of the descriptor and the data of a look-up table."""
    copy = Dataset()
    count, first, bits = (int(value) for value in item.numbers(Tag.LUT_DESCRIPTOR))
    copy.add_new(
        int(Tag.LUT_DESCRIPTOR), "SS" if signed else "US", [_as_vr(count, signed), _as_vr(first, signed), bits]
    )
    data = item.data(Tag.LUT_DATA)
    # The result is written as Explicit VR Little Endian.
    if not item.little_endian(Tag.LUT_DATA):
        data = b"".join(data[at : at + 2][::-1] for at in range(0, len(data), 2))
    copy.add_new(int(Tag.LUT_DATA), "OW", data)
    return copy


def _as_vr(value: int, signed: bool) -> int:
    """Return a 16-bit value as SS (signed) or US (unsigned) represents it."""
    value &= 0xFFFF
    return value - 0x10000 if signed and value > 0x7FFF else value


def _number(tags: Tags, tag: Tag) -> float | None:
    try:
        values = tags.numbers(tag)
    except ImageError:
        return None
    return values[0] if values else None


def _state(number: int, images: Images, grayscales: Sequence[Grayscale], facts: Facts) -> SOPClass:
    kept = {**identifiers(ResultSeries.PRESENTATION_STATE, facts["model"]), "instance_number": number}
    study = images[0][0].study
    state = SOPClass(
        study_instance_uid=study,
        sop_class_uid=SOP_CLASS,
        modality="PR",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **kept,
    )
    state.ContentLabel, state.ContentDescription = LAYER, NOTICE
    state.ContentCreatorName = "mammopipe^"
    state.PresentationCreationDate = state.PresentationCreationTime = None
    sides = {part["image"]["laterality"] or "" for _, part in images}
    state.Laterality = sides.pop() if len(sides) == 1 else ""
    state.ReferencedSeriesSequence = _series(images)
    state.DisplayedAreaSelectionSequence = [_area(source) for source, _ in images]
    state.GraphicAnnotationSequence = [_annotation(source, part) for source, part in images]
    state.GraphicLayerSequence = [_layer()]
    state.update(grayscales[0].modality)
    windows = [
        _referring(grayscale.voi, source)
        for (source, _), grayscale in zip(images, grayscales, strict=True)
        if len(grayscale.voi)
    ]
    if windows:
        state.SoftcopyVOILUTSequence = windows
    state.PresentationLUTShape = "INVERSE" if grayscales[0].inverse else "IDENTITY"
    return state


def _series(images: Images) -> list[Dataset]:
    found: dict[str, Dataset] = {}
    for source, _ in images:
        if source.series not in found:
            found[source.series] = Dataset()
            found[source.series].SeriesInstanceUID = source.series
            found[source.series].ReferencedImageSequence = []
        found[source.series].ReferencedImageSequence.append(_reference(source))
    return list(found.values())


def _reference(source: SourceImage) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.sop_class, source.instance
    return item


def _referring(item: Dataset, source: SourceImage) -> Dataset:
    item.ReferencedImageSequence = [_reference(source)]
    return item


def _area(source: SourceImage) -> Dataset:
    """Return a displayed area that covers the whole image, scaled to fit the window (C.10.4)."""
    area = _referring(Dataset(), source)
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [source.columns, source.rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    area.PresentationPixelAspectRatio = ["1", "1"]
    return area


def _layer() -> Dataset:
    layer = Dataset()
    layer.GraphicLayer, layer.GraphicLayerOrder = LAYER, 1
    layer.GraphicLayerRecommendedDisplayCIELabValue = CIELAB_AMBER
    layer.GraphicLayerDescription = "Regions of the heatmap, no lesion outlines"
    return layer


def _annotation(source: SourceImage, part: Facts) -> Dataset:
    """Return the annotation of an image: its regions as numbered closed boxes, and one line of text."""
    regions = (part.get("heatmap") or {}).get("regions", [])
    annotation = _referring(Dataset(), source)
    annotation.GraphicLayer = LAYER
    annotation.TextObjectSequence = [_line(part), *(_number_of(region, at) for at, region in enumerate(regions, 1))]
    if regions:
        annotation.GraphicObjectSequence = [_box(region) for region in regions]
    return annotation


def _box(region: Facts) -> Dataset:
    r"""Return the box of a region; 0\0 is the top left corner of the top left pixel (C.10.5.1.1)."""
    left, top, right, bottom = (float(region[key]) for key in ("left", "top", "right", "bottom"))
    box = Dataset()
    box.GraphicAnnotationUnits, box.GraphicDimensions, box.NumberOfGraphicPoints = "PIXEL", 2, 5
    box.GraphicData = [left, top, right, top, right, bottom, left, bottom, left, top]
    box.GraphicType, box.GraphicFilled = "POLYLINE", "N"
    return box


def _number_of(region: Facts, number: int) -> Dataset:
    text = Dataset()
    text.UnformattedTextValue = f"{number}: {region['strength']:.2f}"
    text.AnchorPointAnnotationUnits, text.AnchorPointVisibility = "PIXEL", "N"
    text.AnchorPoint = [float(region["left"]), float(region["top"])]
    return text


def _line(part: Facts) -> Dataset:
    """Return the notice and the score at the top of the displayed area, in coordinates relative to it."""
    refer = "; REFER TO READER" if (part.get("referral") or {}).get("refer") else ""
    text = Dataset()
    text.UnformattedTextValue = f"{NOTICE}; malignancy score {part['malignancy_score']:.0f} of 100{refer}"
    text.BoundingBoxAnnotationUnits = "DISPLAY"
    text.BoundingBoxTopLeftHandCorner, text.BoundingBoxBottomRightHandCorner = [0.02, 0.01], [0.98, 0.05]
    text.BoundingBoxTextHorizontalJustification = "LEFT"
    return text
