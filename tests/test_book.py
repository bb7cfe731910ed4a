"""The book, built once and read in a real browser: every page of it, on a desktop and at a phone's width."""

from __future__ import annotations

import functools
import http.server
import json
import random
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlparse

import pytest

from tlora_ref.counts import WIDTHS, closed_forms, trained

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "tutorials"
SCRIPT = TUTORIALS / "_static" / "book.js"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("book")]  # the site is built once


# --- the site and the browser ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the built book, and what Sphinx warned of."""
    out = tmp_path_factory.mktemp("book")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", str(out / "doctrees")]
    result = subprocess.run([*command, str(TUTORIALS), str(out / "html")], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return out / "html", result.stderr


@pytest.fixture(scope="module")
def site(built):
    """The folder of the built book."""
    return built[0]


@pytest.fixture(scope="module")
def address(site):
    """The site on a port of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium that is installed on this machine."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(
            "no Chromium is installed here: apt-get install chromium, or any Chrome, and the book is read in it"
        )
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


class Seen:
    """A tab that remembers what goes wrong in it."""

    def __init__(self, browser, address, viewport):
        self.address, self.wrong = address, []
        self.page = browser.new_page(viewport=viewport, reduced_motion="reduce")
        self.page.on("console", lambda m: m.type == "error" and self.wrong.append(f"console: {m.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("requestfailed", lambda request: self.wrong.append(f"failed: {request.url}"))
        self.page.on("response", lambda r: r.status >= 400 and self.wrong.append(f"{r.status}: {r.url}"))
        self.page.on("request", self.asked)

    def asked(self, request):
        """A request to another host is wrong; data: and blob: leave the page for nowhere."""
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.wrong.append(f"another host: {request.url}")

    def open(self, name):
        """The page, loaded and typeset; what went wrong before is forgotten."""
        self.wrong.clear()
        self.page.goto(self.address + name, wait_until="load")
        self.page.evaluate("window.MathJax?.startup?.promise")
        return self.page


@pytest.fixture(scope="module")
def tab(browser, address):
    """A tab of a desktop's width."""
    seen = Seen(browser, address, DESKTOP)
    yield seen
    seen.page.close()


def names(site):
    """Every page by its address."""
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))


# --- what is in it ---------------------------------------------------------------------------------


def test_the_book_is_built_without_a_warning(built):
    assert built[1] == ""


def test_every_page_and_notebook_is_in_the_contents_once(site):
    """What stands in tutorials/ is found by rule; nothing is left out, whatever is added."""
    sidebar = (site / "index.html").read_text(encoding="utf-8").partition('class="sidebar-tree"')[2]
    sidebar = sidebar.partition("</aside>")[0]
    listed = re.findall(r'<li class="toctree-l1[^"]*"><a class="reference internal" href="([^"#]+)\.html"', sidebar)
    sources = [*TUTORIALS.glob("*.ipynb"), *TUTORIALS.glob("*.md"), *TUTORIALS.glob("notes/*.md")]
    pages = {path.relative_to(TUTORIALS).with_suffix("").as_posix() for path in sources} - {"index"}
    assert len(listed) == len(set(listed))
    assert pages - set(listed) == set()
    assert {"generated/jobs", "generated/contributing", "generated/changelog", "generated/api/tlora_ref"} <= set(listed)


def test_every_method_has_a_page_with_its_source_and_every_job_its_help(site):
    from tlora_ref.__main__ import JOBS
    from tlora_ref.lab.gallery import entries

    for entry in entries():
        text = (site / "generated" / "methods" / f"{entry.name}.html").read_text(encoding="utf-8")
        assert "highlight-python" in text
        assert f"methods/{entry.name}.html" in (site / "gallery.html").read_text(encoding="utf-8")
    jobs = (site / "generated" / "jobs.html").read_text(encoding="utf-8")
    for job in JOBS:
        assert f"usage: tlora-ref {job} " in jobs


def test_every_public_function_and_class_is_in_the_reference(site):
    import inspect

    import tlora_ref
    from tlora_ref import by_hand, gradcheck

    for module in (tlora_ref, by_hand, gradcheck):
        folder = site / "generated" / "api"
        text = "".join(path.read_text(encoding="utf-8") for path in folder.glob(f"{module.__name__}*.html"))
        for name in module.__all__:
            if inspect.isroutine(getattr(module, name)) or inspect.isclass(getattr(module, name)):
                assert re.search(rf'id="{module.__name__}[.\w]*\.{name}"', text), f"{module.__name__}.{name}"
    assert (site / "_modules" / "tlora_ref" / "by_hand" / "methods" / "tlora.html").exists()


