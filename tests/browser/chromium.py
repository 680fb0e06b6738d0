"""Headless Chromium on pages of this machine, driven by Selenium."""

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
# Pages load in seconds. The limit ends the wait for a page that never loads.
TIMEOUT_S = 60
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--window-size=1900,1100",
    # No requests of the browser's own.
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Page:
    """The page in the browser. Every query waits for its answer."""

    driver: Chrome
    server: str

    def open(self, address: str) -> None:
        """Load an address of MLflow's pages, such as #/experiments."""
        # The browser does not reload a page if only the part after # changes.
        self.driver.get("about:blank")
        self.driver.get(f"{self.server}/{address}")

    def find(self, selector: str) -> WebElement:
        """Wait for a CSS selector. Return its first element."""
        return self.wait_for(lambda: self.all(selector))[0]

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements of a CSS selector now, without waiting."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, *wanted: str) -> str:
        """Return the text of the page as soon as it contains all wanted words."""

        def complete_text() -> str:
            text = self.driver.find_element(By.TAG_NAME, "body").text
            return text if all(words in text for words in wanted) else ""

        return self.wait_for(complete_text, f"the page with {', '.join(wanted)}")

    def follow(self, words: str) -> None:
        """Click the link with this text, and switch to the window that it opens."""
        self.wait_for(lambda: self.driver.find_elements(By.LINK_TEXT, words), f"the link {words}")[0].click()
        self.driver.switch_to.window(self.driver.window_handles[-1])

    def press(self, words: str) -> None:
        """Click the button with this text."""
        button = (By.XPATH, f"//button[normalize-space()='{words}']")
        self.wait_for(lambda: self.driver.find_elements(*button), f"the button {words}")[0].click()

    def forget(self) -> None:
        """Close other windows, and clear the site's storage."""
        first, *others = self.driver.window_handles
        for window in others:
            self.driver.switch_to.window(window)
            self.driver.close()
        self.driver.switch_to.window(first)
        self.driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": self.server, "storageTypes": "all"})

    def wait_for(self, query: Callable[[], T], description: str = "") -> T:
        """Repeat a query until its answer is true. Return the answer."""
        return WebDriverWait(self.driver, TIMEOUT_S).until(lambda _: query(), description)

    def is_drawn(self, image: WebElement) -> bool:
        """Return whether an image element is loaded and decoded."""
        return bool(self.driver.execute_script("return arguments[0].naturalWidth > 0", image))


def needed_programs() -> tuple[Path, Path]:
    """Return Chromium and its driver. Without them, skip the test, or fail it under CI."""
    programs = find_programs()
    if programs:
        return programs
    message = "no Chromium with its driver is installed (Debian's packages: chromium, chromium-driver)"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def find_programs() -> tuple[Path, Path] | None:
    """Return the browser and the driver on PATH."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    return (Path(browser), Path(driver)) if browser and driver else None


@contextmanager
def chromium(programs: tuple[Path, Path]) -> Iterator[Chrome]:
    """Start a browser with a new profile. Remove both on exit."""
    browser, driver = programs
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = str(browser)
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        # Without the driver's path, Selenium would search the network for a driver.
        running = Chrome(options, Service(str(driver)))
        try:
            yield running
        finally:
            running.quit()
