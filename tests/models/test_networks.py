"""Encoders and decoders: sizes, settings, initial weights, against arithmetic by hand and plain torch."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vae.assemble import build_model
from vae.components import build
from vae.config import load
from vae.errors import InputError
from vae.model import VAE
from vae.networks import DECODERS, ENCODERS, MLPDecoder, MLPEncoder, Sizes
from vae.networks.convolutional import _down, _up, stage_shapes
from vae.networks.options import ACTIVATIONS, Tanh, count_groups, fans, initialize

KINDS = ["MLP", "ResidualMLP", "Conv"]
SIZES = Sizes(image_shape=(3, 8, 8), latent_dim=3, hidden_dim=16, depth=2)
FEATURES = 6

SETTINGS: list[dict[str, Any]] = [
    *[{"activation": name} for name in ACTIVATIONS],
    *[{"normalization": name, "activation": "tanh"} for name in ("none", "layer", "group")],
    *[{"initialization": name, "normalization": "layer"} for name in ("torch", "xavier", "he", "orthogonal")],
    {"widths": "constant"},
]


def pair(kind: str, sizes: Sizes = SIZES, **settings: Any) -> tuple[nn.Module, nn.Module]:
    """Return an encoder and a decoder of one kind, weights of seed 0."""
    torch.manual_seed(0)
    encoder = build(ENCODERS, {"name": f"{kind}Encoder", **settings}, sizes, FEATURES)
    return encoder, build(DECODERS, {"name": f"{kind}Decoder", **settings}, sizes, sizes.image_shape)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def applies(kind: str, settings: dict[str, Any]) -> bool:
    """Return true if a kind of network has these settings."""
    return not (
        (kind != "Conv" and settings.get("normalization") == "group") or (kind != "MLP" and "widths" in settings)
    )


every_kind = pytest.mark.parametrize("kind", KINDS)
every_setting = pytest.mark.parametrize(
    ("kind", "settings"),
    [(kind, settings) for kind in KINDS for settings in SETTINGS if applies(kind, settings)],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)


# --- sizes ------------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("pixels", [28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_usual_sizes(kind: str, pixels: int, channels: int) -> None:
    sizes = Sizes((channels, pixels, pixels), latent_dim=5, hidden_dim=32, depth=3)
    encoder, decoder = pair(kind, sizes)
    assert encoder(random(2, *sizes.image_shape)).shape == (2, FEATURES)
    assert decoder(random(2, 5)).shape == (2, channels, pixels, pixels)
    wide = build(DECODERS, f"{kind}Decoder", sizes, (256 * channels, pixels, pixels))  # as a categorical one asks for
    assert wide(random(2, 5)).shape == (2, 256 * channels, pixels, pixels)


def test_convolutions_halve_and_double_images_of_any_size() -> None:
    for height, width, depth in itertools.product([2, 3, 5, 6, 7], [1, 4, 9], [1, 2, 3]):
        halvings = math.ceil(math.log2(max(height, width)))
        sizes = Sizes((1, height, width), latent_dim=3, hidden_dim=4, depth=depth)
        if depth > halvings:
            with pytest.raises(ValueError, match=rf"depth = {depth}.*{height} x {width}.*after {halvings} "):
                pair("Conv", sizes, channels=2)
            continue
        encoder, decoder = pair("Conv", sizes, channels=2)
        assert encoder(random(2, 1, height, width)).shape == (2, FEATURES)
        assert decoder(random(2, 3)).shape == (2, 1, height, width)


def test_stages_halve_the_image_rounded_up_and_double_the_channels() -> None:
    assert stage_shapes((1, 28, 28), 32, 4) == [(1, 28, 28), (32, 14, 14), (64, 7, 7), (128, 4, 4), (256, 2, 2)]
    assert stage_shapes((3, 1, 5), 4, 3) == [(3, 1, 5), (4, 1, 3), (8, 1, 2), (16, 1, 1)]


def test_an_image_too_small_to_halve_is_refused_as_input() -> None:
    config = load(None, ["model.depth=6", "model.encoder=ConvEncoder", "model.hidden_dim=64"])
    with pytest.raises(InputError, match=r"depth = 6.*28 x 28.*after 5 convolutions"):
        build_model(config, (1, 28, 28))


@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 5), (6, 9), (1, 3)])
def test_up_is_the_adjoint_of_down(height: int, width: int) -> None:
    """<down(x), y> = <x, up(y)> for shared weights: both connect the same pixels, also at the borders."""
    larger, smaller = stage_shapes((2, height, width), 3, 1)
    down, up = _down(larger, smaller).double(), _up(smaller, larger).double()
    assert down.bias is not None
    assert up.bias is not None
    with torch.no_grad():
        up.weight.copy_(down.weight)
        down.bias.zero_()
        up.bias.zero_()
        x, y = random(4, *larger, dtype=torch.float64), random(4, *smaller, dtype=torch.float64)
        torch.testing.assert_close((down(x) * y).sum(), (x * up(y)).sum())


def test_no_pixel_is_the_sum_of_more_products_than_another() -> None:
    """The image of constant weights and constant inputs is constant within its border: no checkerboard."""
    for height, width in ((12, 12), (11, 13)):
        larger, smaller = stage_shapes((1, height, width), 3, 1)
        up = _up(smaller, larger)
        nn.init.constant_(up.weight, 0.5)
        inner = up(torch.ones(1, *smaller))[..., 2:-2, 2:-2]
        assert torch.equal(inner, inner[..., :1, :1].expand_as(inner))


COUNTS = {
    # the PyTorch example: 784-400-(20, 20) and 20-400-784
    "example": (
        Sizes(latent_dim=20, hidden_dim=400, depth=1),
        "MLP",
        {"activation": "relu"},
        (784 * 400 + 400) + (400 * 40 + 40) + (20 * 400 + 400) + (400 * 784 + 784),
        652_824,
    ),
    # Burda et al. 2016, one stochastic layer: 784-200-200-(50, 50) and 50-200-200-784
    "burda": (
        Sizes(latent_dim=50, hidden_dim=200, depth=2),
        "MLP",
        {"activation": "tanh", "widths": "constant", "initialization": "xavier"},
        (784 * 200 + 200) + 2 * (200 * 200 + 200) + (200 * 100 + 100) + (50 * 200 + 200) + (200 * 784 + 784),
        425_284,
    ),
    # 784-512, two blocks of two layers with a normalisation each, one more normalisation, 512-4; and back
    "residual": (
        Sizes(),
        "ResidualMLP",
        {"normalization": "layer"},
        (784 * 512 + 512)
        + 2 * (2 * (2 * (512 * 512 + 512) + 2 * 1024) + 1024)
        + (512 * 4 + 4)
        + (2 * 512 + 512)
        + (512 * 784 + 784),
        2_919_188,
    ),
    # 1 x 28 x 28, 32 x 14 x 14, 64 x 7 x 7 = 3136, 512, 4; and back
    "conv": (
        Sizes(),
        "Conv",
        {},
        (16 * 32 + 32)
        + (16 * 32 * 64 + 64)
        + (3136 * 512 + 512)
        + (512 * 4 + 4)
        + (2 * 512 + 512)
        + (512 * 3136 + 3136)
        + (16 * 64 * 32 + 32)
        + (16 * 32 * 1 + 1),
        3_285_189,
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_as_many_as_counted_by_hand(name: str) -> None:
    sizes, kind, settings, sum_by_hand, total = COUNTS[name]
    model = VAE(
        latent_dim=sizes.latent_dim,
        hidden_dim=sizes.hidden_dim,
        depth=sizes.depth,
        encoder={"name": f"{kind}Encoder", **settings},
        decoder={"name": f"{kind}Decoder", **settings},
    )
    assert model.count_parameters() == sum_by_hand == total


# --- settings ---------------------------------------------------------------------------------------------------------


def plain(*widths: int) -> Sequence[nn.Module]:
    """Return torch's own linear layers with SiLU between them."""
    layers = [
        layer for inputs, outputs in itertools.pairwise(widths) for layer in (nn.Linear(inputs, outputs), nn.SiLU())
    ]
    return layers[:-1]


