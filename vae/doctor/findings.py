"""What a check finds, and what checks know of the run they look at."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator

from vae.config import Config
from vae.data.dataset import DataSet
from vae.model import VAE
from vae.run.folder import folder_of

Level = Literal["ok", "warning", "failure"]
LEVELS: tuple[Level, ...] = ("ok", "warning", "failure")


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        level: `ok`, `warning` (training would run) or `failure` (it would not, or not as meant).
        found: what there is.
        advice: what to do about it.
        name: of the check; the table of checks supplies it.
        speaker: who reports it: the main process; or, because the ranks have not come together or have lost each other,
            one process of each machine or every rank.
    """

    level: Level
    found: str
    advice: str = ""
    name: str = ""
    speaker: Literal["main", "machine", "rank"] = "main"

    @property
    def parts_ranks(self) -> bool:
        """Whether the ranks cannot tell each other anything any more."""
        return self.speaker != "main"

    def __str__(self) -> str:
        line = f"{self.level:<8} {self.name:<13} {self.found}"
        return f"{line}\n{'':<22} -> {self.advice}" if self.advice else line


def ok(found: str) -> Finding:
    """Return that all is well."""
    return Finding("ok", found)


def warning(found: str, advice: str) -> Finding:
    """Return what is allowed but probably not meant."""
    return Finding("warning", found, advice)


def failure(found: str, advice: str = "") -> Finding:
    """Return what keeps the run from working; an `InputError`'s line says itself what to do."""
    return Finding("failure", found, advice)


@dataclass(frozen=True)
class Peer:
    """What the other ranks need to know of one.

    Attributes:
        rank: its number.
        host: the name of its machine.
        versions: of the packages the numbers depend on.
        cores: the numbers of the CPU cores it may use.
        threads: that it computes with.
        clock: seconds since 1970, all ranks asked at the same moment.
        fingerprint: of its data; None: it has none.
        findings: what its own checks found.
    """

    rank: int
    host: str
    versions: Mapping[str, str]
    cores: frozenset[int]
    threads: int
    clock: float
    fingerprint: str | None
    findings: tuple[Finding, ...]


@dataclass
class Context:
    """The run that is looked at, as this process knows it.

    Attributes:
        config: its configuration.
        config_file: where that came from, for the name of the run folder.
        environment: `os.environ`: what launcher and SLURM said.
        data, model: once a check has read and built them.
        accelerator, threads: once the process group stands.
        peers: all ranks, in order, once they have told each other.
    """

    config: Config
    config_file: str | None
    environment: Mapping[str, str]
    data: DataSet | None = None
    model: VAE | None = None
    accelerator: Accelerator | None = None
    threads: int = 1
    peers: list[Peer] = field(default_factory=list)

    @cached_property
    def folder(self) -> Path:
        """The run's folder; without a name for it, one that depends on the time."""
        return folder_of(self.config, self.config_file)

    @property
    def rank(self) -> int:
        """This process's number, as the launcher said."""
        return self._number("RANK", 0)

    @property
    def world_size(self) -> int:
        """The processes that the launcher announced."""
        return self._number("WORLD_SIZE", 1)

    def _number(self, name: str, default: int) -> int:
        text = self.environment.get(name, "")
        return int(text) if text.isdecimal() else default  # what is no number is refused when the processes meet

    @property
    def on_cuda(self) -> bool:
        """Whether the run would use a CUDA device."""
        return self.config.train.device != "cpu" and torch.cuda.is_available()

    @property
    def wants_impossible_fp16(self) -> bool:
        """Whether fp16 is asked for where there is no loss scaling."""
        return self.config.train.precision == "fp16" and not self.on_cuda

    @cached_property
    def host(self) -> str:
        """The name of this machine."""
        return socket.gethostname()

    @property
    def place(self) -> str:
        """Where the ranks are to meet."""
        return f"{self.environment.get('MASTER_ADDR', '?')}:{self.environment.get('MASTER_PORT', '?')}"
