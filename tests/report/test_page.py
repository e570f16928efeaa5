"""The page of a report in a real browser: headless Chromium, which .ci/run installs."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page, sync_playwright

from tests.helpers import DATA
from tests.helpers.folders import SIZE, write_data, write_run
from vae.model import VAE
from vae.networks.options import ACTIVATIONS
from vae.report.writing import write_report
from vae.run.finished import Loader

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium: not installed")

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
FRONT = ".plane-front"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # root has no sandbox; software rendering is enough and needs no GPU
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of the usual net; colour under a Normal; a sweep over latent sizes with a long name; a run unfinished."""
    top = tmp_path_factory.mktemp("reports")
    grey = write_data(top)
    (top / "colour").mkdir()
    colour = write_data(top / "colour", channels=3)
    (top / "opacity").mkdir()
    opacity = write_data(top / "opacity", channels=4)
    normal = ["model.latent_dim=6", "model.likelihood=Normal", "model.depth=3"]
    runs = {
        "plane": write_run(top / "plane", grey),
        "colour": write_run(top / "colour" / "run", colour, *normal, shape=(3, SIZE, SIZE)),
        "opacity": write_run(top / "opacity" / "run", opacity, *normal, shape=(4, SIZE, SIZE)),
        "continuous": write_run(top / "continuous", grey, "model.likelihood=ContinuousBernoulli"),
        "pixel std": write_run(top / "pixel_std", grey, "model.likelihood=NormalPixelStd"),
        "sweep": top / ("sweep_" * 30),
        "unfinished": write_run(top / "unfinished", grey, finished=False),
    }
    for dim in (2, 14):
        write_run(runs["sweep"] / f"latent_dim={dim}", grey, f"model.latent_dim={dim}")
    for path in runs.values():
        write_report([path])
    return runs


class Opened:
    """A page in a window of its own, and all that went wrong in it."""

    def __init__(self, browser: Browser, folder: Path, *, phone: bool = False, dark: bool = False):
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(
            viewport=PHONE if phone else DESK,  # pyright: ignore[reportArgumentType]
            has_touch=phone,
            is_mobile=phone,
            color_scheme="dark" if dark else "light",
        )
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto((folder / "report.html").as_uri())
        self.settle()

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    @property
    def z(self) -> list[float]:
        return self.page.evaluate("Array.from(document.getElementById('explorer').explorer.z)")

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Return what the page's decoder gives for latents (N, D)."""
        program = "all => all.map(z => Array.from(document.getElementById('explorer').explorer.decode(z)))"
        return np.array(self.page.evaluate(program, z.tolist()))

    def shown(self, part: str = "decoded") -> np.ndarray:
        """Return the pixels (H, W, 3) of a canvas, 0 to 255."""
        self.settle()
        width, height, data = self.page.evaluate(
            """part => {
                const canvas = document.querySelector(`canvas[data-part=${part}]`);
                const { width, height } = canvas;
                const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
                copy.drawImage(canvas, 0, 0);
                return [width, height, Array.from(copy.getImageData(0, 0, width, height).data)];
            }""",
            part,
        )
        return np.array(data).reshape(height, width, 4)[..., :3]

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")


@pytest.fixture
def opened(browser: Browser, folders: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Opened]:
    """The page that a test is parametrised with: its name and how it is shown; nothing may go wrong in it."""
    name, shown = getattr(request, "param", ("plane", {}))
    window = Opened(browser, folders[name], **shown)
    yield window
    assert window.problems == []
    assert [url for url in window.requests if not url.startswith(("file:", "data:"))] == []
    window.context.close()


