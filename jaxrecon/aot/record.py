"""What `export.json` says of the program beside it."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from jaxrecon.errors import InputError, WeightsError
from jaxrecon.images import ImageRule
from jaxrecon.images.resize import Fit
from jaxrecon.pipeline import (
    CameraConfig,
    MaskConfig,
    ModelDefaults,
    ProgramKey,
)
from jaxrecon.reading import read_bytes, read_json, shown
from jaxrecon.registry.entries import FAMILIES
from jaxrecon.registry.loading import RECORD_NAME
from jaxrecon.runtime.bucketing import check_program_size
from jaxrecon.runtime.cameras import FittedIntrinsics, PrincipalPoint
from jaxrecon.runtime.defaults import PointsChoice
from jaxrecon.structured import structured

WEIGHTS_FOLDER = "weights"
FORMAT_VERSION = 1

PLATFORMS = ("cpu", "cuda", "tpu")
MOST_PIXELS = 2**36
"""Of all views together, that a record may name."""
RULES = {type(family.resize).__name__: type(family.resize) for family in FAMILIES.values()}


_VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){1,3}([.+A-Za-z][.+\w]{0,60})?", re.ASCII)
"""Of JAX: 0.12.0, or 0.12.0.dev20260101+abc."""

STORED_NAMES = {
    "min_confidence": "min_confidence",
    "confidence_quantile": "confidence_quantile",
    "edge_rtol": "edge_rtol",
    "valid_region": "frames",
    "num_valid_views": "views",
}
"""What stored programs call their arguments, all of which each takes, by fields of
`RuntimeInputs`."""


@dataclass(frozen=True)
class StoredOptions:
    """What is compiled into a stored program, under the names that files have for it.

    Attributes:
      intrinsics, principal_point: see `CameraConfig`.
      use_quantile, use_edges, use_view_quantile: whether the mask looks at the scene's quantile,
        at depth edges, and at each view's quantile.
      strict_edges, points, multiview, maps: see `ProgramKey`.
      framed, padded: whether it takes `valid_region`, and `num_valid_views`.
      conditioned: whether it takes priors.

    Raises:
      InputError: a way to fit cameras is unknown.
    """

    intrinsics: FittedIntrinsics = "per_view"
    principal_point: PrincipalPoint = "free"
    use_quantile: bool = False
    use_edges: bool = True
    strict_edges: bool = False
    points: PointsChoice | None = None
    framed: bool = False
    padded: bool = False
    conditioned: bool = False
    use_view_quantile: bool = False
    multiview: bool = False
    maps: bool = False

    def __post_init__(self) -> None:
        CameraConfig(self.intrinsics, self.principal_point)

    @classmethod
    def of(cls, key: ProgramKey) -> "StoredOptions":
        """What a file says of a program."""
        flags = {flag: name in key.inputs for flag, name in _FLAGS.items()}
        return cls(
            intrinsics=key.camera.intrinsics,
            principal_point=key.camera.principal_point,
            points=key.points,
            strict_edges=key.strict_edges,
            conditioned=key.priors,
            multiview=key.multiview,
            maps=key.maps,
            **flags,
        )


_FLAGS = {
    "use_quantile": "confidence_quantile",
    "use_edges": "edge_rtol",
    "use_view_quantile": "view_confidence_quantile",
    "framed": "valid_region",
    "padded": "num_valid_views",
}
"""Inputs of a program by what files call the choice to look at them."""


@dataclass(frozen=True)
class ProgramFile:
    """The program for one platform.

    Attributes:
      file: its name in the folder.
      sha256: of its bytes.
      device_kind: the accelerator for which kernels were chosen.
      custom_calls: what it calls beside XLA's own operations.
    """

    file: str
    sha256: str
    device_kind: str
    custom_calls: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """An exported program.

    Attributes:
      model: what the model is called in results.
      views, width, height: the most views, and the size of the processed images in pixels.
      options: the choices that are compiled into the program.
      min_confidence, confidence_quantile: of the mask, where the caller gives none.
      rule, rule_fields: how images are brought to size: one of `RULES`, and its values.
      programs: by platform.
      jax_version: of the JAX that wrote the programs.
    """

    model: str
    views: int
    width: int
    height: int
    options: StoredOptions
    min_confidence: float
    confidence_quantile: float
    rule: str
    rule_fields: dict[str, Any]
    programs: dict[str, ProgramFile]
    jax_version: str

    @property
    def defaults(self) -> ModelDefaults:
        """What the program's model does where the caller does not say."""
        return ModelDefaults(self.min_confidence, self.confidence_quantile)

    @property
    def image_rule(self) -> "ProgramRule":
        """How images become what the program takes."""
        rule: ImageRule = structured(RULES[self.rule], self.rule_fields)
        return ProgramRule(rule.patch, rule, (self.width, self.height), self.views)


