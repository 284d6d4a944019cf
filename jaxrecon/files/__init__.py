"""Writing files so that a reader sees the old content or the new, never a part of it."""

from jaxrecon.files.folders import check_output_folder, replacing_folder
from jaxrecon.files.interrupts import uninterrupted
from jaxrecon.files.locks import check_unheld, holding_folder, waiting_for
from jaxrecon.files.refusals import check_writable, output_error, output_error_of_text
from jaxrecon.files.single import check_output_file, replacing_file
from jaxrecon.files.staging import sweep

__all__ = [
    "check_output_file",
    "check_output_folder",
    "check_unheld",
    "check_writable",
    "holding_folder",
    "output_error",
    "output_error_of_text",
    "replacing_file",
    "replacing_folder",
    "sweep",
    "uninterrupted",
    "waiting_for",
]
