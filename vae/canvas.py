"""Many small images on one canvas, and the canvas as a PNG."""

import io
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# a grid of grey digits takes 2 ms; TensorBoard's own encoder, three colours and the best compression, takes 10
PNG_COMPRESSION = 3


def tile(images: np.ndarray, *, columns: int, gap: int, pad: int = 0) -> np.ndarray:
    """Return one canvas (H', W', C) of images (N, C, H, W), row by row, white (1.0) between them and `pad` below."""
    N, C, H, W = images.shape
    rows = math.ceil(N / columns)
    canvas = np.ones((rows * (H + gap), columns * (W + gap), C), images.dtype)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = row * (H + gap), column * (W + gap)
        canvas[top : top + H, left : left + W] = image.transpose(1, 2, 0)
    return canvas[: len(canvas) - gap + pad, : columns * (W + gap) - gap]


def picture_of(canvas: np.ndarray) -> "Image":
    """Return a canvas (H, W, 1 or 3) in [0, 1] as Pillow has pictures, 8 bits a pixel and channel."""
    from PIL import Image  # here, since a job draws nothing before its first evaluation

    pixels = (255 * canvas).round().astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def png(canvas: np.ndarray) -> bytes:
    """Return a canvas (H, W, 1 or 3) in [0, 1] as a PNG, 8 bits a pixel and channel."""
    file = io.BytesIO()
    picture_of(canvas).save(file, format="PNG", compress_level=PNG_COMPRESSION)
    return file.getvalue()