@dataclass(frozen=True)
class ProgramRule(ImageRule):
    """A model's own rule, held to what a program was made for.

    Attributes:
      rule: the model's.
      size: width and height that the processed images must have.
      views: the most images.
    """

    rule: ImageRule
    size: tuple[int, int]
    views: int
    uses_all_sizes: ClassVar[bool] = True

    def fit(self, width: int, height: int, *, resolution: int | None = None) -> Fit:
        """As `fit_all` with this image alone."""
        return self.fit_all([(width, height)], resolution=resolution)

    def fit_all(self, sizes: Sequence[tuple[int, int]], *, resolution: int | None = None) -> Fit:
        """How the rule brings these images to the program's size.

        Without a resolution the rule's own size is tried, then the program's longest side.

        Raises:
          InputError: the images are too many, or come to another size.
        """
        check_views(len(sizes), self.views)
        tried = (None, max(self.size)) if resolution is None else (resolution,)
        found = []
        for longest in tried:
            fit = self.rule.fit_all(sizes, resolution=longest)
            found.append(_common_size([fit.transform(size).size for size in sizes]))
            if found[-1] == self.size:
                return fit
        width, height = sizes[0]
        raise InputError(
            f"images: the first of {width}x{height} pixels would be processed at "
            f"{' or '.join(map(_times, dict.fromkeys(found)))}, the program was made for "
            f"{_times(self.size)}; give images of that shape, or export one for theirs"
        )


def check_views(views: int, most: int) -> None:
    """Refuses more views than a program takes.

    Raises:
      InputError: naming both numbers.
    """
    if views > most:
        raise InputError(
            f"images: found {views}, the program was made for up to {most} views; give fewer "
            "(stride), or export one for more"
        )


def write_record(record: Record, folder: Path) -> None:
    """Writes `export.json`."""
    values = {"format": "jaxrecon-export", "format_version": FORMAT_VERSION, **asdict(record)}
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    (folder / RECORD_NAME).write_text(text, encoding="utf-8")


def read_record(folder: Path) -> Record:
    """Reads `export.json`.

    Raises:
      InputError: it is absent.
      WeightsError: it is damaged, of something else, or of a format that this version can't read.
    """
    path = folder / RECORD_NAME
    if not os.path.lexists(path):
        raise InputError(
            f"{folder} is not an exported program: it holds no {RECORD_NAME}; write one with "
            "`jaxrecon compile`"
        )
    values = read_json(path, advice="export the program again", kind=WeightsError)
    if not isinstance(values, dict) or values.pop("format", None) != "jaxrecon-export":
        raise WeightsError(
            f"{path} does not describe an exported program; write one with `jaxrecon compile`"
        )
    version = values.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format_version {version}, this version reads {FORMAT_VERSION}; install "
            "a newer jaxrecon or export the program again"
        )
    try:
        record = structured(Record, values)
        _check(record)
    except ValueError as error:
        raise WeightsError(f"{path} is damaged ({error}); export the program again") from error
    return record


def read_program(folder: Path, program: ProgramFile) -> bytes:
    """The bytes of a program, compared with what `export.json` says of them.

    Raises:
      WeightsError: they are absent or have changed.
    """
    path = folder / program.file
    data = read_bytes(path, advice="copy or export the program again", kind=WeightsError)
    if hashlib.sha256(data).hexdigest() != program.sha256:
        raise WeightsError(
            f"{path} is damaged: its bytes have changed since it was written; copy or export the "
            "program again"
        )
    return data


def _check(record: Record) -> None:
    """Refuses values that no export writes.

    Raises:
      ValueError: naming one.
    """
    if record.rule not in RULES:
        raise ValueError(f"rule {record.rule!r} is unknown; known: {', '.join(RULES)}")
    if record.views * record.width * record.height > MOST_PIXELS:
        raise ValueError(
            f"no machine holds {record.views} images of {record.width}x{record.height} pixels"
        )
    check_program_size(record.views, (record.width, record.height), record.image_rule.patch)
    MaskConfig(record.min_confidence, record.confidence_quantile)
    options = record.options
    if options.conditioned or options.multiview or options.maps or options.use_view_quantile:
        raise ValueError("options name what no program in a file can do")
    if not record.programs:
        raise ValueError("programs: there is none")
    if not _VERSION.fullmatch(record.jax_version):
        raise ValueError(f"jax_version is {shown(record.jax_version)}, no version of JAX")
    for program in record.programs.values():
        if Path(program.file).name != program.file:
            raise ValueError(f"{program.file!r} is not the name of a file")


def _common_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The size of images that are laid in the middle of the largest."""
    return max(width for width, _ in sizes), max(height for _, height in sizes)


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
