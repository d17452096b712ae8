"""Where a DICOM mammogram comes from: the machine by name, the institution as a digest that names nobody.

Prepare writes both into the manifest and the monitor reads both from requests, so that one machine has one name on both
sides. A file whose header says nothing (PGM, PNG, collections that were stripped of it) comes from "".
"""

import hashlib
import re

from mammopipe.processing.dicom.attributes import Tag
from mammopipe.processing.dicom.file import is_dicom, parse
from mammopipe.processing.read_config import DEFAULT_CONFIG, Limits

INSTITUTION_NAME = 0x00080080
_NAME_LETTERS = 40


def origin(data: bytes, *, where: str, limits: Limits = DEFAULT_CONFIG.limits) -> tuple[str, str]:
    """Return machine (Manufacturer and Manufacturer's Model Name) and site of a file's bytes; "" is unknown.

    Raises the `ImageError` subclasses of `mammopipe.processing.dicom.file.parse`; `where` names the file in them.
    """
    if not is_dicom(data):
        return "", ""
    names = (Tag.MANUFACTURER, Tag.MANUFACTURER_MODEL_NAME)
    tags = parse(data, where=where, limits=limits, tags=(*names, INSTITUTION_NAME)).tags
    # Only what is in a device's name: it becomes that of a group, in manifests, metrics and pages.
    words = re.sub(r"[^\w.&()+/-]+", " ", " ".join(map(tags.text, names)), flags=re.ASCII).split()
    institution = tags.text(INSTITUTION_NAME)
    site = hashlib.sha256(institution.encode()).hexdigest()[:8] if institution else ""
    return " ".join(words)[:_NAME_LETTERS].strip(), site