def test_without_settings_the_networks_are_plain_torch_bit_for_bit() -> None:
    torch.manual_seed(5)
    ours = MLPEncoder(Sizes(), 4), MLPDecoder(Sizes(), (1, 28, 28))
    torch.manual_seed(5)
    theirs = nn.Sequential(nn.Flatten(), *plain(784, 512, 256, 4)), nn.Sequential(*plain(2, 256, 512, 784))
    for network, reference, given in zip(ours, theirs, (random(3, 1, 28, 28), random(3, 2)), strict=True):
        expected = {f"layers.{name}": weight for name, weight in reference.state_dict().items()}
        assert list(network.state_dict()) == list(expected)
        assert all(torch.equal(weight, expected[name]) for name, weight in network.state_dict().items())
        assert torch.equal(network(given).flatten(1), reference(given))


@every_setting
def test_each_setting_gives_finite_numbers_and_every_weight_a_gradient(kind: str, settings: dict[str, Any]) -> None:
    for network, given in zip(pair(kind, **settings), (random(8, 3, 8, 8), random(8, 3)), strict=True):
        numbers = network(given)
        assert numbers.isfinite().all()
        assert numbers.std(0).min() > 0  # they depend on what comes in
        numbers.square().sum().backward()
        for name, weight in network.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
            assert weight.grad.abs().sum() > 0, name


