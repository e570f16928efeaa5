"""The stopwatch, and records that outlive a full disk."""

import errno
import json
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from vae.records import Journal, cut
from vae.tracking import Stopwatch


def test_a_paused_stopwatch_stands_still_and_goes_on_from_there() -> None:
    watch = Stopwatch(torch.device("cpu"), seconds=100.0, lap_started=90.0)
    began = time.perf_counter()
    time.sleep(0.02)
    with watch.paused("evaluation"):
        before, trained = watch.seconds, time.perf_counter() - began
        assert 100.02 <= before <= 100 + trained
        time.sleep(0.05)
        assert watch.seconds == before
    ended_pause = time.perf_counter()
    time.sleep(0.02)
    assert before + 0.02 <= watch.seconds <= before + time.perf_counter() - ended_pause + 1e-3
    assert watch.lap() == pytest.approx(watch.seconds - 90, abs=1e-3)
    assert watch.lap() < 1


class FullDisk:
    """A file on a disk with room for so many bytes more, which takes what it can before it says so."""

    def __init__(self, path: Path, room: int):
        self.file, self.room = path.open("ab", buffering=0), room
        self.truncate, self.seek, self.fileno, self.close = (
            self.file.truncate, self.file.seek, self.file.fileno, self.file.close,
        )  # fmt: skip

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.file.write(data[: self.room])
        self.room -= taken
        return taken


def test_lines_that_find_no_room_are_written_later_in_order_and_none_is_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, warnings = tmp_path / "metrics.jsonl", list[str]()
    journal = Journal(path, warnings.append)
    journal.append({"step": 1})
    journal.close()
    disk = FullDisk(path, room=5)
    monkeypatch.setattr(journal, "_file", disk)
    for step in (2, 3):
        journal.append({"step": step})
        assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1}]
    with pytest.raises(OSError, match="No space left"):
        journal.flush()
    assert len(warnings) == 1
    disk.room = 1000
    journal.append({"step": 4})
    journal.flush()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
    disk.close()


def test_a_journal_is_cut_back_to_a_step_and_loses_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 5}\n{"step": 2}\n{"step": 2')
    cut(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_no_line_is_lost_while_another_thread_flushes(tmp_path: Path) -> None:
    """As the thread that writes checkpoints does; switching threads often makes a lost line likely without a lock."""
    journal, over, interval = Journal(tmp_path / "metrics.jsonl", print), threading.Event(), sys.getswitchinterval()

    def flush() -> None:
        while not over.is_set():
            journal.flush()

    flushing = threading.Thread(target=flush)
    sys.setswitchinterval(1e-6)
    try:
        flushing.start()
        for step in range(3000):
            journal.append({"step": step})
    finally:
        over.set()
        flushing.join()
        sys.setswitchinterval(interval)
        journal.close()
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(3000))
