"""Compressed pixels inside of sequences, such as the icon of an image: PS3.3 section C.7.6.1.1.6.

They are in the transfer syntax of the dataset around them, so they can't stay as they are when that changes. They are
small, and come uncompressed, which a compressed dataset may hold as well (PS3.5 section A.4).
"""

from io import BytesIO
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from libs.dicom import codec, colour, encapsulated, syntax
from libs.dicom.explicit import FORM, PIXEL_DATA, Chunks, Element, Elements
from libs.dicom.picture import Bounds, picture
from libs.dicom.untranscodable import NotTranscodableError

#: Pixel data without a length, of VR OB.
_COMPRESSED: Final = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff"
_DELIMITER: Final = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
_BYTE: Final = 8


def uncompressed(element: Element, transfer_syntax: str, bounds: Bounds) -> Element:
    """Give an element whose compressed pixels, if it has any in it, are decoded.

    Raises
    ------
    NotTranscodableError
        They can't be decoded.
    """
    if _COMPRESSED not in element.raw:
        return element
    within = read_dataset(BytesIO(element.raw), FORM.implicit, FORM.little_endian)
    for each in within.iterall():
        if each.VR == "SQ":
            for item in each.value:
                _decode(item, transfer_syntax, bounds)
    raw = _encoded(within)
    return next(Elements(BytesIO(raw), len(raw)).take())


def _decode(item: Dataset, transfer_syntax: str, bounds: Bounds) -> None:
    if PIXEL_DATA not in item or not item[PIXEL_DATA].is_undefined_length:
        return
    pixels = item.pop(PIXEL_DATA).value
    read = picture(Elements(Chunks(iter([_encoded(item)])), bounds.header).take(), bounds)
    file = BytesIO((pixels or b"") + _DELIMITER)
    alone = transfer_syntax in (syntax.RLE, syntax.DEFLATED_FRAMES)
    found = encapsulated.fragments(file)
    if read.frames != 1 or read.allocated < _BYTE:
        raise NotTranscodableError("unreadable", "an icon in a sequence of its header is not one image of whole bytes")
    data = next(encapsulated.frames(file, found, 1, read.frame_bytes, alone=alone))
    frame, coded = codec.decode(transfer_syntax, data, read)
    turned = np.ascontiguousarray(colour.turned(transfer_syntax, frame, coded, read))
    item.PhotometricInterpretation = colour.decoded(transfer_syntax, read)
    if read.samples > 1:
        item.PlanarConfiguration = 0
    item.add_new(PIXEL_DATA, "OB" if read.allocated == _BYTE else "OW", turned.tobytes() + bytes(turned.nbytes % 2))


def _encoded(dataset: Dataset) -> bytes:
    written = DicomBytesIO()
    written.is_implicit_VR, written.is_little_endian = FORM.implicit, FORM.little_endian
    write_dataset(written, dataset)
    return bytes(written.getvalue())