@every_kind
def test_every_activation_makes_another_function_of_the_same_weights(kind: str) -> None:
    found = [network(random(4, 3)) for name in ACTIVATIONS for network in pair(kind, activation=name)[1:]]
    assert all(not torch.allclose(one, other, atol=1e-5) for one, other in itertools.combinations(found, 2))


@pytest.mark.parametrize("compiled", [False, True])
def test_tanh_and_its_slope_against_float64(compiled: bool) -> None:
    tanh = torch.compile(Tanh(), backend="aot_eager") if compiled else Tanh()
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-math.inf, -200.0, -1e-30, 0.0, 200.0, math.inf])])
    for dtype, digits in ((torch.float32, 3e-7), (torch.float64, 1e-15)):
        at = x.detach().to(dtype).requires_grad_()
        (slope,) = torch.autograd.grad(tanh(at).sum(), at)
        exact = at.detach().double().tanh()
        torch.testing.assert_close(tanh(at).double(), exact, rtol=0, atol=digits)
        torch.testing.assert_close(slope.double(), 1 - exact.square(), rtol=0, atol=2 * digits)


def test_a_normalised_layer_against_arithmetic_by_hand() -> None:
    encoder, _ = pair("MLP", activation="tanh", normalization="layer", widths="constant")
    weights = {name: weight.detach().double() for name, weight in encoder.named_parameters()}
    x = h = random(5, 3, 8, 8).double().flatten(1)
    for linear, norm in ((1, 2), (4, 5)):
        h = h @ weights[f"layers.{linear}.weight"].T + weights[f"layers.{linear}.bias"]
        h = (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        h = (h * weights[f"layers.{norm}.weight"] + weights[f"layers.{norm}.bias"]).tanh()
    h = h @ weights["layers.7.weight"].T + weights["layers.7.bias"]
    torch.testing.assert_close(encoder.double()(x.view(5, 3, 8, 8)), h)


def test_a_residual_network_against_arithmetic_by_hand() -> None:
    _, decoder = pair("ResidualMLP", activation="relu", normalization="none")
    layers = [layer for layer in decoder.double().modules() if isinstance(layer, nn.Linear)]
    assert len(layers) == 2 + 2 * SIZES.depth
    z = random(5, 3, dtype=torch.float64)
    h = layers[0](z)
    for one, two in ((1, 2), (3, 4)):
        h = h + layers[two](layers[one](h.clamp(min=0)).clamp(min=0))
    torch.testing.assert_close(decoder(z), layers[-1](h.clamp(min=0)).view(5, 3, 8, 8))


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (8, 1), (16, 1), (24, 1), (32, 2), (40, 2), (48, 3), (64, 4), (67, 1), (128, 8)]
)
def test_groups_have_sixteen_channels_where_they_divide_so(channels: int, groups: int) -> None:
    assert count_groups(channels) == groups


@every_setting
def test_what_becomes_of_an_example_does_not_depend_on_the_others(kind: str, settings: dict[str, Any]) -> None:
    given = random(6, 3, 8, 8, dtype=torch.float64), random(6, 3, dtype=torch.float64)
    for network, batch in zip(pair(kind, **settings), given, strict=True):
        together = network.double()(batch)
        torch.testing.assert_close(torch.cat([network(one[None]) for one in batch]), together, rtol=1e-10, atol=1e-12)
        assert not list(network.buffers())


@every_kind
def test_the_context_is_seen_by_its_own_example_alone(kind: str) -> None:
    sizes = Sizes((1, 8, 8), latent_dim=3, hidden_dim=16, depth=2, classes=4, context_dim=4)
    context, other = torch.eye(4, dtype=torch.bool), torch.eye(4, dtype=torch.bool)[[0, 1, 3, 3]]
    for network, given in zip(pair(kind, sizes), (random(4, 1, 8, 8), random(4, 3)), strict=True):
        changed = (network(given, context) - network(given, other)).flatten(1).abs().amax(1)
        assert (changed > 1e-6).tolist() == [False, False, True, False]


# --- initial weights --------------------------------------------------------------------------------------------------

LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, int, int] | tuple[int]]] = {
    "linear": (lambda: nn.Linear(400, 300), (400,)),
    "conv": (lambda: _down((24, 16, 16), (40, 8, 8)), (24, 16, 16)),
    "transposed": (lambda: _up((40, 8, 8), (24, 16, 16)), (40, 8, 8)),
}
VARIANCE: dict[str, Callable[[float, float], float]] = {
    "xavier": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "he": lambda fan_in, fan_out: 2 / fan_in,
}


