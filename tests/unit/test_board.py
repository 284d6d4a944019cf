"""The log of a run as TensorBoard reads it."""

import errno
import sys
from pathlib import Path

import pytest

from jaxrecon.errors import InputError, OutputError
from jaxrecon.training.board import Board
from jaxrecon.training.log import Log
from tensorboard_events import read_events, read_scalars

pytest.importorskip("tensorboardX")


def test_each_line_of_the_log_is_an_event(tmp_path: Path) -> None:
    with Board(tmp_path / "tensorboard", upto=-1) as board:
        log = Log(tmp_path / "log.jsonl", upto=-1, board=board)
        log.add(2, loss=0.5, abs_rel=0.25)
        log.add(2, validation_auc30=0.125)
        log.add(4, loss=float("nan"), held_out_abs_rel=2.0)
        found = read_scalars(tmp_path / "tensorboard")  # each is there at once
    assert found[:2] == [
        (2, {"train/loss": 0.5, "train/abs_rel": 0.25}),
        (2, {"validation/auc30": 0.125}),
    ]
    step, values = found[2]
    assert (step, values["held out/abs_rel"]) == (4, 2.0)
    assert values["train/loss"] != values["train/loss"]


def test_a_run_that_goes_on_takes_back_what_it_takes_again(tmp_path: Path) -> None:
    with Board(tmp_path, upto=-1) as board:
        board.add(8, {"loss": 1.0})
    with Board(tmp_path, upto=6) as board:
        board.add(8, {"loss": 2.0})
    assert [values["train/loss"] for _, values in read_scalars(tmp_path)] == [1.0, 2.0]
    started = [event for event in read_events(tmp_path) if event.HasField("session_log")]
    assert [event.step for event in started] == [0, 7]  # later events of earlier files do not count


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Board(tmp_path / "tensorboard", upto=-1) as board, monkeypatch.context() as patch:
        patch.setattr(board._writer, "flush", full)
        with pytest.raises(OutputError, match=r"tensorboard.*the disk is full"):
            board.add(2, {"loss": 1.0})


@pytest.mark.parametrize("before", [False, True])
def test_a_disk_that_stays_full_is_one_line(
    before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be written is written once more where the file is closed."""
    board = Board(tmp_path / "tensorboard", upto=-1)

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close_full() -> None:
        monkeypatch.undo()
        board._writer.close()
        full()

    monkeypatch.setattr(board._writer, "close", close_full)
    with pytest.raises(OutputError, match=r"tensorboard.*the disk is full"), board:
        if before:
            monkeypatch.setattr(board._writer, "flush", full)
            board.add(2, {"loss": 1.0})


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        Board(tmp_path / "file" / "tensorboard", upto=-1)


def test_without_the_library_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    with pytest.raises(InputError, match=r"pip install jaxrecon\[tensorboard\]"):
        Board(tmp_path / "tensorboard", upto=-1)
    assert not (tmp_path / "tensorboard").exists()
