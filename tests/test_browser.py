"""The quickstart in a real browser: JupyterLab on loopback, headless Chromium, Run All Cells, and the final figure."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "00_quickstart.ipynb"
FLAGS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --window-size=1400,1000""".split()
TOKEN = "only-for-this-test"
MINUTES = 6

pytestmark = [
    pytest.mark.all,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="chromium or chromedriver is not installed (Debian: apt install chromium chromium-driver)",
    ),
]


@pytest.fixture
def notebook(tmp_path):
    """The quickstart as a reader opens it, without its outputs: what is seen later was made in the browser."""
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    path = tmp_path / "course" / "notebooks" / NOTEBOOK.name
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def lab(notebook, tmp_path):
    """The address of a JupyterLab that has the notebook, with settings and workspaces of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind.lower()) for kind in ("CONFIG", "RUNTIME")}
    places["JUPYTERLAB_SETTINGS_DIR"] = str(tmp_path / "settings")
    places["JUPYTERLAB_WORKSPACES_DIR"] = str(tmp_path / "workspaces")
    quiet = {"JUPYTER_PREFER_ENV_PATH": "1", "AGENTICREC_BUDGET": "short", "OMP_NUM_THREADS": "1"}
    # No news, and every cell drawn: by default the ones out of sight wait until somebody scrolls there.
    settings = {"@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
                "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"}}  # fmt: skip
    for plugin, values in settings.items():
        path = tmp_path / "settings" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
               f"--ServerApp.root_dir={notebook.parents[1]}"]  # fmt: skip
    with open(tmp_path / "lab.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env=os.environ | places | quiet, stdout=log, stderr=log, cwd=tmp_path)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(120):
            assert server.poll() is None, (tmp_path / "lab.log").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()  # it shuts its kernels down
        server.wait(timeout=60)


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    loopback = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    for flag in (*FLAGS, loopback, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def test_a_reader_runs_all_cells_and_sees_the_final_figure(lab, browser, notebook, tmp_path):
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    drawn = [i for i, cell in enumerate(cells) if any("image/png" in out.get("data", {}) for out in cell["outputs"])]
    folded = {i for i, cell in enumerate(cells) if cell["metadata"].get("jupyter", {}).get("source_hidden")}
    code_cells = (By.CSS_SELECTOR, ".jp-Notebook .jp-CodeCell")

    def click(selector: str, text: str) -> None:
        def found(driver):
            shown = [each for each in driver.find_elements(By.CSS_SELECTOR, selector) if each.text.strip() == text]
            return shown and shown[0].is_displayed() and shown[0]

        WebDriverWait(browser, 60).until(found).click()

    def prompts(driver) -> list[str]:
        return driver.execute_script(
            "return [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')].map(x => x.textContent)"
        )

    def finished(driver):
        errors = driver.find_elements(By.CSS_SELECTOR, '[data-mime-type="application/vnd.jupyter.error"]')
        assert not errors, errors[0].text
        return prompts(driver) == ["" if i in folded else f"[{i + 1}]:" for i in range(len(cells))]

    browser.get(f"{lab}/lab/tree/notebooks/{notebook.name}?token={TOKEN}")
    WebDriverWait(browser, 90).until(lambda driver: len(driver.find_elements(*code_cells)) == len(cells))
    WebDriverWait(browser, 90).until(
        lambda driver: "Idle" in (driver.find_element(By.CSS_SELECTOR, ".jp-Notebook-ExecutionIndicator")
                                  .get_attribute("data-status") or "").title()
    )  # fmt: skip
    click(".lm-MenuBar-itemLabel", "Run")
    click(".lm-Menu-itemLabel", "Run All Cells")
    try:
        WebDriverWait(browser, MINUTES * 60, poll_frequency=1).until(finished)
    except TimeoutException:
        log = (tmp_path / "lab.log").read_text(encoding="utf-8")[-2000:]
        pytest.fail(f"not finished after {MINUTES} minutes, the cells show {prompts(browser)}; the server says:\n{log}")

    figure = browser.find_elements(*code_cells)[drawn[-1]].find_element(By.CSS_SELECTOR, ".jp-OutputArea img")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
    size = browser.execute_script("return [arguments[0].naturalWidth, arguments[0].naturalHeight]", figure)
    assert figure.is_displayed() and min(size) > 200
    if shown := os.environ.get("AGENTICREC_SCREENSHOT"):
        browser.save_screenshot(shown)