def middle(numbers: Tensor) -> tuple[int, ...]:
    """Return the place of the first channel's middle pixel, or of the first number."""
    return (0, 0, *(size // 2 for size in numbers.shape[2:]))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("how", VARIANCE)
def test_initial_weights_have_the_variance_that_is_stated(layer: str, how: str) -> None:
    """Fans are counted: what an output is the sum of, and where an input goes, in the middle of an image."""
    torch.manual_seed(0)
    made, shape = LAYERS[layer]
    built = made()
    initialize(nn.Sequential(built), how)
    assert not built.bias.any()
    x = torch.zeros(1, *shape)
    x[middle(x)] = 1
    x.requires_grad_()
    y = built(x)
    (gradient,) = torch.autograd.grad(y[middle(y)], x)
    fan_in, fan_out = gradient.count_nonzero().item(), y.count_nonzero().item()
    assert (fan_in, fan_out) == fans(built)
    variance = VARIANCE[how](fan_in, fan_out)
    weight = built.weight.detach()
    assert weight.mean().abs() < 5 * (variance / weight.numel()) ** 0.5
    assert weight.var().item() == pytest.approx(variance, rel=5 * (2 / weight.numel()) ** 0.5)
    assert (weight.abs().max() <= (3 * variance) ** 0.5 * (1 + 1e-6)) == (how == "xavier")  # uniform, or not
    y = built(random(256, *shape)).detach()
    inner = y[..., 2:-2, 2:-2] if y.dim() == 4 else y
    assert inner.var().item() == pytest.approx(fan_in * variance, rel=0.1)


@pytest.mark.parametrize("layer", LAYERS)
def test_orthogonal_weights_are(layer: str) -> None:
    torch.manual_seed(0)
    built = LAYERS[layer][0]()
    initialize(nn.Sequential(built), "orthogonal")
    matrix = built.weight.detach().double().flatten(1)
    matrix = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix), dtype=torch.float64), rtol=0, atol=1e-5)


@every_kind
@pytest.mark.parametrize("how", ["torch", "xavier", "he", "orthogonal"])
def test_initial_weights_are_a_function_of_the_seed(kind: str, how: str) -> None:
    def weights(seed: int) -> list[Tensor]:
        names = [
            f"model.{part.lower()}={{name: {kind}{part}, initialization: {how}}}" for part in ("Encoder", "Decoder")
        ]
        model = build_model(load(None, [f"run.seed={seed}", "model.hidden_dim=16", *names]), (1, 8, 8))
        return [weight.detach() for weight in model.parameters()]

    first, again, other = weights(3), weights(3), weights(4)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    differ = [not torch.equal(one, two) for one, two in zip(first, other, strict=True)]
    assert all(differ[i] for i, weight in enumerate(first) if weight.dim() > 1)


# --- half precision, configuration ------------------------------------------------------------------------------------


@every_setting
def test_under_autocast_numbers_are_in_bfloat16_and_near_those_of_float32(kind: str, settings: dict[str, Any]) -> None:
    for network, given in zip(pair(kind, **settings), (random(4, 3, 8, 8), random(4, 3)), strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            numbers = network(given)
        assert numbers.dtype == torch.bfloat16
        assert (numbers - network(given)).abs().max() < 0.05 * network(given).abs().max()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.depth=10"], None),  # 512, 256, ..., 1
        (["model.depth=11"], ["model.depth = 11", "MLPEncoder", "model.encoder.widths=constant"]),
        (["model.depth=11", "model.encoder=ResidualMLPEncoder"], ["MLPDecoder", "model.decoder.widths=constant"]),
        (["model.depth=11", "model.encoder.widths=constant", "model.decoder.widths=constant"], None),
        (["model.depth=11", "model.encoder=ConvEncoder", "model.decoder=ResidualMLPDecoder"], None),
        (["model.hidden_dim=8", "model.depth=2", "model.encoder.normalization=layer"], None),  # 8, 4
        (["model.hidden_dim=8", "model.depth=3", "model.encoder.normalization=layer"], ["'layer'", "width of 2"]),
        (
            ["model.hidden_dim=2", "model.decoder={name: ResidualMLPDecoder, normalization: layer}"],
            ["model.decoder.normalization", "width of 2"],
        ),
        (["model.decoder={name: ConvDecoder, channels: 1, normalization: group}"], ["'group'", "width of 1"]),
        (["model.decoder={name: ConvDecoder, channels: 1}"], None),
        (["model.encoder.normalization=group"], ["normalization", "group", "layer"]),
        (["model.encoder.activation=swish"], ["activation", "swish", "silu"]),
        (["model.encoder={name: ConvEncoder, channels: 0}"], ["model.encoder.channels", "0"]),
    ],
    ids=lambda value: " ".join(value) if value else "may be",
)
def test_networks_that_mean_nothing_are_refused(settings: list[str], words: list[str] | None) -> None:
    if words is None:
        assert load(None, settings)
        return
    with pytest.raises(InputError) as refusal:
        load(None, settings)
    assert all(word in str(refusal.value) for word in words), str(refusal.value)
