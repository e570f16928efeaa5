"""All checks in order: first those of each process by itself, then those of all ranks together."""

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
    "run": storage.check_run,
    "trackers": storage.check_trackers,
    "free space": storage.check_space,
    **scheduler.CHECKS,
}
TOGETHER: dict[str, Check] = dict(ranks.CHECKS)


def examine(context: Context) -> Iterator[Finding]:
    """Yield each finding as soon as its check has ended (all ranks).

    Every rank learns of every failure. If the ranks do not meet, or lose each other, a finding says so (`parts_ranks`);
    the process group cannot be used after it.
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
    """Yield the findings of other ranks' own checks, then those of the checks that are collectives (all ranks)."""
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
    """Yield warnings and failures of other ranks that differ from the findings of rank 0, which it has reported."""
    by_rank = [{finding.name: finding for finding in peer.findings} for peer in context.peers]
    for name in ALONE:
        first = by_rank[0].get(name)
        everyones = [found if (found := here.get(name)) != first else None for here in by_rank]
        yield from (finding for finding in merge(everyones) if finding.level != "ok")


def run(name: str, check: Check, context: Context) -> Finding | None:
    """Return the finding of a check; an exception that it raises is a failure."""
    try:
        finding = check(context)
    except InputError as error:
        finding = failure(str(error))
    except Exception as error:  # whatever is broken here is what we want to know
        finding = failure(ranks.first_line(error), "not foreseen: please report it")
    return finding and replace(finding, name=name)


def _run_collective(name: str, check: Check, context: Context) -> Finding | None:
    """Return the finding of a check that is a collective; only an `InputError` is raised by all ranks alike."""
    try:
        finding = check(context)
    except InputError as error:
        finding = failure(str(error))
    return finding and replace(finding, name=name)


def merge(findings: Sequence[Finding | None]) -> list[Finding]:
    """Return one finding for all ranks: rank 0's if all are `ok`, else each warning and failure with its ranks."""
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
    """Return the last line: the number of findings of each level, and whether training can start."""
    counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    parts = [f"{count} {level}{'s' if count > 1 and level != 'ok' else ''}" for level, count in counts.items() if count]
    verdict = "training would not work as configured" if counts["failure"] else "training can start"
    return f"{', '.join(parts)}: {verdict}"
