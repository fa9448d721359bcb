"""What people see, in a real browser: the notebook with the explorer in JupyterLab, and the report page.

Skipped where there is no Chromium; in CI (the environment variable CI is set) that is a failure. CHROMIUM may name it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

import capmismatch as cm

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PATIENCE = 180_000

Browser = Any  # playwright is imported late, so that the tests can be skipped without it


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no browser: none of {names} is on the path")
    sync_api = pytest.importorskip("playwright.sync_api")
    arguments = ["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"]
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=arguments, timeout=PATIENCE)
        yield launched
        launched.close()


@contextmanager
def page_of(browser: Browser, folder: Path, **options: Any) -> Iterator[Any]:
    """A page without network, which fails the test if it asks for any or if its scripts fail.

    Leaves ``last.png`` in the folder: how the page looked at the end, also of a test that failed.
    """
    wanted: list[str] = []
    with browser.new_context(**options) as context:

        def answer(route: Any) -> None:
            if urlsplit(route.request.url).hostname in (None, "localhost", "127.0.0.1"):
                route.continue_()
            else:
                wanted.append(route.request.url)
                route.abort()

        context.route("**/*", answer)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        try:
            yield page
        finally:
            page.screenshot(path=folder / "last.png")
        assert not wanted
        assert not errors


# The report ----------------------------------------------------------------------------------------------------------

LONG = "vit_base_patch16_clip_224.openai_ft_in12k_in"
STUDY = """
name = "widths <of> networks"
question = "Does a page with long names, such as these, fit a phone?"
results = "students.csv"

[[family]]
source = "logits:saved.npz"
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a whole study: saved logits of six teachers with long names, and the results of their students."""
    folder = tmp_path_factory.mktemp("study")
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 5
    shared = generator.normal(size=(90, 5)) + 2 * np.eye(5)[labels]
    arrays: dict[str, Any] = {
        "labels": labels,
        "split": np.repeat(["val", "test"], 45),
        "classes": np.array(["cat", "dog", "<b>car</b>", "a class with a long name", "$x$"]),
    }
    lines = ["family,teacher,method,tau,seed,split,accuracy"]
    for size in range(1, 7):
        arrays[f"logits_{LONG}{size}"] = (size * shared + generator.normal(size=shared.shape)).astype(np.float32)
        arrays[f"params_{LONG}{size}"] = np.array(10**size)
        for split in ("val", "test"):
            accuracy = [0.7 - 0.01 * abs(size - 4) + 0.0002 * seed * size for seed in range(2)]
            lines += [f"saved,{LONG}{size},KD,4,{seed},{split},{value}" for seed, value in enumerate(accuracy)]
    np.savez(folder / "saved.npz", **arrays)
    (folder / "students.csv").write_text("\n".join(lines), encoding="utf-8")
    (folder / "study.toml").write_text(STUDY, encoding="utf-8")
    cm.load_study(folder / "study.toml", progress=False).run()
    return folder / "report.html"


SCREENS = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_the_report_fits_the_screen(browser: Browser, report: Path, tmp_path: Path, screen: str, scheme: str) -> None:
    with page_of(browser, tmp_path, viewport=SCREENS[screen], color_scheme=scheme) as page:
        page.goto(report.as_uri())
        page.screenshot(path=tmp_path / "report.png", full_page=True)
        width, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert width <= room, "the page scrolls sideways"
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground.strip("rgb()").split(","))) > 3 * 128) == (scheme == "light")
        # Wide things scroll in boxes of their own; nothing else sticks out of the page.
        outside = page.evaluate(
            """() => [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, .skip")
                 && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML)"""
        )
        assert not outside
        pictures = page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)")
        assert len(pictures) >= 8 and all(pictures)
        # Text in pictures stays readable: none is shrunk below half of the size it is made for, 6.5 inches wide.
        assert all(width >= 300 for width in page.evaluate("[...document.images].map(i => i.width)"))


def test_the_first_screen_holds_the_answer_and_its_pictures(browser: Browser, report: Path, tmp_path: Path) -> None:
    with page_of(browser, tmp_path, viewport={"width": 1280, "height": 800}) as page:
        page.goto(report.as_uri())
        bottoms = page.locator("#answer .pick, #answer .facts, #answer img").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect().bottom)"
        )
        assert len(bottoms) == 4 and max(bottoms) <= 800
        words = page.evaluate("document.body.innerText.split(/\\s+/).length")
        assert words <= 900, "what is long is folded"
        tables = page.locator(".table:has(#teachers)").evaluate_all(
            "all => all.map(e => e.scrollWidth - e.clientWidth)"
        )
        assert max(tables) <= 0


def test_what_is_folded_opens_where_a_link_leads_into_it(browser: Browser, report: Path, tmp_path: Path) -> None:
    with page_of(browser, tmp_path, viewport=SCREENS["desktop"]) as page:
        page.goto(report.as_uri())
        code = page.locator("a.code").first
        target = page.locator(str(code.get_attribute("href")))
        assert not target.is_visible()
        code.click()
        assert target.is_visible()


def test_tables_of_the_report_sort(browser: Browser, report: Path, tmp_path: Path) -> None:
    with page_of(browser, tmp_path, viewport=SCREENS["desktop"]) as page:
        page.goto(report.as_uri())
        table = page.locator(".table:has(#teachers) table")
        button = table.locator("thead button", has_text=re.compile("^params$"))
        place = 1 + button.evaluate("button => button.closest('th').cellIndex")

        def column() -> list[float]:
            cells = table.locator(f"tbody td:nth-child({place})")
            return [float(key) for key in cells.evaluate_all("cells => cells.map(cell => cell.dataset.key)")]

        before = column()
        button.click()
        assert column() == sorted(before) == [10.0**size for size in range(1, 7)]
        assert button.locator("..").get_attribute("aria-sort") == "ascending"
        button.focus()
        page.keyboard.press("Enter")
        assert column() == sorted(before, reverse=True)


def test_the_report_prints(browser: Browser, report: Path, tmp_path: Path) -> None:
    with page_of(browser, tmp_path, viewport=SCREENS["desktop"]) as page:
        page.goto(report.as_uri())
        page.emulate_media(media="print")
        printed = page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
        assert printed.startswith(b"%PDF")
        assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        hidden = page.evaluate(
            "[...document.querySelectorAll('.scroll')].filter(e => getComputedStyle(e).overflow !== 'visible').length"
        )
        assert hidden == 0, "paper does not scroll"
        unseen = page.locator("details table, details img").evaluate_all(
            "all => all.filter(e => !e.checkVisibility()).length"
        )
        assert unseen == 0, "paper does not unfold"
        # A4 is 210 mm wide, 297 mm for the tables, with 15 mm of margin on each side; 96 px are 25.4 mm.
        for box, millimetres in (("main > section:not(#tables)", 180), ("#tables", 267)):
            page.set_viewport_size({"width": round(millimetres / 25.4 * 96), "height": 900})
            widths = page.locator(f"{box} table, {box} img").evaluate_all("all => all.map(e => e.offsetWidth)")
            assert widths and max(widths) <= millimetres / 25.4 * 96 + 1, box


# JupyterLab ----------------------------------------------------------------------------------------------------------

EVIL = "<img src=x onerror=alert(1)>"
CELLS = [
    f"""
