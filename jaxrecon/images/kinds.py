"""Whether a file is a picture or a video, by how its content begins."""

import re
from pathlib import Path
from typing import Literal

from jaxrecon.errors import InputError
from jaxrecon.reading import is_plain_file, open_plain

type FileKind = Literal["picture", "video"]

_BEGINNING = 600
_PICTURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0"
    rb"|II\*\0|MM\0\*|II\+\0|MM\0\+|IIU\0|IIR[OS]|MMOR|FUJIFILM|FOVb"  # TIFF and raw photos
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|\xff\x0a|\0\0\0\x0cJXL |8BPS|v/1\x01|#\?RADIANCE"
    rb"|....ftyp(?:avi[fs]|hei[cmsxf]|hev[cmsx]|mif[12]|msf1|crx )",
    re.DOTALL,
)
_VIDEOS = re.compile(
    rb"....(?:ftyp|moov|mdat|wide|free|skip)|\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xb3\xba]"
    rb"|\x30\x26\xb2\x75\x8e\x66\xcf\x11|FLV\x01|OggS"
    rb"|G.{187}G.{187}G|.{4}G.{191}G.{191}G",  # MPEG-TS, and that of camcorders
    re.DOTALL,
)


def kind_of(path: Path) -> FileKind | None:
    """What the first bytes of a file say that it is; None if neither, or if it cannot be read."""
    try:
        if not is_plain_file(path):
            return None
        with open_plain(path) as file:
            beginning = file.read(_BEGINNING)
    except (InputError, OSError):
        return None
    if _PICTURES.match(beginning):
        return "picture"
    return "video" if _VIDEOS.match(beginning) else None
