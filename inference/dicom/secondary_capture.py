"""Writes the overlay as a Secondary Capture image: draws the notice, adds the derivation and encodes the pixels.

Sources: PS3.3 A.8.1 (Secondary Capture Image), C.7.6.1 (General Image), C.12.4 (Derivation); PS3.5 8.2.4 (JPEG 2000).
"""

from typing import Any

import cv2
import imagecodecs
import numpy as np
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from mammopipe.inference.contract.schema import NOTICE
from mammopipe.inference.dicom.source import OF_PIXELS, SourceImage
from mammopipe.inference.dicom.wording import Facts, plain

TEXT_WIDTH = 0.42
"""Largest width of a line of text as a share of the columns; the corners opposite the chest wall are air."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def capture(overlay_bgr: NDArray[np.uint8], source: SourceImage, facts: Facts, **document: Any) -> SCImage:
    """Return the overlay as a Secondary Capture image, still without the identity of its source.

    Args:
        overlay_bgr: uint8 (rows, columns, 3) in BGR order.
        source: The source image.
        facts: The answer for it.
        **document: UIDs, numbers and equipment for highdicom.
    """
    picture = cv2.cvtColor(noted(overlay_bgr, _lines(facts)), cv2.COLOR_BGR2RGB)
    image = SCImage(
        pixel_array=np.asarray(picture, np.uint8),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # highdicom requires one; `_derivation` replaces it by the source's
        laterality=facts["image"]["laterality"],
        study_instance_uid=source.study,
        transfer_syntax_uid=ExplicitVRLittleEndian,  # `_compress` replaces the pixels and the transfer syntax
        pixel_spacing=source.pixel_spacing,
        **document,
    )
    image.ConversionType = "WSD"  # made by a workstation (PS3.3 C.8.6.1)
    _derivation(image, source, facts)
    _compress(image, np.asarray(picture, np.uint8))
    return image


def noted(overlay_bgr: NDArray[np.uint8], lines: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return a copy of an image with lines of text in its darkest corner, which is air.

    The letters are white with a black outline, so that they are readable on any background.
    """
    rows, columns = overlay_bgr.shape[:2]
    # Text width is proportional to the scale, so one measurement at scale 1 gives the scale that fits.
    widest = max(cv2.getTextSize(line, _FONT, 1.0, 2)[0][0] for line in lines)
    scale = TEXT_WIDTH * columns / widest
    thick = max(1, round(2 * scale))
    step = round(cv2.getTextSize(lines[0], _FONT, scale, thick)[0][1] * 1.8)
    height, width = min(rows, step * (len(lines) + 1)), round(columns * (TEXT_WIDTH + 0.04))
    top, left = _darkest_corner(overlay_bgr, height, width)
    picture = overlay_bgr.copy()
    for number, line in enumerate(lines, 1):
        place = (left + round(0.02 * columns), top + number * step)
        for colour, thickness in (((0, 0, 0), 3 * thick), ((255, 255, 255), thick)):
            cv2.putText(picture, line, place, _FONT, scale, colour, thickness, cv2.LINE_AA)
    return picture


def _darkest_corner(picture: NDArray[np.uint8], height: int, width: int) -> tuple[int, int]:
    """Return the first row and column of the darkest corner of that size; the lower right one if several are equal."""
    rows, columns = picture.shape[:2]
    corners = [(top, left) for top in (rows - height, 0) for left in (columns - width, 0)]
    return min(corners, key=lambda at: float(picture[at[0] : at[0] + height, at[1] : at[1] + width].mean()))


def _lines(facts: Facts) -> tuple[str, ...]:
    refer = bool((facts.get("referral") or {}).get("refer"))
    score = f"malignancy score {facts['malignancy_score']:.0f} of 100"
    return (NOTICE, score, *(["REFER TO READER"] if refer else []))


def _derivation(image: SCImage, source: SourceImage, facts: Facts) -> None:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.sop_class, source.instance
    reference.PurposeOfReferenceCodeSequence = [
        CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
    ]
    image.SourceImageSequence = [reference]
    image.DerivationDescription = f"{NOTICE}; heatmap of {_target(facts)} by model {plain(facts['model']['id'])}"[:1024]
    # The text drawn here identifies nobody, so the source's own statement still holds, if it has one.
    if source.burned_in:
        image.BurnedInAnnotation = source.burned_in
    else:
        image.pop("BurnedInAnnotation", None)
    image.LossyImageCompression = "01" if source.lossy else "00"
    image.add_new("PatientOrientation", "CS", None)
    source.give(image, OF_PIXELS)


def _target(facts: Facts) -> str:
    return str(facts["heatmap"]["target"]) if facts.get("heatmap") else "the target class"


def _compress(image: SCImage, picture: NDArray[np.uint8]) -> None:
    """Replace the pixels by lossless JPEG 2000, whose colour transform compresses grey areas almost to nothing."""
    codestream = imagecodecs.jpeg2k_encode(picture, level=0, codecformat="j2k", reversible=True, mct=True)
    image.file_meta.TransferSyntaxUID = JPEG2000Lossless
    image.PhotometricInterpretation = "YBR_RCT"
    image.PixelData = encapsulate([bytes(codestream)])
    image["PixelData"].VR = "OB"
