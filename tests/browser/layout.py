"""Layout of pages that stand alone, as Chromium shows them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome

# A phone, a laptop and a large screen, in CSS pixels.
WIDTHS = (390, 1300, 1900)
_OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
_WITHOUT_ALT = "return [...document.images].filter(image => !image.alt.trim()).map(image => image.src.slice(0, 60))"
_DEAD_LINKS = """
return [...document.querySelectorAll('a[href^="#"]')].map(link => link.hash.slice(1))
    .filter(id => !document.getElementById(id))
"""
# Cells of tables beyond the right edge of the screen that no scrolling table holds.
_CUT_CELLS = """
return [...document.querySelectorAll('td, th')].filter(cell => !cell.closest('.scroll'))
    .filter(cell => cell.getBoundingClientRect().right > document.documentElement.clientWidth)
    .map(cell => cell.textContent)
"""


@contextmanager
def shown(driver: Chrome, page: Path, width: int, dark: bool = False) -> Iterator[None]:
    """Open a page on a screen of this width, and set the browser back at the end."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get(page.resolve().as_uri())
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def faults(driver: Chrome, page: Path) -> dict[str, object]:
    """Return the faults of a page by kind and width; empty if there are none."""
    found: dict[str, object] = {}
    for width in WIDTHS:
        with shown(driver, page, width):
            found[f"pixels beyond {width}"] = driver.execute_script(_OVERFLOW)
            found[f"cells cut at {width}"] = driver.execute_script(_CUT_CELLS)
    found["images without a text alternative"] = driver.execute_script(_WITHOUT_ALT)
    found["links to no id"] = driver.execute_script(_DEAD_LINKS)
    return {kind: fault for kind, fault in found.items() if fault}


def contrast(driver: Chrome, selector: str) -> float:
    """Return the contrast ratio of an element's text and the page's background (WCAG 2.2, 1.4.3; from 1 to 21)."""
    colours = driver.execute_script(
        "const element = document.querySelector(arguments[0]);"
        "return [getComputedStyle(element).color, getComputedStyle(document.body).backgroundColor]",
        selector,
    )
    darker, lighter = sorted(map(_luminance, colours))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(channel) / 255 for channel in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
