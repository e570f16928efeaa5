"""All checks in order: first what each process sees by itself, then what they find together."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from accelerate.utils import gather_object

from vae.doctor import machine, ranks, scheduler, storage
from vae.doctor.findings import LEVELS, Context, Finding, failure
from vae.errors import InputError

Check = Callable[[Context], Finding | None]

ALONE: dict[str, Check] = {
    **machine.CHECKS,
    "run folder": storage.check_folder,
    "free space": storage.check_space,
    **scheduler.CHECKS,
}
TOGETHER: dict[str, Check] = dict(ranks.CHECKS)


def examine(context: Context) -> Iterator[Finding]:
    """Yield each finding as soon as it is there (all ranks).

    Every rank learns of every failure. If the ranks do not come together, or lose each other, a finding says so
    (`parts_ranks`) and the process group is of no more use.
    """
    findings = []
    for name, check in ALONE.items():
        if finding := run(name, check, context):
            findings.append(finding)
            yield finding
    if any(finding.parts_ranks for finding in findings):
        return  # they would wait for each other in vain
    meeting = run("rendezvous", ranks.check_rendezvous, context)
    assert meeting is not None
    if context.accelerator is None and context.world_size > 1:
        meeting = replace(meeting, speaker="machine")
    yield meeting
    if context.accelerator is not None:
        yield from _examine_together(context, [*findings, meeting])


def _examine_together(context: Context, findings: Sequence[Finding]) -> Iterator[Finding]:
    """Yield what other ranks have found by themselves, then what all find together (all ranks)."""
    try:
        ranks.introduce(context, findings)
        yield from _of_others(context)
        for name, check in TOGETHER.items():
            everyones = gather_object([_run_collective(name, check, context)])
            yield from merge(everyones)
    except Exception as error:  # one rank's trouble: the others are in another collective by now, or gone
        advice = "one rank has trouble of its own, and says so if it can; or the network between them is broken"
        lost = failure(f"rank {context.rank} on {context.host} cannot go on: {ranks.first_line(error)}", advice)
        yield replace(lost, name="ranks", speaker="rank")


def _of_others(context: Context) -> Iterator[Finding]:
    """Yield what is not well on other ranks and not so on rank 0, which has reported its own."""
    by_rank = [{finding.name: finding for finding in peer.findings} for peer in context.peers]
    for name in ALONE:
        first = by_rank[0].get(name)
        everyones = [found if (found := here.get(name)) != first else None for here in by_rank]
        yield from (finding for finding in merge(everyones) if finding.level != "ok")


def run(name: str, check: Check, context: Context) -> Finding | None:
    """Return what a check finds; what it raises is a failure."""
    try:
        finding = check(context)
    except InputError as error:
        finding = failure(str(error))
    except Exception as error:  # whatever is broken here is what we want to know
        finding = failure(ranks.first_line(error), "not foreseen: please report it")
    return finding and replace(finding, name=name)


def _run_collective(name: str, check: Check, context: Context) -> Finding | None:
    """Return what a check finds that all ranks make together; only an `InputError` is raised by all alike."""
    try:
        finding = check(context)
    except InputError as error:
        finding = failure(str(error))
    return finding and replace(finding, name=name)


def merge(findings: Sequence[Finding | None]) -> list[Finding]:
    """Return one finding for all ranks: rank 0's, if all are well, else what is not, with the ranks it is so on."""
    there = [finding for finding in findings if finding is not None]
    bad = list(dict.fromkeys(finding for finding in there if finding.level != "ok"))
    if not bad:
        return there[:1]
    if len(bad) == 1 and there.count(bad[0]) == len(findings):
        return bad
    return [
        replace(finding, found=f"{finding.found} ({ranks.say_ranks(_ranks_with(finding, findings))})")
        for finding in bad
    ]


def _ranks_with(finding: Finding, findings: Sequence[Finding | None]) -> list[int]:
    return [rank for rank, other in enumerate(findings) if other == finding]


def summary(findings: Sequence[Finding]) -> str:
    """Return the last line: how many findings there are of each level."""
    counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    parts = [f"{count} {level}{'s' if count > 1 and level != 'ok' else ''}" for level, count in counts.items() if count]
    verdict = "training would not work as configured" if counts["failure"] else "training can start"
    return f"{', '.join(parts)}: {verdict}"
