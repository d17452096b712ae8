"""The image library of a Mammography CAD SR: one entry for each image, with the attributes that locate its findings.

Each attribute that the image's file states is in its entry. Laterality and view are required here, although the
template asks for them only if the file states them, because a workstation hangs and compares marks by both.

Source: PS3.16 TID 4020, CID 4014 (views), CID 4015 (view modifiers), CID 6022 (sides).
"""

from collections.abc import Iterable, Iterator, Mapping

from highdicom.sr import CodeContentItem, DateContentItem, ImageContentItem, TextContentItem, TimeContentItem
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.valuerep import DA, TM

from mammopipe.inference.contract.errors import NoSourceIdentityError
from mammopipe.inference.dicom.cad_items import Relation, number, plain_code, with_content
from mammopipe.inference.dicom.source import SourceImage
from mammopipe.inference.dicom.structured_report import VIEWS
from mammopipe.inference.dicom.wording import Facts
from mammopipe.processing.datasets.manifest import View

SIDES: Mapping[str, Code] = {"L": codes.cid6022.LeftBreast, "R": codes.cid6022.RightBreast}
MODIFIED_VIEWS = {View.AT: (codes.cid4014.MedioLateralObliqueProjection, codes.cid4015.AxillaryTail)}
"""Views that are coded as a view of CID 4014 with a modifier of CID 4015."""
_VIEW_CODES: tuple[Code, ...] = tuple(codes.cid4014.concepts.values())
_MODIFIER_CODES: tuple[Code, ...] = tuple(codes.cid4015.concepts.values())
_MICROMETRE = Code("um", "UCUM", "micrometer")
_ORIENTATION = 0x00200020
_DATES = ((codes.DCM.StudyDate, 0x00080020), (codes.DCM.ContentDate, 0x00080023))
_TIMES = ((codes.DCM.StudyTime, 0x00080030), (codes.DCM.ContentTime, 0x00080033))
_CONTEXT = str(Relation.CONTEXT)


def entry(index: int, source: SourceImage, image: Facts) -> Dataset:
    """Return the entry of one image.

    Args:
        index: Index of the image, for the error.
        source: The image's file.
        image: Facts about the image in the answer.

    Raises:
        NoSourceIdentityError: The laterality or the view is unknown (`no_view`).
    """
    side, view = SIDES.get(image["laterality"]), _view(source, image)
    if side is None or view is None:
        missing = "laterality" if side is None else "view"
        rule = f"image {index}: a Mammography CAD SR needs laterality and view of every image; its {missing} is unknown"
        raise NoSourceIdentityError("no_view", rule)
    item = ImageContentItem(
        codes.DCM.ImageLibrary, source.sop_class, source.instance, relationship_type=str(Relation.CONTAINS)
    )
    laterality = CodeContentItem(codes.DCM.ImageLaterality, side, _CONTEXT)
    return with_content(item, [laterality, view, *_orientation(source), *_moments(source), *_spacing(source)])


def _view(source: SourceImage, image: Facts) -> Dataset | None:
    """Return the view with its modifiers: the file's own codes if the context groups have them."""
    view, modifier = VIEWS.get(image["view"]), None
    if image["view"] in MODIFIED_VIEWS:
        view, modifier = MODIFIED_VIEWS[image["view"]]
    elif stated := _known(source.view_codes, _VIEW_CODES):
        view = stated[0]
    if view is None:
        return None
    found = dict.fromkeys([*([modifier] if modifier else []), *_known(source.view_modifiers, _MODIFIER_CODES)])
    item = CodeContentItem(codes.DCM.ImageView, plain_code(view), _CONTEXT)
    if found:
        name = codes.DCM.ImageViewModifier
        with_content(item, [CodeContentItem(name, plain_code(each), str(Relation.MODIFIER)) for each in found])
    return item


def _known(stated: Iterable[tuple[str, str]], group: Iterable[Code]) -> list[Code]:
    """Return the codes of the context group that the file states, also in SNOMED RT (PS3.16 8.1.1)."""
    # The comparison of pydicom's codes translates SNOMED RT.
    given = [Code(value, scheme, "") for value, scheme in stated]
    return [code for code in group if code in given]


def _orientation(source: SourceImage) -> Iterator[Dataset]:
    stated = source.text(_ORIENTATION).split("\\")
    if len(stated) == 2 and all(stated):
        names = (codes.DCM.PatientOrientationRow, codes.DCM.PatientOrientationColumn)
        for name, value in zip(names, stated, strict=True):
            yield TextContentItem(name, value.strip(), _CONTEXT)


def _moments(source: SourceImage) -> Iterator[Dataset]:
    """Yield dates and times of study and image, each if it is stated and conforms to PS3.5 6.2."""
    for (date_name, date_tag), (time_name, time_tag) in zip(_DATES, _TIMES, strict=True):
        try:
            day = DA(source.text(date_tag)) if len(source.text(date_tag)) == 8 else None
        except ValueError:
            day = None
        if day is not None:
            yield DateContentItem(date_name, day, _CONTEXT)
        try:
            time = TM(source.text(time_tag)) or None
        except ValueError:
            time = None
        if time is not None:
            yield TimeContentItem(time_name, time, _CONTEXT)


def _spacing(source: SourceImage) -> Iterator[Dataset]:
    """Yield the pixel spacing, else that at the detector (Imager Pixel Spacing)."""
    spacing = source.pixel_spacing or source.imager_spacing
    if spacing is not None:
        names = (codes.DCM.HorizontalPixelSpacing, codes.DCM.VerticalPixelSpacing)
        for name, millimetres in zip(names, reversed(spacing), strict=True):
            yield number(name, millimetres * 1000, _MICROMETRE, Relation.CONTEXT)
