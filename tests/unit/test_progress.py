"""Stages: what is timed, what is shown."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxrecon.progress import Stages


def test_times_are_kept_in_order_and_add_up(capsys: pytest.CaptureFixture) -> None:
    stages = Stages(quiet=True)
    with stages.stage("read"):
        time.sleep(0.02)
    with stages.stage("run", total=2) as done:
        done()
    with stages.stage("read"):
        time.sleep(0.02)
    assert list(stages.seconds) == ["read", "run"]
    assert 0.04 <= stages.seconds["read"] < 2
    stages.note("unseen")
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_each_stage_is_one_line(capsys: pytest.CaptureFixture) -> None:
    stages = Stages()
    with stages.stage("read", total=3):
        pass
    stages.note("[weights] stay as they are")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["     read (3): 0.00 s", "[weights] stay as they are"]


def test_a_stage_that_fails_is_not_timed() -> None:
    stages = Stages(quiet=True)
    with pytest.raises(ValueError), stages.stage("run"):
        raise ValueError
    assert "run" not in stages.seconds


def test_stages_that_overlap_share_one_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    stages = Stages()
    assert stages._console.is_terminal
    with stages.stage("compile"):
        display = stages._bars
        with ThreadPoolExecutor(1) as pool:

            def read() -> None:
                with stages.stage("read", total=2) as done:
                    assert stages._bars is display
                    done()

            pool.submit(read).result()
        assert stages._bars is display
    assert stages._bars is None
    assert list(stages.seconds) == ["read", "compile"]