evil = {EVIL!r}
"""
    + """
import numpy as np
import capmismatch as cm

generator = np.random.default_rng(0)
labels = np.arange(400) % 8
shared = generator.normal(size=(400, 8)) + 2 * np.eye(8)[labels]
bank = cm.bank_from_arrays(
    {f"net{size}": size * shared + generator.normal(size=shared.shape) for size in (1, 2, 4)}, labels,
    classes=["cat", "dog", evil, "car", "ship", "deer", "frog", "$x_1$"],
    params={f"net{size}": 1000 * size for size in (1, 2, 4)},
)
cm.plots.variance_vs_capacity(cm.probe(bank, taus=[1, 4], progress=False));
""",
    """
images = generator.integers(0, 255, (400, 16, 16, 3), dtype=np.uint8)
cm.explore(bank, images=images)
""",
]


def notebook(cells: list[str]) -> dict[str, Any]:
    empty: dict[str, Any] = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    made = [{**empty, "id": f"cell-{place}", "source": text.strip()} for place, text in enumerate(cells)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": made}


def wait_for(what: Callable[[], Any], server: subprocess.Popen[bytes], log: Path) -> Any:
    """What a function returns as soon as it returns something; fails with the log if the server ends before."""
    end = time.monotonic() + PATIENCE / 1000
    while not (found := what()):
        if server.poll() is not None or time.monotonic() > end:
            pytest.fail(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.2)
    return found


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """Address of a JupyterLab on a free port that knows no settings but these; it serves ``tmp_path/notebooks``."""
    folders = {name: tmp_path / name for name in ("notebooks", "runtime", "config", "shared", "ipython", "settings")}
    for folder in folders.values():
        folder.mkdir()
    apart = {
        "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight are drawn too
    }
    for name, settings in apart.items():
        file = folders["settings"] / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    environment |= {
        "JUPYTER_RUNTIME_DIR": str(folders["runtime"]),
        "JUPYTER_CONFIG_DIR": str(folders["config"]),
        "JUPYTER_DATA_DIR": str(folders["shared"]),
        "IPYTHONDIR": str(folders["ipython"]),
        "JUPYTERLAB_SETTINGS_DIR": str(folders["settings"]),
        "JUPYTERLAB_WORKSPACES_DIR": str(folders["settings"]),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0",
        "--IdentityProvider.token=only-for-this-test",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.extension_manager=readonly",
        f"--ServerApp.root_dir={folders['notebooks']}",
    ]
    log = tmp_path / "lab.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        (file,) = wait_for(lambda: list(folders["runtime"].glob("jpserver-*.json")), server, log)
        told = wait_for(lambda: file.read_text(encoding="utf-8"), server, log)
        yield f"http://127.0.0.1:{json.loads(told)['port']}/lab/tree/{{}}?token=only-for-this-test"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def run_all(page: Any, address: str) -> None:
    """Open a notebook and run all its cells, once its kernel is ready."""
    page.goto(address)
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
    page.wait_for_function(
        "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    )
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")


def loaded(page: Any, selector: str, count: int) -> None:
    """Wait until so many images are there, each with its pixels."""
    page.wait_for_function(
        """([selector, count]) => { const all = [...document.querySelectorAll(selector)];
             return all.length === count && all.every(image => image.complete && image.naturalWidth > 100); }""",
        arg=[selector, count],
    )


FIGURES = ".jp-OutputArea-output img[src^='data:image/png']"
PICTURES = ".jp-OutputArea-output img.widget-image"
COMPLAINTS = ":is([data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type='application/vnd.jupyter.error'])"


def test_the_explorer_answers_in_jupyterlab(browser: Browser, lab: str, tmp_path: Path) -> None:
    (tmp_path / "notebooks" / "look.ipynb").write_text(json.dumps(notebook(CELLS)), encoding="utf-8")
    with page_of(browser, tmp_path, viewport={"width": 1280, "height": 1700}) as page:
        run_all(page, lab.format("look.ipynb"))
        loaded(page, FIGURES, 1)
        loaded(page, PICTURES, 3)
        assert page.locator(COMPLAINTS).count() == 0
        soft, ranks, example = (page.locator(PICTURES).nth(place) for place in range(3))
        page.screenshot(path=tmp_path / "isats.png")

        def changes(action: Callable[[], Any], *changed: Any) -> None:
            """An action changes these pictures, and no other one."""
            all_three = [soft, ranks, example]
            before = [picture.get_attribute("src") for picture in all_three]
            seen = [picture.screenshot() for picture in changed]
            action()
            for picture in changed:
                old = before[all_three.index(picture)]
                page.wait_for_function("([image, old]) => image.src !== old", arg=[picture.element_handle(), old])
            loaded(page, PICTURES, 3)
            assert all(picture.screenshot() != old for picture, old in zip(changed, seen, strict=True))
            for picture, old in zip(all_three, before, strict=True):
                assert (picture.get_attribute("src") == old) == (picture not in changed)

        assert page.get_by_label("Constraint").is_visible() and not page.get_by_label("τ of the others").is_visible()
        changes(lambda: page.get_by_label("Method").select_option("ATS"), soft, example)
        assert not page.get_by_label("Constraint").is_visible()
        changes(lambda: page.get_by_label("Class", exact=True).select_option(EVIL), ranks, example)
        changes(lambda: page.get_by_label("Example").select_option(index=3), example)

        def slide() -> None:
            page.locator(".widget-slider .noUi-handle").first.focus()
            page.keyboard.press("ArrowRight")

        changes(slide, soft, example)
        changes(lambda: page.get_by_label("Teachers").select_option(["net1", "net4"]), soft, ranks, example)
        page.get_by_text("The numbers").click()
        numbers = page.locator(".jp-OutputArea-output table")
        numbers.wait_for()
        assert "net4" in numbers.inner_text() and "net2" not in numbers.inner_text()
        page.screenshot(path=tmp_path / "ats.png")
        sizes = page.locator(PICTURES).evaluate_all("all => all.map(image => image.getBoundingClientRect().right)")
        assert max(sizes) <= 1280


def test_a_notebook_of_ours_runs_in_jupyterlab(browser: Browser, lab: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    shutil.copy(root / "notebooks" / "01_explore_a_family.ipynb", tmp_path / "notebooks")
    (tmp_path / "data").symlink_to(root / "data", target_is_directory=True)
    with page_of(browser, tmp_path, viewport={"width": 1280, "height": 1700}) as page:
        run_all(page, lab.format("01_explore_a_family.ipynb"))
        loaded(page, PICTURES, 3)  # the explorer stands in the last cell
        figures = page.locator(FIGURES).count()
        assert figures >= 4
        loaded(page, FIGURES, figures)
        assert page.locator(COMPLAINTS).count() == 0
        page.get_by_label("Method").scroll_into_view_if_needed()
