"""Where the weights of released models lie: fetched from upstream and converted on first use."""

import shlex
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from convert.sources import check_readable, open_source
from jaxrecon import checkpoint
from jaxrecon.checks import truth_value
from jaxrecon.environment import HOME
from jaxrecon.errors import InputError, OutputError, WeightsError
from jaxrecon.files import check_output_folder, output_error, sweep, waiting_for
from jaxrecon.hub import cache_folder, fetch
from jaxrecon.progress import Stages, quiet_stages
from jaxrecon.registry.entries import BUNDLED, Bundled, HubFile, ModelEntry


def native_folder(
    entry: ModelEntry, *, revision: str | None = None, stages: Stages | None = None
) -> Path:
    """The folder of a released model's native weights; fetched and converted if need be.

    Raises:
      WeightsError: the weights are not here and cannot be fetched.
      OutputError: the cache folder cannot be written, or holds other files in the weights' place.
    """
    stages = quiet_stages(stages)
    folder = local_folder(entry, revision=revision)
    if checkpoint.is_native(folder):
        if isinstance(entry.source, HubFile):
            _sweep(folder)
        return folder
    if isinstance(entry.source, Bundled):
        raise WeightsError(
            f"the weights of {entry.name} are not in {folder}: this installation has none; "
            "train them with `jaxrecon train` and give their folder as `weights`"
        )
    try:
        with waiting_for(_lock_of(folder), lambda: stages.note(_waiting(entry))):
            if not checkpoint.is_native(folder):  # another process may just have made it
                _fetch_and_convert(entry, entry.source, folder, revision, stages)
    except OSError as error:
        raise error if isinstance(error, OutputError) else output_error(folder, error) from error
    return folder


def _lock_of(folder: Path) -> Path:
    """What stands for the right to fetch and convert a model."""
    return folder.with_name(f".{folder.name}.lock")


def _waiting(entry: ModelEntry) -> str:
    return f"another process is fetching the weights of {entry.name}: waiting for it"


def _sweep(folder: Path) -> None:
    """Removes what a process left that was killed while it fetched and converted."""
    with suppress(OutputError):  # another process is about to end
        sweep(folder)
    lock = _lock_of(folder)
    if lock.exists():
        with suppress(OSError), waiting_for(lock, lambda: None):
            pass


def local_folder(entry: ModelEntry, *, revision: str | None = None) -> Path:
    """Where a released model's native weights are kept, whether they are there or not."""
    if isinstance(entry.source, Bundled):
        return entry.source.folder
    name = entry.name if revision is None else f"{entry.name}@{revision.replace('/', '_')}"
    return cache_folder() / name


def is_here(entry: ModelEntry) -> bool:
    """Whether a model's native weights are on this machine."""
    try:
        return checkpoint.is_native(local_folder(entry))
    except WeightsError:  # there is no place for them
        return False


def _fetch_and_convert(
    entry: ModelEntry, source: HubFile, folder: Path, revision: str | None, stages: Stages
) -> None:
    check_readable(source.filename)
    _check_free(entry, folder)
    way_out = (
        f"take the small bundled model, {BUNDLED} (-m {BUNDLED}), or on a connected machine "
        f"download {source.filename} of the Hugging Face repository {source.repo}, then run: "
        f"jaxrecon convert {entry.name} {source.filename} -o {shlex.quote(str(folder))}"
    )
    with stages.stage("fetch", bar=False):
        fetched = fetch(
            source.repo, source.filename, revision=revision, way_out=way_out, quiet=stages.quiet
        )
    with stages.stage("convert"):
        try:
            convert_weights(entry, fetched, folder)
        except WeightsError as error:
            error.args = (f"{error}; delete it from the hub's cache to have it downloaded again",)
            raise
        except OutputError:
            if not checkpoint.is_native(folder):  # else another process made it, without locks
                raise


def _check_free(entry: ModelEntry, folder: Path) -> None:
    """Refuses a folder that cannot be written, or in which there are files of others.

    Raises:
      OutputError: see above.
    """
    check_output_folder(folder, overwrite=True)
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(
            f"cannot write {folder}: the weights of {entry.name} are to be kept there, but it "
            f"holds other files; move them, or set {HOME} to another folder"
        )


def convert_weights(
    entry: ModelEntry,
    source: str | Path,
    folder: str | Path,
    *,
    overwrite: bool = False,
    int8: bool = False,
) -> None:
    """Converts an upstream weight file, or another native checkpoint, into a native checkpoint.

    Args:
      entry: the model.
      source: see `convert.sources.open_source`; or the folder of a native checkpoint.
      folder: the checkpoint to write.
      overwrite: replace the folder if it exists.
      int8: store large matrices in 8 bits; see `checkpoint.write`.

    Raises:
      InputError: the model has no upstream, or the native checkpoint is another model's.
      WeightsError: a tensor is missing, unexpected or of another shape, or the file is damaged.
      OutputError: the folder exists and is not empty, holds the source, or cannot be written.
    """
    truth_value("int8", int8)
    if checkpoint.is_native(source):
        found = checkpoint.read_config(source)["model"]
        if found != entry.name:
            raise InputError(f"{source} holds {found[:100]}, not {entry.name}; name that model")
        checkpoint.rewrite(source, folder, overwrite=overwrite, int8=int8)
        return
    if isinstance(entry.source, Bundled):
        raise InputError(
            f"{entry.name} has no upstream weights to convert: its own ship with the package; "
            "load it by its name"
        )
    family, names = entry.family, open_source(source).specs
    parts = {part.name for part in family.optional_parts if part.is_among(names)}
    entry = replace(entry, config=family.configured(entry.config, parts))
    checkpoint.convert_checkpoint(
        Path(source),
        Path(folder),
        rules=family.rules,
        ignored=family.ignored_among(names, entry.config),
        targets=checkpoint.shapes(family.abstract(entry.config)),
        header=entry.header,
        overwrite=overwrite,
        int8=int8,
    )
