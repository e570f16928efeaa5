"""The fake CUDA runtime as a shared library, built from tests/cuda/runtime/*.cpp when it is asked for first.

The library lies in a cache folder, under a name that follows from its sources and the CUDA headers, so that it is built
once: several workers of a test run wait for the one that builds.
"""

import hashlib
import os
import shutil
import subprocess
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock

SOURCES = Path(__file__).with_name("runtime")
COMPILER = "g++"
HEADERS = ("nvidia/cu13/include", "nvidia/cudnn/include", "nvidia/nccl/include", "triton/backends/nvidia/include")
PACKAGES = ("torch", "nvidia-cuda-runtime", "nvidia-cudnn-cu13", "nvidia-nccl-cu13", "triton")  # that bring the headers
FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-Wall")
LIBRARY, NVRTC = "libfakecuda.so", "libnvrtc.so.13"  # both are preloaded
LINKS = ("libcuda.so.1", "libnvidia-ml.so.1")  # to the first: names by which programs load the driver and NVML
PARTS = {LIBRARY: "exports.map", NVRTC: "nvrtc.map"}  # each with the names that it lets out


class CannotBuildError(RuntimeError):
    """There is no compiler, or torch has been installed without CUDA."""


def library() -> Path:
    """Return the path of the shared library, built if it is not there yet.

    Raises:
        CannotBuildError: a tool or header is missing; the message begins with `fakecuda:`, as a reason to skip tests.
    """
    headers = [Path(sysconfig.get_path("purelib"), name) for name in HEADERS]
    if shutil.which(COMPILER) is None:
        raise CannotBuildError(f"fakecuda: no {COMPILER} to build it with")
    if missing := [str(folder) for folder in headers if not folder.is_dir()]:
        raise CannotBuildError(f"fakecuda: torch was installed without CUDA: no {missing[0]}")
    folder = _cache() / _key()
    folder.mkdir(parents=True, exist_ok=True)
    built = folder / LIBRARY
    with FileLock(folder / "lock"):
        if not built.exists():
            _build(built, headers)
    return built


def why_not() -> str:
    """Return the reason why the library cannot be had here, or nothing."""
    try:
        library()
    except CannotBuildError as error:
        return str(error)
    return ""


def environment(devices: int, report: Path | None = None) -> dict[str, str]:
    """Return the variables that put a program under the fake runtime.

    Args:
        devices: GPUs to show.
        report: beginning of the path of each process's report; None: no reports.
    """
    path = library()
    folders = [str(path.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {
        "LD_PRELOAD": os.pathsep.join(str(path.with_name(name)) for name in PARTS),
        "LD_LIBRARY_PATH": os.pathsep.join(folders),
        "TRITON_LIBCUDA_PATH": str(path.parent),
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(devices))),
        "FAKE_CUDA_DEVICES": str(devices),
        "FAKE_CUDA_REPORT": str(report.absolute()) if report else "",
        # what is compiled for a device that is none stays out of the user's caches
        "USE_PYTORCH_KERNEL_CACHE": "0",
        "TRITON_CACHE_DIR": str(path.with_name("triton")),
        "TORCHINDUCTOR_CACHE_DIR": str(path.with_name("inductor")),
    }


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vae-fakecuda"


def _key() -> str:
    """Return a name for what is built: other sources, flags or headers, another name."""
    content = hashlib.sha256(repr((FLAGS, *map(_version, PACKAGES))).encode())
    for path in (Path(__file__), *sorted(SOURCES.iterdir())):
        content.update(path.name.encode() + path.read_bytes())
    return content.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _build(built: Path, headers: list[Path]) -> None:
    """Compile the sources side by side, and link them; the last thing to appear is the library that `built` names."""
    folder, includes = built.parent, [f"-I{path}" for path in headers]
    sources = sorted(SOURCES.glob("*.cpp"))
    compiling = [
        subprocess.Popen([COMPILER, *FLAGS, *includes, "-c", str(source), "-o", str(folder / f"{source.stem}.o")])
        for source in sources
    ]
    codes = [process.wait() for process in compiling]
    assert not any(codes), "the fake CUDA runtime does not compile"
    for library, exports in reversed(PARTS.items()):
        objects = [folder / f"{source.stem}.o" for source in sources if (source.stem == "nvrtc") == (library == NVRTC)]
        half = folder / f"{library}.half"
        options = [f"-Wl,-soname,{library}", f"-Wl,--version-script={SOURCES / exports}", "-ldl", "-lrt", "-lpthread"]
        subprocess.run([COMPILER, "-shared", *map(str, objects), "-o", half, *options], check=True)
        if library == LIBRARY:
            for link in LINKS:
                (folder / link).unlink(missing_ok=True)
                (folder / link).symlink_to(LIBRARY)
        half.replace(folder / library)
