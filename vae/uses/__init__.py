"""Actions on a trained model: codes, new images, paths between images, damaged images made whole, scores of images.

    from vae.uses import encode

    codes = encode("runs/mnist").codes  # codes.mean, codes.std: (N, D)

Arguments that several actions share:

    run: the folder of a finished run.
    data, data_root: another data set than the run's, as `data.name` and `data.root` name it; or settings of `data`
        by which it is read, in YAML: `{name: x.npz, range: [-1, 1]}`.
    split: the part of the data: `test`, `train` or `val`.
    seed: of everything that is drawn.
    output: a folder for an action's files, which is made if need be; None: nothing is written.

Unusable input raises `vae.errors.InputError`. An action is imported when it is first asked for, and torch with it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae.uses.actions import denoise, encode, impute, interpolate, sample
    from vae.uses.scoring import score

__all__ = ["denoise", "encode", "impute", "interpolate", "sample", "score"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("vae.uses.scoring" if name == "score" else "vae.uses.actions"), name)
