"""A fitted mixture as text: how it was fitted, how well it describes q(z), and what its samples are not."""

from collections.abc import Iterator, Mapping
from typing import Any

from vae.evaluation.mixture.kept import NOTE, Fitted


def description(protocol: Mapping[str, Any]) -> str:
    """Return a mixture in a line, by its protocol."""
    each = "" if protocol["classes"] is None else f" for each of {protocol['classes']} classes"
    normals = "a normal" if protocol["components"] == 1 else f"a mixture of {protocol['components']} normals"
    images = f"each of {protocol['images']:,} training images"
    return f"{normals} with full covariance{each}, fitted to one z ~ q(z|x) for {images}"


def in_words(fitted: Fitted) -> Iterator[str]:
    """Yield lines about a mixture; nats."""
    how, found, test = fitted.protocol, fitted.results, fitted.results["test"]
    kept = "not kept, since the run's folder cannot be written" if fitted.file is None else f"in {fitted.file}"
    yield f"{description(how)} (Ghosh et al. 2020), seed {how['seed']}; {kept}"
    if not found["converged"]:
        yield f"  the fit had not converged after {found['iterations']:,} iterations"
    gain = f"{test['gain']:.3f}" + ("" if test["gain_error"] is None else f" ± {test['gain_error']:.3f}")
    yield (
        f"  mean log-density of z ~ q(z|x), {how['held_out']['images']:,} test images: "
        f"mixture {test['log_mixture']:.3f}, the model's prior {test['log_prior']:.3f}, difference {gain} nats"
    )
    yield f"  {NOTE}"
