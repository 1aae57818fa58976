"""The site: built by its command, its links lead somewhere, and a browser opens each page without a complaint."""

import functools
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLAGS = "--headless=new --no-sandbox --disable-gpu --window-size=1300,900"
SECRETS = ("BEGIN SOLUTION", "BEGIN HIDDEN TESTS", "teacher/exercises")

pytestmark = pytest.mark.all


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "built"
    done = subprocess.run(["make", "site", f"SITE={out}"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode and re.search(r"No matching distribution|Could not find a version|ConnectionError", done.stderr):
        pytest.skip("Sphinx could not be installed")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return out


def pages(site):
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


def test_every_notebook_and_document_is_a_page_and_no_exercise_is(site):
    for source in [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "docs").glob("*.md")]:
        assert (site / source.relative_to(ROOT)).with_suffix(".html").is_file(), source.name
    for page in pages(site):
        text = page.read_text(encoding="utf-8")
        assert not [secret for secret in SECRETS if secret in text], page.name
        if page.parent.name == "notebooks":
            assert "colab.research.google.com/github/" in text, page.name
    front = (site / "index.html").read_text(encoding="utf-8")
    assert "An agent that asks, weighs and ranks" in front and "loop.svg" in front


def test_every_link_within_the_site_leads_somewhere(site):
    text = {page: page.read_text(encoding="utf-8") for page in pages(site)}
    names = {page: {*re.findall(r'\b(?:id|name)="([^"]+)"', html)} for page, html in text.items()}
    broken = []
    for page, html in text.items():
        for link in {*re.findall(r'(?:href|src)="([^"]+)"', html)}:
            address, anchor = urldefrag(link)
            if re.match(r"[a-z]+:|//", address) or not link or link == "#":
                continue
            target = (page.parent / unquote(address.split("?")[0])).resolve() if address else page
            if target.is_dir():
                target /= "index.html"
            if not target.is_file() or (anchor and target in names and unquote(anchor) not in names[target]):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken, "\n".join(broken)


def test_each_session_of_the_guide_has_slides(site, tmp_path):
    command = ["make", "slides", f"SLIDES={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    guide = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    sessions = re.findall(r"^\| (\d+) \|", guide, re.M)
    pages = {number: (tmp_path / f"session-{number}.html").read_text(encoding="utf-8") for number in sessions}
    assert len(sessions) == 6 and len(list(tmp_path.iterdir())) == 6
    assert all(page.count("<section>") > 5 and not re.search(r'(?:src|href)="https?:', page) for page in pages.values())
    assert "<math" in "".join(pages.values()) and "data:image/png" in "".join(pages.values())


@pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")), reason="there is no Chromium")
def test_a_browser_opens_each_page_without_an_error_in_its_console(site):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    handler = functools.partial(QuietHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            errors = []
            for page in pages(site):
                browser.get(f"http://127.0.0.1:{server.server_port}/{page.relative_to(site).as_posix()}")
                logs = browser.get_log("browser")
                errors += [(page.name, log["message"]) for log in logs if log["level"] == "SEVERE"]
        finally:
            browser.quit()
            server.shutdown()
    assert not errors, errors


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass
