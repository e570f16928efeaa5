"""Connections over which nothing is said: the operating system closes one when the process at its other end is gone."""

import contextlib
import os
import selectors
import socket
import sys

RANK_BYTES = 4  # by which a rank introduces itself
SECONDS_TO_CONNECT = 30.0
# a node that is gone closes nothing: the kernel asks it after 10 seconds of silence, four times, five seconds apart
KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
STRANGER = -1  # whoever has not introduced itself as a rank


class Lifelines:
    """A TCP connection between rank 0 and each other rank, open for as long as both processes live.

    A process that is busy or frozen keeps its connections, so silence is never taken for death.

    Args:
        rank: of this process.
        world_size: how many ranks there are.

    Attributes:
        port: at which rank 0 listens; 0 on the others.
    """

    def __init__(self, rank: int, world_size: int):
        self.rank, self.port = rank, 0
        self._expected, self._closed = set(range(1, world_size)), set[int]()
        self._lines, self._server = selectors.DefaultSelector(), None
        if rank == 0:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            self._server = socket.create_server(("", 0), family=family, backlog=world_size, dualstack_ipv6=both)
            self._server.setblocking(False)
            self._lines.register(self._server, selectors.EVENT_READ)
            self.port = self._server.getsockname()[1]

    def connect(self, host: str, port: int) -> None:
        """Connect to rank 0, which listens at `port`; raises `OSError`. On rank 0 nothing."""
        if self.rank != 0:
            line = socket.create_connection((host, port), SECONDS_TO_CONNECT)
            line.sendall(self.rank.to_bytes(RANK_BYTES, "big"))
            self._watch(line, 0)

    def closed(self) -> frozenset[int]:
        """Return the ranks that are gone: on rank 0 all that are, elsewhere rank 0 alone if it is. Never waits."""
        for key, _ in self._lines.select(0):
            if self._server is not None and key.fileobj is self._server:
                self._accept(self._server)
            else:
                self._read(key.fd, key.data)
        return frozenset(self._closed)

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the caller is gone again
            line, _ = server.accept()
            self._watch(line, STRANGER)

    def _watch(self, line: socket.socket, rank: int) -> None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform == "linux":
            for name, value in KEEP_ALIVE.items():
                line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        line.setblocking(False)
        self._lines.register(line.detach(), selectors.EVENT_READ, rank)  # the end of the process closes it

    def _read(self, line: int, rank: int) -> None:
        """Note who is at the other end of a connection, or that nobody is any more."""
        said = b""
        with contextlib.suppress(OSError):
            said = os.read(line, RANK_BYTES)
        if rank == STRANGER and (name := int.from_bytes(said, "big")) in self._expected:
            self._expected.remove(name)
            self._lines.modify(line, selectors.EVENT_READ, name)
        elif rank == STRANGER or not said:
            self._closed |= {rank} - {STRANGER}
            self._lines.unregister(line)
            os.close(line)
        if self._server is not None and not self._expected:
            self._lines.unregister(self._server)
            self._server.close()
            self._server = None
