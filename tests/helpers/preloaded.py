"""The imports of the fork server: all that the project's programs import, at once or when they need it."""

import gc
import os
import pkgutil
import sys
import traceback
from importlib import import_module
from pathlib import Path

LIBRARIES = (
    "matplotlib.backends.backend_agg", "sklearn.ensemble", "sklearn.svm", "torch._dynamo", "torch.utils.tensorboard",
    "torchvision.datasets", "torchvision.transforms.v2",
)  # fmt: skip
STARTED_AS_MAIN = "vae.__main__"  # to run a module that is imported already is an error

try:
    import vae

    names = [module.name for module in pkgutil.walk_packages(vae.__path__, "vae.")]
    for name in (*LIBRARIES, *(name for name in names if name != STARTED_AS_MAIN)):
        import_module(name)
    gc.collect()
    gc.freeze()  # else each fork's collector would write to, and so copy, all that is imported
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads: not a process to fork"
except BaseException:  # the fork server would go on without
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)
