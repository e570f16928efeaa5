"""Connections that tell which process is gone: rank 0's side and the other one, each against a plain socket."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from vae.distributed import lifelines
from vae.distributed.lifelines import Lifelines

HOST = "127.0.0.1"
Call = Callable[[bytes], socket.socket]


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return condition()


def hung_up(lines: Lifelines, line: socket.socket) -> bool:
    """Return whether the other end closes a connection, when it looks."""
    line.setblocking(False)

    def ended() -> bool:
        lines.closed()
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            return line.recv(1) == b""
        return False

    return soon(ended)


@pytest.fixture
def main() -> Iterator[Lifelines]:
    lines = Lifelines(0, 4)
    yield lines
    if lines._server is not None:
        lines._server.close()


@pytest.fixture
def call(main: Lifelines) -> Call:
    def connect(said: bytes) -> socket.socket:
        line = socket.create_connection((HOST, main.port))
        line.sendall(said)
        return line

    return connect


def name(rank: int) -> bytes:
    return rank.to_bytes(lifelines.RANK_BYTES, "big")


def test_rank_0_knows_who_is_gone_and_who_has_not_come_is_not(main: Lifelines, call: Call) -> None:
    with call(name(1)), call(name(2)) as two:
        two.close()
        assert soon(lambda: main.closed() == {2})
    assert soon(lambda: main.closed() == {1, 2})


def test_the_others_know_that_rank_0_is_gone() -> None:
    with socket.create_server((HOST, 0)) as server:
        lines = Lifelines(3, 4)
        lines.connect(HOST, server.getsockname()[1])
        line, _ = server.accept()
    with line:
        assert line.recv(100) == name(3)
        assert lines.closed() == set()
    assert soon(lambda: lines.closed() == {0})


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", name(0), name(4), name(1)])
def test_strangers_are_sent_away_and_are_nobodys_death(main: Lifelines, call: Call, said: bytes) -> None:
    with call(name(1)):
        assert soon(lambda: len(main.closed()) == 0 and 1 not in main._expected)
        with call(said) as stranger:
            assert hung_up(main, stranger)
        with call(name(2)) as two:
            two.close()
            assert soon(lambda: main.closed() == {2})


def test_when_all_have_come_nobody_else_can(main: Lifelines, call: Call) -> None:
    def refused() -> bool:
        main.closed()
        try:
            call(b"").close()
        except ConnectionError:
            return True
        return False

    with call(name(1)), call(name(2)), call(name(3)):
        assert soon(refused)
    assert soon(lambda: main.closed() == {1, 2, 3})
