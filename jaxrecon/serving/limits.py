"""How much visitors may ask for."""

from dataclasses import dataclass

from jaxrecon.checks import whole_number


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
      upload_bytes: of one job, all files together.
      files: of one job.
      views: photos or video frames that are reconstructed together.
      resolution: longest side of processed images, in pixels.
      waiting: jobs that wait while one runs.
      uploads: jobs that are sent at the same time.
      watchers: streams of progress at the same time.
      stall_seconds: after which an upload that sends nothing ends.
      unwatched_seconds: after which a job that is to end with its page does, once the page is gone.

    Raises:
      InputError: one is no whole number of at least 1 (seconds aside).
    """

    upload_bytes: int = 2 * 2**30
    files: int = 500
    views: int = 200
    resolution: int = 1024
    waiting: int = 8
    uploads: int = 4
    watchers: int = 64
    stall_seconds: float = 30.0
    unwatched_seconds: float = 10.0

    def __post_init__(self) -> None:
        for name in ("upload_bytes", "files", "views", "resolution", "waiting"):
            whole_number(name, getattr(self, name), least=1)