def test_a_notebook_can_be_started_elsewhere_and_the_address_is_written_once(site):
    for path in TUTORIALS.glob("*.ipynb"):
        text = (site / f"{path.stem}.html").read_text(encoding="utf-8")
        assert f"/tutorials/{path.name}" in re.search(r'href="(https://colab\.research[^"]+)"', text)[1]
        assert re.search(r'href="(https://mybinder\.org[^"]+)"', text)[1].endswith(path.name)
    configuration = (TUTORIALS / "conf.py").read_text(encoding="utf-8")
    repository = re.search(r'^REPOSITORY = "(.*)"$', configuration, re.M)[1]
    assert configuration.count(repository) == 1
    assert f"github.com/{repository}" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_links_and_anchors_inside_the_site_resolve(site):
    text = {name: (site / name).read_text(encoding="utf-8") for name in names(site)}
    anchors = {name: set(re.findall(r'\sid="([^"]+)"', page)) for name, page in text.items()}
    broken = []
    for name, page in text.items():
        for target in re.findall(r'<a\s[^>]*?href="([^"]+)"', page):
            path, anchor = urldefrag(urljoin(f"http://book/{name}", target))
            if urlparse(path).netloc != "book":
                continue
            file = urlparse(path).path.lstrip("/") or "index.html"
            if not (site / file).exists() or (anchor and file in anchors and anchor not in anchors[file]):
                broken.append(f"{name}: {target}")
    assert broken == []


def test_every_figure_has_words(site):
    bare = []
    for name in names(site):
        for image in re.findall(r"<img\s[^>]*>", (site / name).read_text(encoding="utf-8")):
            words = re.search(r'\salt="([^"]*)"', image)
            if words is None or not words[1].strip() or words[1].endswith((".png", ".svg")):
                bare.append(f"{name}: {image[:120]}")
    assert bare == []


def test_the_script_is_one_short_file_and_the_first_page_is_light(site):
    assert list(SCRIPT.parent.glob("*.js")) == [SCRIPT]
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) < 400


# --- in the browser --------------------------------------------------------------------------------

RAW = r"""() => {
  // text that is shown and is neither code nor typeset, with signs of LaTeX in it
  const walk = document.createTreeWalker(document.querySelector("article") ?? document.body, NodeFilter.SHOW_TEXT);
  const raw = [];
  for (let node; (node = walk.nextNode());) {
    if (node.parentElement.closest("pre, code, script, style, mjx-container, .highlight, .output")) continue;
    if (/\$[^$\n]+\$|\\[([]|\\(frac|alpha|Delta|text|mathrm|begin)\b/.test(node.data)) raw.push(node.data.trim());
  }
  const bare = [...document.querySelectorAll(".math")].filter((m) => !m.querySelector("mjx-container"));
  const failed = [...document.querySelectorAll("mjx-merror")];
  return [...raw, ...bare.map((m) => m.textContent), ...failed.map((m) => m.textContent)];
}"""
"""What of a page's mathematics was not typeset."""


WIDE = """() => {
  // what reaches beyond the window and stands in no box that scrolls; the theme cuts it off, so nothing else shows it
  const page = document.querySelector("article") ?? document.body;
  return [...page.querySelectorAll("*")].filter((element) => {
    if (element.getBoundingClientRect().right <= innerWidth + 1) return false;
    if (getComputedStyle(element).visibility === "hidden") return false;
    for (let box = element.parentElement; box !== page; box = box.parentElement) {
      if (getComputedStyle(box).overflowX !== "visible") return false;
    }
    return getComputedStyle(element).overflowX === "visible" || element.parentElement === page;
  }).map((element) => element.outerHTML.slice(0, 100));
}"""
"""What of a page is wider than the window."""


@pytest.fixture(scope="module")
def visited(site, tab):
    """Of every page: what went wrong while it loaded, what was not typeset, and what is too wide for a phone."""
    found = {}
    for name in names(site):
        tab.page.set_viewport_size(DESKTOP)
        page = tab.open(name)
        wrong, raw = list(tab.wrong), page.evaluate(RAW)
        page.set_viewport_size(PHONE)
        page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
        found[name] = wrong, raw, page.evaluate(WIDE)
    tab.page.set_viewport_size(DESKTOP)
    return found


def test_every_page_loads_without_a_fault(visited):
    """No error on the console, no request that fails, none to another host."""
    assert {name: wrong for name, (wrong, _, _) in visited.items() if wrong} == {}


def test_every_formula_is_typeset(visited):
    assert {name: raw[:3] for name, (_, raw, _) in visited.items() if raw} == {}


