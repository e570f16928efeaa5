"""A trace of some training steps, for Perfetto or TensorBoard, and the operations that took most of their time."""

from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

PROFILE = "profile"
WARM_UP_CALLS = 5
SHOWN = 10


class Profiler:
    """Traces calls of an engine, or none.

    Args:
        folder: the run's folder; the trace goes to `profile/` in it.
        calls: the number that is traced, after the first few; 0: nothing is traced.
        device: `cpu` or `cuda`.
        say: prints a line.
    """

    def __init__(self, folder: Path, calls: int, device: str, say: Callable[[str], None]):
        self.folder, self.device, self._say = folder / PROFILE, device, say
        self._seen, self._last, self._steps = 0, WARM_UP_CALLS + calls if calls else 0, 0
        if not calls:
            return
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])],
            schedule=schedule(wait=0, warmup=WARM_UP_CALLS, active=calls, repeat=1),
            on_trace_ready=tensorboard_trace_handler(str(self.folder)),
        )
        self._profile.start()

    def advance(self, steps: int) -> None:
        """Note that a call has made `steps` steps; after the last traced call, write and report."""
        self._seen += 1
        if self._seen > self._last:
            return
        self._steps += steps if self._seen > WARM_UP_CALLS else 0
        self._profile.step()
        if self._seen == self._last:
            self._profile.stop()
            self._report()

    def close(self) -> None:
        """Write and report the part of a trace that the end of the run has cut short."""
        if self._seen < self._last:
            self._profile.stop()
            self._report()

    def _report(self) -> None:
        where, unit = ("self_device_time_total", "GPU") if self.device == "cuda" else ("self_cpu_time_total", "CPU")
        events = [event for event in self._profile.key_averages() if not event.key.startswith("ProfilerStep")]
        total = sum(getattr(event, where) for event in events)
        if not self._steps or not total:
            self._say(f"profile: nothing traced; the run ended within its first {WARM_UP_CALLS} calls of the engine")
            return
        self._say(f"profile of {self._steps} steps, {unit} time of the operations themselves:")
        for event in sorted(events, key=lambda event: -getattr(event, where))[:SHOWN]:
            microseconds = getattr(event, where)
            share, each = microseconds / total, microseconds / self._steps / 1000
            self._say(
                f"  {share:6.1%}  {each:8.3f} ms a step  {event.count / self._steps:6.1f} calls  {event.key[:70]}"
            )
        self._say(f"trace: {self.folder} (open its .json in ui.perfetto.dev or chrome://tracing)")
