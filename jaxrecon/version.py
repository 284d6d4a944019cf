"""The version, which the wheel and the command line take from here."""

__version__ = "0.1.0"
