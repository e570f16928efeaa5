"""Findings of checks, and the context that checks share: the run as this process knows it."""

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
from vae.distributed.accelerate_settings import wants_cpu
from vae.model import VAE
from vae.run.folder import folder_of

Level = Literal["ok", "warning", "failure"]
LEVELS: tuple[Level, ...] = ("ok", "warning", "failure")


@dataclass(frozen=True)
class Finding:
    """The finding of one check.

    Attributes:
        level: `ok`, `warning` (training would run) or `failure` (training would not run, or not as meant).
        found: the facts.
        advice: a way out of a warning or failure.
        name: of the check; the table of checks supplies it.
        speaker: the process that reports: the main process; where the ranks have not met or have lost each other, one
            process of each machine, or every rank.
    """

    level: Level
    found: str
    advice: str = ""
    name: str = ""
    speaker: Literal["main", "machine", "rank"] = "main"

    @property
    def parts_ranks(self) -> bool:
        """True if the ranks cannot reach each other any more."""
        return self.speaker != "main"

    def __str__(self) -> str:
        line = f"{self.level:<8} {self.name:<13} {self.found}"
        return f"{line}\n{'':<22} -> {self.advice}" if self.advice else line


def ok(found: str) -> Finding:
    """Return a finding of level `ok`."""
    return Finding("ok", found)


def warning(found: str, advice: str) -> Finding:
    """Return a finding of level `warning`: allowed, but probably not meant."""
    return Finding("warning", found, advice)


def failure(found: str, advice: str = "") -> Finding:
    """Return a finding of level `failure`: the run would not work. The line of an `InputError` has its own advice."""
    return Finding("failure", found, advice)


@dataclass(frozen=True)
class Peer:
    """Facts of one rank that all ranks compare.

    Attributes:
        rank: its number.
        host: the name of its machine.
        versions: of the packages that numbers depend on.
        cores: the numbers of the CPU cores that the process may use.
        threads: the number of threads that compute.
        clock: seconds since 1970, on all ranks at the same moment.
        fingerprint: of its data; None: there are no data.
        findings: those of its own checks.
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
    """The run that is checked, as this process knows it.

    Attributes:
        config: the run's configuration.
        config_file: the file of the configuration, for the name of the run folder.
        environment: `os.environ`, with the variables of launcher and SLURM.
        data, model: set by the checks that read and build them.
        accelerator, threads: set once there is a process group.
        peers: all ranks, in order, once their facts have been gathered.
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
        """The run's folder; without `run.name`, its name depends on the time."""
        return folder_of(self.config, self.config_file)

    @property
    def rank(self) -> int:
        """The number of this process, RANK of the launcher."""
        return self._number("RANK", 0)

    @property
    def world_size(self) -> int:
        """The number of processes, WORLD_SIZE of the launcher."""
        return self._number("WORLD_SIZE", 1)

    def _number(self, name: str, default: int) -> int:
        text = self.environment.get(name, "")
        return int(text) if text.isdecimal() else default  # what is no number is refused when the processes meet

    @property
    def on_cuda(self) -> bool:
        """True if the run would use a CUDA device."""
        stays_on_cpu = self.config.train.device == "cpu" or wants_cpu(self.environment)
        return not stays_on_cpu and torch.cuda.is_available()

    @property
    def wants_impossible_fp16(self) -> bool:
        """True if train.precision is fp16 and there is no CUDA device, hence no loss scaling."""
        return self.config.train.precision == "fp16" and not self.on_cuda

    @cached_property
    def host(self) -> str:
        """The name of this machine."""
        return socket.gethostname()

    @property
    def place(self) -> str:
        """The address and port at which the ranks meet."""
        return f"{self.environment.get('MASTER_ADDR', '?')}:{self.environment.get('MASTER_PORT', '?')}"
