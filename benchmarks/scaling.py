"""The real job's speed by its number of processes, and the share of a step that exchanges gradients.

    python benchmarks/scaling.py                              # 1 and 2 processes on the CPU
    python benchmarks/scaling.py --device cuda --processes 1 2 4 8 --strong 128 8192 --weak 8192
    python benchmarks/scaling.py --quick --output /tmp/quick.json

Each run is `train_ddp.py` with configs/mnist.yaml under `torch.distributed.run` (one process: without), in turn, round
after round; its summary.json has the seconds.

    strong       the same global batch, whatever the number of processes
    weak         the same batch for each process
    speed-up     images a second over those of one process, within a round
    efficiency   the speed-up over how many more cores (on cuda: GPUs) are used. By default all runs share the machine's
                 cores, so that N processes at best do as well as one: efficiency then says what being many costs.
                 With --threads each process has so many, and N processes have N times as many.

What exchanging gradients costs is measured by `allreduce.py`, as many processes, at the same batch and precision: an
all-reduce of all gradients alone, in percent of the job's step; and how much longer a plain DDP step takes than the
same step without the exchange, in percent of that plain step. The first does not know which part the backward pass
hides, nor that it gets less of the cores there; the second sees both, and the waiting for the slowest process.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import harness
import torch
from floor import DTYPES
from quiet import Patience
from rows import JOB, Row, Sample, sample_of
from tqdm import tqdm

from vae.config import TrainConfig
from vae.distributed.launch import cores
from vae.errors import InputError

PROGRAM = harness.ROOT / "benchmarks" / "allreduce.py"
QUICK = {"rounds": 1, "strong": [128], "weak": 0, "patience": 0}
QUICK_JOB = ["train.max_steps=10", "run.figures=false"]
QUICK_EXCHANGE = ["--steps", "2", "--blocks", "1"]


@dataclass
class Case:
    """So many processes at a global batch, with a sample and a measurement of the exchange for each round.

    Attributes:
        processes, threads: how many, and of each.
        job: what the job did.
        exchanges: what `allreduce.py` said, milliseconds; nothing for one process.
    """

    processes: int
    threads: int
    job: Row
    exchanges: list[dict[str, float]] = field(default_factory=list)

    @property
    def alone_percent(self) -> list[float]:
        """An all-reduce alone, in percent of the job's step."""
        return [100 * ms["alone"] / step for ms, step in zip(self.exchanges, self.job.step_ms, strict=False)]

    @property
    def seen_percent(self) -> list[float]:
        """The time by which the exchange lengthens a plain step, in percent of that step."""
        return [100 * (ms["together"] - ms["apart"]) / ms["together"] for ms in self.exchanges]


Cases = dict[tuple[int, int], Case]  # by processes and global batch