def test_no_page_is_wider_than_a_phone(visited):
    assert {name: wide[:3] for name, (_, _, wide) in visited.items() if wide} == {}


KINDS = (
    "index", "interactive", "gallery", "syllabus", "gradient_checker", "03_is_it_right", "generated/methods/tlora",
    "generated/api/tlora_ref", "generated/jobs", "search",
)  # fmt: skip
"""A page of every kind: those of one template have the same faults."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(tab, scheme):
    pytest.importorskip("axe_playwright_python")
    from axe_playwright_python.base import AXE_FILE_PATH

    script, found = AXE_FILE_PATH.read_text(encoding="utf-8"), {}
    tab.page.emulate_media(color_scheme=scheme)
    for name in KINDS:
        page = tab.open(f"{name}.html")
        page.evaluate(script)
        violations = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
        serious = [v for v in violations if v["impact"] in ("serious", "critical")]
        if serious:
            found[name] = [
                (v["id"], len(v["nodes"]), v["nodes"][0]["html"][:160], v["nodes"][0]["target"]) for v in serious
            ]
    tab.page.emulate_media(color_scheme="light")
    assert found == {}, json.dumps(found, indent=1)


def test_the_search_finds_dalpha(tab):
    page = tab.open("search.html?q=dalpha")
    page.wait_for_selector("#search-results li a")
    found = page.eval_on_selector_all("#search-results li > a", "all => all.map((a) => a.textContent)")
    assert any("Gradients by hand" in title for title in found), found


def test_the_first_page_weighs_less_than_a_megabyte(browser, address):
    fresh = Seen(browser, address, DESKTOP)  # which has nothing in its cache
    weight = """[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
        .reduce((sum, entry) => sum + entry.encodedBodySize, 0)"""
    assert 50_000 < fresh.open("index.html").evaluate(weight) < 1_000_000
    fresh.page.close()


def test_code_is_copied_and_output_is_not(tab):
    page = tab.open("gradient_checker.html")
    assert page.locator("div.highlight-python .copybtn").count() > 0
    assert page.locator("div.highlight-text .copybtn").count() == 0


# --- the figures that answer -----------------------------------------------------------------------


def test_the_counts_of_the_page_are_those_of_the_package(tab):
    """200 settings of the four sliders, every method."""
    draw = random.Random(0)
    settings = [
        {"width": draw.choice(WIDTHS), "rank": draw.randint(1, 64), "layers": draw.randint(1, 32),
         "matrices": draw.randint(1, 4)}
        for _ in range(200)
    ]  # fmt: skip
    script = """(settings) => settings.map((setting) =>
        Object.fromEntries(Object.keys(forms.methods).map((method) => [method, trained(forms, method, setting)])))"""
    shown = tab.open("interactive.html").evaluate(script, settings)
    for setting, counts in zip(settings, shown, strict=True):
        D = setting["width"]
        kinds = ("query", "key", "value", "output")[: setting["matrices"]]
        for method, form in closed_forms()["methods"].items():
            places = [f"block{i}" for i in range(form["blocks"])] or kinds
            where = {f"layers.{layer}.{place}": (D, D) for layer in range(setting["layers"]) for place in places}
            assert counts[method] == trained(method, where, setting["rank"], D // 64), (method, setting)


def test_a_slider_moves_its_figure_from_the_keyboard(tab):
    page = tab.open("interactive.html")
    for kind in (".counts", "figure.scale", ".ucurve"):
        before = page.inner_html(f"{kind} {'tbody' if kind == '.counts' else 'svg'}")
        page.focus(f"{kind} input")
        page.keyboard.press("ArrowRight")
        assert page.inner_html(f"{kind} {'tbody' if kind == '.counts' else 'svg'}") != before, kind
    assert page.locator(".counts tbody tr").count() == len(closed_forms()["methods"])


def test_the_errors_of_the_curve_are_those_of_the_estimates(tab):
    """A U for the differences, and none for the complex step: the orders of h and of rounding."""
    error = "([name, exponent]) => differenceError(name, exponent)"
    at = functools.partial(lambda page, *key: page.evaluate(error, key), tab.open("interactive.html"))
    assert at("forward", 2) / at("forward", 3) == pytest.approx(10, rel=0.1)
    assert at("central", 2) / at("central", 3) == pytest.approx(100, rel=0.1)
    assert at("complex", 2) / at("complex", 3) == pytest.approx(100, rel=0.1)
    assert min(at("forward", 15), at("central", 15)) > 1e-4
    assert at("complex", 15) < 1e-15
