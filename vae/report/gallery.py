"""Figures in a page: each is a picture, a title and a caption.

Inside a page pictures are lossless WebP, which takes less than half of matplotlib's PNGs.
"""

import base64
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from vae.errors import InputError
from vae.report.pictures import draw_curves
from vae.run.contents import FIGURES
from vae.run.settings import Run

WEBP_EFFORT = 2  # of 6: more saves nothing and takes longer

CAPTIONS = {  # file name of a run's picture -> its title and its caption; in the page's order
    "loss_curves": (
        "Loss during training",
        "Where the test curve leaves the training curve, the model overfits; in training the KL weighs as much as beta "
        "says.",
    ),
    "reconstructions": (
        "Reconstructions",
        "Above, images of the test set; below, what comes back through the bottleneck at the posterior mean.",
    ),
    "interpolation": (
        "Interpolation",
        "Decoded points of a straight line between the codes of two test images: a smooth change means that the space "
        "between codes is used.",
    ),
    "samples": ("Samples", "Decoded draws of the prior: what the model makes up by itself."),
    "samples_by_class": (
        "Samples by class",
        "Decoded draws of the prior, a row for each label that is given; a column has the same noise, so that what "
        "changes along it is the class, and what stays is style.",
    ),
    "latent_plane": (
        "Decoded latent plane",
        "Each image is decoded at its own place in the plane: neighbours look alike, and classes have their regions.",
    ),
    "latent_scatter": (
        "Test set in latent space",
        "Each point is a test image at its posterior mean; the model never saw the classes that colour it.",
    ),
    "latent_histogram": (
        "Aggregate posterior",
        "Where test images are encoded; the more evenly it fills the lines, which hold half and 95 % of the prior, the "
        "more do samples of the prior look like data.",
    ),
    "latent_marginals": (
        "Marginals of the aggregate posterior",
        "A dimension whose cells follow the prior's curve agrees with it on average; what deviates, samples miss.",
    ),
    "latent_use": (
        "What the latent dimensions are used for",
        "Left, the KL each dimension pays for on average; right, how much its posterior mean varies over the test set: "
        "more than 0.01 counts as active (Burda et al. 2016).",
    ),
    "gradient_norm": (
        "Gradient norm",
        "Before clipping, if there is any: a curve above the threshold is clipped in nearly every step.",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """One figure of a page.

    Attributes:
        title: of the figure, a few words.
        caption: a sentence on the content of the figure.
        png: the picture.
    """

    title: str
    caption: str
    png: bytes

    @property
    def uri(self) -> str:
        """The picture as a data URI; the same pixels."""
        file = io.BytesIO()
        with Image.open(io.BytesIO(self.png)) as image:
            image.convert("RGB").save(file, "WEBP", lossless=True, method=WEBP_EFFORT)
        return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        with Image.open(io.BytesIO(self.png)) as image:
            return image.size

    @property
    def wide(self) -> bool:
        """True if the picture needs the whole width of a page."""
        return self.size[0] > 1.9 * self.size[1]


def of_figures(figures: Mapping[str, tuple[Figure, str]]) -> list[Picture]:
    """Return pictures of name -> (figure, caption); a picture's title is the figure's own, or else the name."""
    return [
        Picture(figure.get_suptitle() or name.replace("_", " ").capitalize(), caption, _png(figure))
        for name, (figure, caption) in figures.items()
    ]


def of_run(run: Run, *, latent_only: bool = False) -> list[Picture]:
    """Return the pictures in a run's folder; if there are none, the curves of the run so far.

    Args:
        run: finished or not.
        latent_only: return pictures of the latent space alone.

    Raises:
        InputError: a picture cannot be read.
    """
    files = {name: run.folder / FIGURES / f"{name}.png" for name in CAPTIONS}
    try:
        found = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None
    if not found:
        found = {name: _png(figure) for name, figure in _curves(run)}
    names = [name for name in CAPTIONS if name in found and (name.startswith("latent") or not latent_only)]
    return [Picture(*CAPTIONS[name], found[name]) for name in names]


def _curves(run: Run) -> Iterable[tuple[str, Figure]]:
    if not any(math.isfinite(row["loss"]) for row in run.rows):
        return []
    return draw_curves(run.rows, run.config.optim.max_grad_norm).items()


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()