def parse() -> argparse.Namespace:
    """Return the arguments, defaults filled in; raises `InputError`."""
    parser = harness.parser_of("scaling.py", __doc__)
    number = harness.positive
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: cpu)")
    parser.add_argument("--processes", type=number, nargs="+", metavar="N", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--strong", type=number, nargs="+", metavar="B", help="global batches (default: 128 1024)")
    parser.add_argument("--weak", type=int, metavar="B", help="batch of each process, 0: none (default: 128)")
    parser.add_argument("--threads", type=number, help="of each process (default: the cores divided by the processes)")
    parser.add_argument("--engine", metavar="NAME", help="train.engine (default: that of the job)")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32", help="(default: fp32)")
    parser.add_argument("--rounds", type=number, help="(default: 3)")
    parser.add_argument("--epochs", type=number, help="of a run of the job (default: 1; on cuda 20)")
    args = parser.parse_args()

    harness.check_output(args.output)
    harness.check_device(args.device)
    harness.check_engines([args.engine] if args.engine else [])
    if (args.weak or 0) < 0:
        raise InputError(f"--weak {args.weak}: must be 0 or more")
    standard = {"rounds": 3, "strong": [128, 1024], "weak": 128, "engine": TrainConfig().engine}
    standard |= {"epochs": 1, "patience": 300} if args.device == "cpu" else {"epochs": 20, "patience": 0}
    harness.fill_in(args, standard | (QUICK if args.quick else {}))
    args.processes = sorted({1, *args.processes})
    if args.device == "cuda" and args.processes[-1] > torch.cuda.device_count():
        raise InputError(f"--processes {args.processes[-1]}: this machine has {torch.cuda.device_count()} CUDA devices")
    return args


# --- measuring --------------------------------------------------------------------------------------------------------


def cases_of(args: argparse.Namespace) -> Cases:
    """Return what is measured: strong and weak share what they have in common."""
    pairs = [(n, batch) for batch in args.strong for n in args.processes]
    pairs += [(n, n * args.weak) for n in args.processes if args.weak]
    cases: Cases = {}
    for n, batch in pairs:
        threads = args.threads or max(1, len(cores()) // n)
        cases[n, batch] = Case(n, threads, Row(JOB, f"{n} processes", args.precision, batch))
    return cases


def run_job(args: argparse.Namespace, case: Case) -> Sample:
    """Run the job of a case."""
    settings = {"engine": args.engine, "precision": args.precision, "device": args.device, "epochs": args.epochs}
    settings |= {"batch_size": case.job.batch_size, "threads": case.threads}
    given = [f"train.{key}={value}" for key, value in settings.items()] + (QUICK_JOB if args.quick else [])
    return sample_of(harness.run_job(given, processes=case.processes))


def run_exchange(args: argparse.Namespace, case: Case) -> dict[str, float]:
    """Return what `allreduce.py` says of a case, milliseconds."""
    words = [str(PROGRAM), "--device", args.device, "--precision", args.precision]
    words += ["--batch-size", str(case.job.batch_size), "--threads", str(case.threads)]
    said = harness.run([*words, *(QUICK_EXCHANGE if args.quick else [])], processes=case.processes)
    return json.loads(said.splitlines()[-1])


def measure(args: argparse.Namespace) -> Cases:
    """Return all cases, measured in turn."""
    cases, patience = cases_of(args), Patience(args.patience)
    plan = [case for _ in range(args.rounds) for case in cases.values()]
    for case in tqdm(plan, unit="case"):
        sample, others, discarded = patience.take(lambda case=case: run_job(args, case))
        case.job.samples.append(replace(sample, others_percent=others))
        case.job.discarded += discarded
        if case.processes > 1:
            exchange, _, _ = patience.take(lambda case=case: run_exchange(args, case))
            case.exchanges.append(exchange)
    return cases


# --- showing ----------------------------------------------------------------------------------------------------------


def line_of(args: argparse.Namespace, name: str, case: Case, base: Case) -> list[str]:
    """Return a line of the table: a case beside one process."""
    speed_up = case.job.times_as_fast_as(base.job)
    more = case.processes * (case.threads / base.threads if args.device == "cpu" else 1)
    return [
        name,
        str(case.processes),
        str(case.threads),
        f"{case.job.batch_size:,}",
        harness.spread(case.job.step_ms),
        harness.median(case.job.images_per_second, 0),
        harness.spread(speed_up),
        harness.median([100 * ratio / more for ratio in speed_up], 0),
        harness.median([ms["alone"] for ms in case.exchanges]),
        harness.median(case.alone_percent, 0),
        harness.median([ms["together"] - ms["apart"] for ms in case.exchanges]),
        harness.median(case.seen_percent, 0),
        harness.others(case.job.samples),
    ]


def show(args: argparse.Namespace, origin: dict[str, Any], cases: Cases) -> None:
    """Print everything."""
    headers = ["", "processes", "threads", "batch", "ms a step", "images/s", "speed-up", "efficiency %"]
    headers += ["all-reduce alone ms", "of the step %", "seen in a plain step ms", "of that %", "others' CPU %"]
    lines = [
        line_of(args, f"strong {batch:,}", cases[n, batch], cases[1, batch])
        for batch in args.strong
        for n in args.processes
    ]
    if args.weak:
        lines += [line_of(args, "weak", cases[n, n * args.weak], cases[1, args.weak]) for n in args.processes]
    print(f"\n{harness.headline(origin)}\n{args.device}, {args.precision}, {args.engine}, {args.rounds} rounds\n")
    print(harness.table(headers, lines))


def main() -> None:
    """Measure, print, write."""
    args = parse()
    origin = harness.origin_of_numbers(args.device, args.commit)
    with harness.scratch():
        cases = measure(args)
    show(args, origin, cases)
    path = harness.write_results(args, "scaling", origin, cases=[asdict(case) for case in cases.values()])
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    sys.exit(harness.exit_code_of(main))
