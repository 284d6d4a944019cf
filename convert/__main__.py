"""`python -m convert` is `jaxrecon convert`."""

import sys

from jaxrecon.cli import main

sys.exit(main(["convert", *sys.argv[1:]]))
