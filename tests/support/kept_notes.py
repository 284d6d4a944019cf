"""Stages whose notes a test can read."""

from jaxrecon.progress import Stages


class KeptNotes(Stages):
    """Quiet, but for the notes, which are kept."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keeps a note."""
        self.notes.append(text)
