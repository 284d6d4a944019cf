"""`python -m jaxrecon` is the command line."""

import sys

from jaxrecon.cli import main

sys.exit(main())
