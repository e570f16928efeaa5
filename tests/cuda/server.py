"""A process under the fake runtime that has imported everything, and forks a program whenever it is asked to.

Beside tests/helpers/forking.py, whose server runs without a CUDA device. A forked program ends as any interpreter does:
the order in which graphs, process groups and contexts go away at the end of a process is part of what is tested.
"""

import os
import pickle
import socket
import sys

from tests.helpers.forking import Start

LONGEST = 2**17  # bytes of a message


class Owned:
    """A file descriptor that is this process's own, in the form that `Start.run` takes."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def detach(self) -> int:
        """Return it."""
        return self._descriptor


def exit_code(pid: int) -> int | None:
    """Return the exit code of a child, None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def serve(channel: socket.socket) -> Start | None:
    """Answer requests until the channel is closed; in a forked child, return what it is to run."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, LONGEST, 3)
        if not message:
            return None
        request = pickle.loads(message)
        if isinstance(request, Start):
            answer: int | None = os.fork()
            if answer == 0:
                channel.close()
                request.run(*map(Owned, descriptors))
                return request
            for descriptor in descriptors:
                os.close(descriptor)
        else:
            answer = exit_code(request)
        channel.send(pickle.dumps(answer))


if __name__ == "__main__":
    import tests.helpers.preloaded  # noqa: F401

    with socket.socket(fileno=int(sys.argv[1])) as asked:
        serve(asked)
