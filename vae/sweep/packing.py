"""Which members of a sweep can be trained together, their parameters stacked. Grouping them imports no torch."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vae.components import InputError
from vae.config import Config, flatten, load, merged
from vae.sweep.members import Member

# what each member of a pack may have of its own: it is not in the stacked computation, or is a number there
OWN = ("run", "objective.beta", "optim")
# what a pack has been shown to hold: networks that are stacked, families without weights or buffers of their own, an
# objective that sees each example alone
PIECES = {
    "model.hierarchy": ("Flat",),
    "model.encoder": ("MLPEncoder",),
    "model.decoder": ("MLPDecoder",),
    "model.posterior": ("DiagonalNormal", "FullNormal"),
    "model.prior": ("StandardNormal",),
    "model.likelihood": (
        "Bernoulli", "ContinuousBernoulli", "Normal", "NormalPixelStd", "OptimalNormal", "Categorical",
        "DiscretizedLogistic", "DiscretizedLogisticMixture",
    ),
    "objective": ("ELBO", "IWAE"),
}  # fmt: skip
DEFAULT_LIMIT = 8

Flat = Mapping[str, Any]


def packable(members: Sequence[Member], limit: int = DEFAULT_LIMIT) -> list[list[int]]:
    """Return the members' indices in groups that train_packed.py takes: each index once, in the order of the sweep.

    A member that cannot be packed, or that no other one is like, is a group of its own, for train_ddp.py. Settings are
    compared as they are given: two ways to say the same make two groups.

    Args:
        members: of a sweep.
        limit: the most members of a group.

    Raises:
        InputError: a configuration cannot be read.
    """
    groups: dict[str, list[int]] = {}
    for index, member in enumerate(members):
        settings = flatten(merged(member.base, member.overrides))
        own = {"": index} if obstacle(settings) else {}
        groups.setdefault(json.dumps(shared(settings) | own, sort_keys=True, default=str), []).append(index)
    return sorted(group[i : i + limit] for group in groups.values() for i in range(0, len(group), limit))


def obstacle(settings: Flat) -> str:
    """Return which setting of a run keeps it out of a pack, and why, or nothing."""
    engine, precision = settings.get("train.engine"), settings.get("train.precision")
    if precision == "fp16":
        return "train.precision = 'fp16': a pack has no loss scaler for each member; use bf16"
    if engine not in ("auto", "eager"):
        return f"train.engine = {engine!r}: a pack is an engine of its own; use auto"
    for key, off in {"train.exact": 0, "train.profile": 0, "model.condition": "false"}.items():
        if settings.get(key):
            return f"{key} = {settings[key]}: not in a pack; set it to {off}"
    for key, names in PIECES.items():
        name = settings.get(f"{key}.name", settings.get(key))  # a full spec, or a bare name
        if name not in names:
            return f"{key} = {name!r}: a pack cannot hold it; use {' or '.join(names)}"
    return ""


def shared(settings: Flat) -> dict[str, Any]:
    """Return the settings in which all members of a pack agree."""
    return {key: value for key, value in settings.items() if not any(f"{key}.".startswith(f"{own}.") for own in OWN)}


def configurations(members: Sequence[Member]) -> list[Config]:
    """Return the configurations of members that are to be trained together; imports torch.

    Raises:
        InputError: one cannot be used or packed, or two of them differ in what members share.
    """
    configs = []
    for member in members:
        with naming(member):
            configs.append(load(member.base, member.overrides))
            if problem := obstacle(flatten(configs[-1])):
                raise InputError(f"{problem}, or train it by itself")
    for member, config in zip(members, configs, strict=True):
        mine, its = shared(flatten(configs[0])), shared(flatten(config))
        for key in sorted(mine.keys() | its.keys()):
            if mine.get(key) != its.get(key):
                values = f"{key} = {its.get(key)!r} in {member.name}, {mine.get(key)!r} in {members[0].name}"
                raise InputError(f"{values}: members of a pack differ only in {', '.join(OWN)}; train them apart")
    return configs


@contextlib.contextmanager
def naming(member: Member) -> Iterator[None]:
    """Say in an `InputError` which member it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"member {member.name}: {error}") from None
