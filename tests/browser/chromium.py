"""Chromium without a window, on pages of this machine."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

T = TypeVar("T")
BROWSERS = ("chromium", "google-chrome")
# A page that loads at all does so in seconds; the limit is for the one that does not.
PATIENCE_S = 60
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--window-size=1900,1100",
    # It asks nobody for anything by itself.
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Page:
    """What the browser shows. Whatever is asked for is waited for."""

    driver: Chrome
    server: str

    def open(self, address: str) -> None:
        """Load an address of MLflow's pages, such as #/experiments, from scratch."""
        # With another part behind the # alone, the browser would stay on the page that it has.
        self.driver.get("about:blank")
        self.driver.get(f"{self.server}/{address}")

    def find(self, selector: str) -> WebElement:
        """The first element that a CSS selector finds."""
        return self.wait_for(lambda: self.all(selector))[0]

    def all(self, selector: str) -> list[WebElement]:
        """The elements there are now."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, *wanted: str) -> str:
        """All text of the page, as soon as these words are in it."""

        def found() -> str:
            said = self.driver.find_element(By.TAG_NAME, "body").text
            return said if all(words in said for words in wanted) else ""

        return self.wait_for(found, f"the page with {', '.join(wanted)}")

    def follow(self, words: str) -> None:
        """Click on the link with this text; what it opens in another window is the page from then on."""
        self.wait_for(lambda: self.driver.find_elements(By.LINK_TEXT, words), f"the link {words}")[0].click()
        self.driver.switch_to.window(self.driver.window_handles[-1])

    def press(self, words: str) -> None:
        """Click on the button with this text."""
        button = (By.XPATH, f"//button[normalize-space()='{words}']")
        self.wait_for(lambda: self.driver.find_elements(*button), f"the button {words}")[0].click()

    def forget(self) -> None:
        """Close other windows, and lose what the pages remember of the user."""
        first, *others = self.driver.window_handles
        for window in others:
            self.driver.switch_to.window(window)
            self.driver.close()
        self.driver.switch_to.window(first)
        self.driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": self.server, "storageTypes": "all"})

    def wait_for(self, what: Callable[[], T], named: str = "") -> T:
        """The first answer that is true."""
        return WebDriverWait(self.driver, PATIENCE_S).until(lambda _: what(), named)

    def is_drawn(self, picture: WebElement) -> bool:
        """Whether a picture has been loaded and decoded."""
        return bool(self.driver.execute_script("return arguments[0].naturalWidth > 0", picture))


def needed_programs() -> tuple[Path, Path]:
    """Chromium and its driver; without them the test is skipped, and under CI it fails."""
    programs = find_programs()
    if programs:
        return programs
    said = "no Chromium with its driver is installed (Debian's packages: chromium, chromium-driver)"
    if os.environ.get("CI"):
        pytest.fail(said)
    pytest.skip(said)


def find_programs() -> tuple[Path, Path] | None:
    """The browser and the driver on PATH."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    return (Path(browser), Path(driver)) if browser and driver else None


@contextmanager
def chromium(programs: tuple[Path, Path]) -> Iterator[Chrome]:
    """A browser with a profile of its own, both gone in the end."""
    browser, driver = programs
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = str(browser)
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        # With the path of the driver given, nothing is looked for in the network.
        running = Chrome(options, Service(str(driver)))
        try:
            yield running
        finally:
            running.quit()
