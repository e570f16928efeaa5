"""The fake CUDA runtime, for programs that are forked under it."""

from collections.abc import Iterator

import pytest

from tests.cuda import build
from tests.cuda.forks import Fake, Server


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    """Starts programs on fake devices."""
    if reason := build.why_not():
        pytest.skip(reason)
    server = Server()
    yield Fake(server, tmp_path_factory.mktemp("fake"))
    server.close()
