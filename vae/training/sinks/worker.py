"""A thread for calls that may take long or fail: they are made one after another while the program goes on."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any


class Worker:
    """A thread that makes calls in their order. It ends with the program, also in the middle of a call.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str):
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    @property
    def idle(self) -> bool:
        """Whether no call waits; the one under way does not count."""
        return self._calls.empty()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Queue a call, and return what will hold its result."""
        future: Future[Any] = Future()
        self._calls.put((call, future))
        return future

    def _work(self) -> None:
        while True:
            call, future = self._calls.get()
            try:
                future.set_result(call())
            except BaseException as error:  # a library that calls sys.exit must not end the thread
                future.set_exception(error)
