"""Evaluations as text: one in full, several of one protocol as a table."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vae.evaluation.results_file import Kept, Protocol

HEAD = ("run", "log p(x)", "bias", "ELBO", "KL", "I(x;z)", "KL(q(z)||p(z))", "active", "ESS", "bits/dim")
MISSING = "-"
NOTICED = 0.01  # share of images with a low effective sample size that is worth a line


def title(protocols: Sequence[Protocol]) -> str:
    """Return the protocol of numbers that may be compared, in a line."""
    how = protocols[0]
    drawn = "" if how["draw"] is None else f" (seed {how['draw']})"
    given = "" if how["given"] is None else f", given the {how['given']}"
    families = " or ".join(dict.fromkeys(each["likelihood"] for each in protocols))
    words = f"{how['data']}, {how['split']} set, {how['pixels']}{drawn}, {families}{given} ({how['measure']})"
    return f"{words}; {how['examples']:,} images, K = {how['samples']:,}, seed {how['seed']}"


def in_full(kept: Kept) -> Iterator[str]:
    """Yield one evaluation, a line for each of its results; nats per image."""
    found = kept.results
    bits = "" if found["bits_per_dim"] is None else f"; {found['bits_per_dim']:.4f} bits per dimension"
    likelihood, elbo = bounds(found, kept.protocol)
    yield likelihood + bits
    yield elbo
    at_mean = f"{found['reconstruction_mean_z']:.3f} at z = E[z|x], where a pixel's squared error is"
    yield _line("reconstruction", f"{found['reconstruction']:.3f}; {at_mean} {found['squared_error_mean_z']:.5f}")
    yield _line("KL", f"{found['kl']:.3f}{_parts(found['aggregate'])}")
    if "accuracy" in found:
        yield _line("accuracy", f"{found['accuracy']:.2%} of the labels are the most probable one under q(y|x)")
    yield _line("active units", f"{found['active_units']} of {found['latent_dimensions']}")
    if "perplexity" in found:
        yield _line("perplexity of codes", f"{found['perplexity']:.1f}")
    yield from effective_draws(found, kept.protocol)


def bounds(found: Mapping[str, Any], how: Protocol) -> tuple[str, str]:
    """Return the lines of log p(x), with what its K draws do to it, and of the ELBO.

    Args:
        found: as `likelihood_results` returns it.
        how: the protocol.
    """
    draws, bias = _number(found["log_likelihood_draw_error"], "{:.3f}"), found.get("log_likelihood_bias")
    lacking = "" if bias is None else f"; K = {how['samples']:,} leaves it too low by {bias:.3f} or more"
    return (
        _line(
            "log p(x)" if how["given"] is None else "log p(x|y)",
            f"{_with_error(found, 'log_likelihood', 3)} (of it {draws} from the draws{lacking})",
        ),
        _line("ELBO", _with_error(found, "elbo", 3)),
    )


def effective_draws(found: Mapping[str, Any], how: Protocol) -> Iterator[str]:
    """Yield the line of the effective sample size, and one more where it is low; arguments as of `bounds`."""
    size = found["effective_sample_size"]
    low = ", ".join(f"{float(share):.0%} {value:.1f}" for share, value in size["quantiles"].items())
    words = f"mean {size['mean']:.1f} of {how['samples']:,}; least {size['min']:.1f}; quantiles {low}"
    yield _line("effective sample size", words)
    if size.get("low", 0) >= NOTICED:
        share, limit = size["low"], size["low_below"]
        yield _line("", f"below {limit} for {share:.0%} of the images: there the bias is larger than said; --samples")


def table(evaluations: Mapping[Path, Kept]) -> Iterator[str]:
    """Yield the lines of a table of evaluations by one protocol, best first."""
    order = sorted(evaluations.items(), key=lambda item: -item[1].results["log_likelihood"])
    yield from aligned([HEAD, *(_row(folder, kept) for folder, kept in order)])


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table of cells: the first column aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *numbers = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join([row[0].ljust(len(first)), *numbers])


def _row(folder: Path, kept: Kept) -> tuple[str, ...]:
    found, whole = kept.results, kept.results["aggregate"] or {}
    return (
        str(folder),
        _with_error(found, "log_likelihood", 2),
        _number(found.get("log_likelihood_bias"), "-{:.2f}"),
        _with_error(found, "elbo", 2),
        f"{found['kl']:.2f}",
        _number(whole.get("mutual_information")),
        _number(whole.get("marginal_kl"), "≤ {:.2f}"),
        f"{found['active_units']} of {found['latent_dimensions']}",
        f"{found['effective_sample_size']['mean']:.1f}",
        _number(found["bits_per_dim"], "{:.4f}"),
    )


def _parts(whole: Mapping[str, Any] | None) -> str:
    if whole is None:
        return ""
    near = whole["mutual_information"] > whole["limit"] - 1
    limit = f"{'close to its limit' if near else 'at most'} {whole['limit']:.2f}"
    information = f"I(x;z) {_with_error(whole, 'mutual_information', 3)} ({limit})"
    if whole["marginal_kl"] is None:
        return f"; {information}"
    return f" ≈ {information} + KL(q(z)||p(z)) {_with_error(whole, 'marginal_kl', 3)} (an upper bound)"


def _with_error(found: Mapping[str, Any], name: str, digits: int) -> str:
    error = found[f"{name}_error"]
    return f"{found[name]:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _number(value: float | None, write: str = "{:.2f}") -> str:
    return MISSING if value is None else write.format(value)


def _line(name: str, value: str) -> str:
    return f"  {name:<22} {value}"
