"""Files of others, read under guard: nothing in them is trusted, and nothing of them is run.

Everything here raises one error of ours, on one line, whatever the file holds. Only plain files are
opened, sizes are compared with the file before memory is taken for them, and what is compressed is
unpacked up to a limit (`unpacked_limit`).
"""

from jaxrecon.reading.json_files import parse_json, read_json, shown
from jaxrecon.reading.npz_files import ArrayHeader, NpzArchive, open_npz
from jaxrecon.reading.paths import inside, is_file_name
from jaxrecon.reading.plain_files import (
    absence,
    is_folder,
    is_plain_file,
    obstacle,
    open_plain,
    read_bytes,
    read_lines,
    read_text,
    unpacked_limit,
)
from jaxrecon.reading.values import number, numbers, parse_number, parse_whole, text, whole

__all__ = [
    "ArrayHeader",
    "NpzArchive",
    "absence",
    "inside",
    "is_file_name",
    "is_folder",
    "is_plain_file",
    "number",
    "numbers",
    "obstacle",
    "open_npz",
    "open_plain",
    "parse_json",
    "parse_number",
    "parse_whole",
    "read_bytes",
    "read_json",
    "read_lines",
    "read_text",
    "shown",
    "text",
    "unpacked_limit",
    "whole",
]