def on(*cases: tuple[str, dict[str, bool]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("opened", cases, indirect=True, ids=str)


EVERYWHERE = [
    (name, {"phone": phone}) for name in ("plane", "colour", "sweep", "unfinished") for phone in (False, True)
]


def model_of(folder: Path) -> VAE:
    return Loader().open(folder).model.eval()


def means(folder: Path, z: np.ndarray) -> np.ndarray:
    """Return what PyTorch decodes from latents (N, D): (N, C, H, W) in [0, 1]."""
    with torch.no_grad():
        return model_of(folder).decode(torch.from_numpy(z.astype(np.float32))).mean.clamp(0, 1).numpy()


# --- every page -------------------------------------------------------------------------------------------------------


@on(*EVERYWHERE)
def test_it_opens_without_an_error_and_fits_the_window(opened: Opened) -> None:
    opened.page.wait_for_load_state("load")
    assert opened.overflow() <= 0
    assert opened.page.locator("h1").inner_text().startswith("VAE report: ")
    images = opened.page.locator("img")
    assert images.count() >= 2
    assert images.evaluate_all("all => all.every(image => image.complete && image.naturalWidth > 0)")


@on(("plane", {}), ("plane", {"dark": True}))
def test_texts_can_be_read_in_light_and_dark(opened: Opened) -> None:
    colors = opened.page.evaluate(
        """["--paper", "--raised", "--ink", "--quiet", "--accent"].map(name =>
            getComputedStyle(document.documentElement).getPropertyValue(name))"""
    )
    paper, raised, *inks = (luminance(color.strip()) for color in colors)
    for back in (paper, raised):
        for ink in inks:
            assert (max(back, ink) + 0.05) / (min(back, ink) + 0.05) >= 4.5  # WCAG 2.2, contrast of texts
    seen = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (seen == "rgb(255, 255, 255)") == (paper > 0.5)


def luminance(color: str) -> float:
    """Return the relative luminance of `#rrggbb` (WCAG 2.2)."""
    values = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# --- the decoder ------------------------------------------------------------------------------------------------------

DECODED = [("plane", {}), ("colour", {}), ("opacity", {}), ("continuous", {}), ("pixel std", {})]


@pytest.mark.parametrize("opened", DECODED, indirect=True, ids=str)
def test_decoded_pixels_agree_with_pytorch(
    opened: Opened, folders: dict[str, Path], request: pytest.FixtureRequest
) -> None:
    folder = folders[request.node.callspec.params["opened"][0]]
    z = np.random.default_rng(0).normal(size=(300, len(opened.z))) * 1.5
    expected = means(folder, z).reshape(len(z), -1)
    assert np.ptp(expected, axis=0).max() > 0.5  # images depend on z
    assert np.abs(opened.decode(z) - expected).max() < 1 / 255


def test_each_activation_agrees_with_pytorch(opened: Opened, folders: dict[str, Path]) -> None:
    program = """activation => {
        const root = document.getElementById("explorer");
        const { constructor, model } = root.explorer;
        root.explorer = new constructor(root, { ...model, activation });
    }"""
    trained = model_of(folders["plane"])
    z = np.random.default_rng(0).normal(size=(100, 2)) * 1.5
    found = []
    for activation in ACTIVATIONS:
        opened.page.evaluate(program, activation)
        model = VAE(
            trained.image_shape, hidden_dim=32, decoder={"name": "MLPDecoder", "activation": activation}
        ).requires_grad_(False)
        model.load_state_dict(trained.state_dict())
        found.append(opened.decode(z))
        expected = model.decode(torch.from_numpy(z.astype(np.float32))).mean.flatten(1).numpy()
        assert np.abs(found[-1] - expected).max() < 1 / 255, activation
    for one, other in itertools.combinations(found, 2):
        assert np.abs(one - other).max() > 2 / 255  # a wrong one would be seen


@pytest.mark.parametrize("opened", DECODED, indirect=True, ids=str)
def test_the_canvas_shows_what_pytorch_decodes(
    opened: Opened, folders: dict[str, Path], request: pytest.FixtureRequest
) -> None:
    folder = folders[request.node.callspec.params["opened"][0]]
    for _ in range(3):
        opened.page.get_by_role("button", name="Random start").click()
        shown = opened.shown()
        expected = 255 * over_white(means(folder, np.array([opened.z]))[0].transpose(1, 2, 0))
        assert np.abs(shown - expected).max() <= 1


def over_white(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, C), of four channels with the last one as the opacity of the others over white."""
    return image if image.shape[-1] < 4 else image[..., :3] * image[..., 3:] + (1 - image[..., 3:])


# --- moving -----------------------------------------------------------------------------------------------------------


def test_the_pointer_moves_along_the_plane(opened: Opened) -> None:
    opened.page.locator(FRONT).scroll_into_view_if_needed()
    box = opened.page.locator(FRONT).bounding_box()
    assert box is not None
    limit = opened.page.evaluate("document.getElementById('explorer').explorer.model.limit")
    pictures = []
    for along, up in ((0.5, 0.5), (0.75, 0.5), (0.25, 0.9)):
        opened.page.mouse.move(box["x"] + along * box["width"], box["y"] + (1 - up) * box["height"])
        pictures.append(opened.shown())
        assert opened.z == pytest.approx([(2 * along - 1) * limit, (2 * up - 1) * limit], abs=0.05)
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[1], pictures[2])


def test_the_keyboard_moves_along_the_plane_and_the_sliders(opened: Opened) -> None:
    opened.page.locator(FRONT).focus()
    start = opened.shown()
    for key in ("ArrowRight", "ArrowUp", "ArrowUp", "Shift+ArrowLeft"):
        opened.page.keyboard.press(key)
    assert opened.z == pytest.approx([-0.4, 0.2], abs=1e-6)
    assert not np.array_equal(opened.shown(), start)
    opened.page.keyboard.press("Home")
    assert opened.z == [0, 0]
    opened.page.locator("input[type=range]").nth(1).focus()
    opened.page.keyboard.press("ArrowRight")
    opened.settle()
    assert opened.z == pytest.approx([0, 0.01], abs=0.02)
    assert opened.z[1] > 0


@on(("plane", {"phone": True}))
def test_a_finger_moves_along_the_plane_while_the_picture_stays_in_sight(opened: Opened) -> None:
    opened.page.locator(FRONT).scroll_into_view_if_needed()
    before = opened.shown()
    box = opened.page.locator(FRONT).bounding_box()
    assert box is not None
    opened.page.touchscreen.tap(box["x"] + 0.8 * box["width"], box["y"] + 0.7 * box["height"])
    assert not np.array_equal(opened.shown(), before)
    assert opened.page.locator(FRONT).evaluate("it => getComputedStyle(it).touchAction") == "none"  # no scrolling
    opened.page.locator("[data-part=examples] button").last.tap()
    picture = opened.page.locator("canvas[data-part=decoded]").bounding_box()
    assert picture is not None
    assert picture["y"] >= 0
    assert picture["y"] + picture["height"] <= PHONE["height"]


@on(*[(name, {"phone": True}) for name in ("plane", "colour")])
def test_what_is_touched_is_large_enough(opened: Opened) -> None:
    for button in opened.page.locator("#explorer button").all():
        box = button.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 43  # of 44, WCAG 2.2's enhanced target size


def test_a_test_image_is_encoded(opened: Opened, folders: dict[str, Path]) -> None:
    run = Loader().open(folders["plane"])
    buttons = opened.page.locator("[data-part=examples] button")
    assert buttons.count() == 30
    for place in (0, 17):
        buttons.nth(place).click()
        index = int(buttons.nth(place).get_attribute("title").split()[2].strip(","))  # pyright: ignore[reportOptionalMemberAccess]
        image = run.data.test.images[index]
        with torch.no_grad():
            mean = run.model.encode(image[None]).mean[0]
        assert opened.z == pytest.approx(mean.tolist(), abs=1e-5)
        assert np.abs(opened.shown("original") - 255 * image.numpy().transpose(1, 2, 0)).max() <= 0.51
        assert (
            np.abs(opened.shown() - 255 * means(folders["plane"], mean[None].numpy())[0].transpose(1, 2, 0)).max() <= 1
        )


@on(("sweep", {}))
def test_another_run_is_chosen(opened: Opened) -> None:
    assert opened.page.locator(".plane").is_visible()
    assert opened.page.locator("input[type=range]").count() == 2
    opened.page.get_by_label("Run", exact=True).select_option("latent_dim = 14, seed 0")
    opened.settle()
    assert len(opened.z) == 14
    assert not opened.page.locator(".plane").is_visible()
    sliders = opened.page.locator("input[type=range]")
    assert sliders.count() == 12
    before = opened.shown()
    sliders.first.evaluate("it => { it.value = 2; it.dispatchEvent(new Event('input')); }")
    assert not np.array_equal(opened.shown(), before)
    assert sorted(opened.z)[-1] == 2
    assert "latent_dim=14" in opened.page.locator("[data-model='1']").inner_text()
    assert not opened.page.locator("[data-model='0']").is_visible()


def test_everything_that_moves_has_a_name_and_can_be_reached(opened: Opened) -> None:
    controls = opened.page.locator("#explorer button, #explorer input, #explorer canvas[tabindex]")
    for control in controls.all():
        name = control.evaluate("it => it.ariaLabel || it.title || it.textContent || it.closest('label').textContent")
        assert name.strip()
        assert control.evaluate("it => it.tabIndex") == 0


@on(("unfinished", {}))
def test_an_unfinished_run_says_so(opened: Opened) -> None:
    assert "epoch 2.0 of 4" in opened.page.locator("main").inner_text()
    assert opened.page.locator("#explorer").count() == 0


# --- the page of the default net --------------------------------------------------------------------------------------


def test_the_page_of_the_default_net_is_small_and_exact(browser: Browser, tmp_path: Path) -> None:
    default = ["data.name=MNIST", f"data.root={DATA}", "model.hidden_dim=512"]
    folder = write_run(tmp_path / "run", Path("unused"), *default, shape=(1, 28, 28))
    write_report([folder])
    assert (folder / "report.html").stat().st_size < 5_000_000
    window = Opened(browser, folder)
    z = np.random.default_rng(0).normal(size=(100, 2)) * 1.5
    assert np.abs(window.decode(z) - means(folder, z).reshape(100, -1)).max() < 1 / 255
    assert window.problems == []
    window.context.close()
