"""A rank that dies or hangs: the others notice, name it and end, instead of waiting in a collective for ever."""

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch.distributed import DistStoreError, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from vae.distributed.ending import abandon
from vae.distributed.lifelines import Lifelines
from vae.errors import RankLostError

SECONDS_BETWEEN_BEATS = 1.0  # or more in a large world: each rank reads all others
BEATS_TO_MISS = 3  # in a row, before a rank is called missing
MAIN_HAS_COME = "main has come"  # a key of the store


@dataclass
class Peer:
    """Another rank: the place it runs at, the last step it began, and the time it was last heard of.

    Rank 0 also says which connections are closed.
    """

    where: str
    step: int = 0
    beat: str = ""
    heard_at: float = 0.0
    closed: frozenset[int] = frozenset()


class Watchdog:
    """Exchanges signs of life with the other ranks, through a store of its own that rank 0 holds.

    A thread writes this rank's step there and reads the others'. Another one ends the process, whatever the main thread
    is waiting in, when that has not moved on for `timeout` seconds; or for a few, where the process of another rank is
    gone. (NCCL, other than gloo, raises nothing then.) A rank that is silent is not gone: it may be busy, or frozen and
    go on. With one process there is nothing to watch.

    Args:
        accelerator: the process group.
        timeout: seconds without progress.
        environment: `os.environ`: MASTER_ADDR, which is rank 0's host.
        limit: name of the setting that `timeout` is.
    """

    def __init__(
        self, accelerator: Accelerator, timeout: float, environment: Mapping[str, str], limit: str = "train.timeout"
    ):
        self.rank, self.world_size, self.timeout = accelerator.process_index, accelerator.num_processes, timeout
        self._limit = limit
        self.interval = min(max(SECONDS_BETWEEN_BEATS, self.world_size / 64), timeout / 10)
        self._patience = max(1.0, self.interval)  # with the store
        self._patience_for_the_gone = 2 * BEATS_TO_MISS * self.interval + 2.0  # gloo's own error comes sooner
        self.step, self._moved_at, self._over = 0, time.monotonic(), threading.Event()
        if self.world_size > 1:
            self._begin(environment["MASTER_ADDR"])

    def beat(self, step: int) -> None:
        """Say that the main thread has moved on to `step`."""
        self.step, self._moved_at = step, time.monotonic()

    def dismiss(self) -> None:
        """Stop watching: from here on the ranks do different things."""
        self._moved_at = math.inf

    def wait_for_main(self) -> None:
        """Wait until the main process has come here too, for as long as it gives signs of life (all ranks).

        A collective would give up after the group's time-out, which NCCL does not leave to be waited out.
        """
        if self.world_size == 1:
            return
        if self.rank == 0:
            self._store.set(MAIN_HAS_COME, "")
        while not self._store.check([MAIN_HAS_COME]):
            self._moved_at = self._peers[0].heard_at
            time.sleep(self.interval / 4)
        self.beat(self.step)  # what all do together from here on is watched again

    @contextlib.contextmanager
    def guarding(self) -> Iterator[None]:
        """Watch over a block that all ranks run together.

        Raises:
            RankLostError: in place of a collective's own error, when another rank is missing.
        """
        threads = []
        if self.world_size > 1:
            threads = [
                threading.Thread(target=self._exchange, name="signs of life", daemon=True),
                threading.Thread(target=self._guard, name="watchdog", daemon=True),
            ]
        self.beat(self.step)
        for thread in threads:
            thread.start()
        try:
            yield
        except RuntimeError as error:
            # errors of ours are raised on all ranks together; the collectives' own are of these types alone
            if threads and type(error).__name__ in ("RuntimeError", "DistBackendError", "DistNetworkError"):
                self.dismiss()
                if self._missing_after_a_while():
                    message = f"rank {self.rank}: cannot go on after step {self.step:,}: {self._describe()}"
                    raise RankLostError(message, speaks=self.speaks) from error
            raise
        finally:
            # a thread inside the store's C++ code when the interpreter ends would abort the process
            self._over.set()
            for thread in threads:
                # a frozen rank 0 never answers: the store's client waits for it without a limit, this rank must not
                thread.join(3 * self._patience)

    def _begin(self, host: str) -> None:
        patience = timedelta(seconds=self._patience)
        self._lifelines, self._closed = Lifelines(self.rank, self.world_size), frozenset[int]()
        ports = [0, 0]
        if self.rank == 0:
            self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=patience)
            ports = [self._store.port, self._lifelines.port]
        broadcast_object_list(ports)
        if self.rank != 0:
            self._store = TCPStore(host, ports[0], is_master=False, timeout=timedelta(seconds=self.timeout))
            self._store.set_timeout(patience)
        self._exchanged_at, self._store_is_gone = time.monotonic(), False
        self._write(0)
        here = f"{socket.gethostname()}, pid {os.getpid()}"
        places = gather_object([here])  # all ranks: from here on every rank's entry is there to be read
        self._peers = [Peer(where, heard_at=time.monotonic()) for where in places]
        self._lifelines.connect(host, ports[1])

    def _write(self, beat: int) -> None:
        self._store.set(str(self.rank), f"{beat}|{self.step}|{' '.join(map(str, self._closed))}")

    def _exchange(self) -> None:
        beat, keys = 0, [str(rank) for rank in range(self.world_size)]
        while not self._over.is_set():
            beat += 1
            try:
                self._write(beat)
                entries = self._store.multi_get(keys)
            except DistStoreError:  # no answer in time: of a rank 0 that was frozen, say
                continue
            except RuntimeError:
                self._store_is_gone = True
                return
            now = time.monotonic()
            for peer, entry in zip(self._peers, entries, strict=True):
                latest, step, closed = entry.decode().split("|")
                if latest != peer.beat:
                    peer.beat, peer.step, peer.heard_at = latest, int(step), now
                    peer.closed = frozenset(map(int, closed.split()))
            self._exchanged_at = now
            self._over.wait(self.interval)

    def _guard(self) -> None:
        """End the process where the main thread may be inside a collective that nothing else ends."""
        while not self._over.wait(self.interval / 2):
            self._closed = self._lifelines.closed()
            waited, problem = time.monotonic() - self._moved_at, ""
            if waited > self.timeout:
                problem = f"no progress for {self._limit} = {self.timeout:g} s at step {self.step:,}"
            elif waited > self._patience_for_the_gone and self._gone():
                problem = f"cannot go on after step {self.step:,}"
            if problem:
                abandon(f"rank {self.rank}: {problem}: {self._describe()}" if self.speaks else None)

    def _gone(self) -> frozenset[int]:
        """Return the ranks whose process has ended: it is silent, and its connection closed."""
        return (self._closed | self._peers[0].closed) & frozenset(self._missing())

    def _missing(self) -> list[int]:
        """Return the ranks of which nothing was heard for a while; if rank 0 is silent nothing is known of others."""
        limit = time.monotonic() - BEATS_TO_MISS * self.interval - 0.5
        if self.rank != 0 and (self._store_is_gone or self._exchanged_at < limit):
            return [0]
        return [rank for rank, peer in enumerate(self._peers) if rank != self.rank and peer.heard_at < limit]

    def _missing_after_a_while(self) -> list[int]:
        deadline = time.monotonic() + (BEATS_TO_MISS + 1) * self.interval + 1
        while not self._missing() and time.monotonic() < deadline:
            time.sleep(0.05)
        return self._missing()

    @property
    def speaks(self) -> bool:
        """True on the first of the ranks that are left: it reports what they all find out alike."""
        missing = self._missing()
        return self.rank == next(rank for rank in range(self.world_size) if rank not in missing)

    def _describe(self) -> str:
        if missing := self._missing():
            return "; ".join(self._describe_rank(rank, "gives no sign of life") for rank in missing)
        steps = [self.step if rank == self.rank else peer.step for rank, peer in enumerate(self._peers)]
        behind = [rank for rank, step in enumerate(steps) if step == min(steps) < max(steps)]
        if behind:
            return "; ".join(self._describe_rank(rank, "is alive but behind") for rank in behind)
        return "all ranks are alive and wait at the same step"

    def _describe_rank(self, rank: int, what: str) -> str:
        peer = self._peers[rank]
        silent = time.monotonic() - peer.heard_at
        return f"rank {rank} ({peer.where}) {what}, last heard of {silent:.0f} s ago at step {peer.step:,}"
