"""Headless Chromium, for tests that look at a page as a browser lays it out.

$MT0_CHROMIUM names it, or it is found on PATH; `make chromium` installs it on Debian.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_MEASURE = """
<script>
window.addEventListener("load", () => {
  const wide = [...document.querySelectorAll("main *")].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width && box.right > innerWidth + 1 && !e.closest(".wide") && !e.closest("pre");
  });
  const empty = [...document.querySelectorAll("svg")].filter(e => !e.closest("details") &&
    (e.getBoundingClientRect().width < 100 || e.getBoundingClientRect().height < 20));
  const cut = [...document.querySelectorAll("svg")].flatMap(svg => {
    const box = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].filter(text => {
      const own = text.getBoundingClientRect();
      return own.width && (own.left < box.left - 12 || own.right > box.right + 12);
    }).map(text => text.textContent);
  });
  const found = {
    width: innerWidth,
    errors: window.errors,
    requests: performance.getEntriesByType("resource").map(e => e.name),
    overflow: wide.map(e => e.outerHTML.slice(0, 120)),
    charts: document.querySelectorAll("svg").length,
    empty: empty.length,
    cut: cut,
    paper: getComputedStyle(document.querySelector("main")).backgroundColor,
    ink: getComputedStyle(document.body).color,
  };
  const out = document.createElement("pre");
  out.id = "measured";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script></body>
"""
_ERRORS = (
    "<head><script>window.errors=[];addEventListener('error',e=>errors.push(e.message))</script>"
)


def find() -> str | None:
    """Returns the path of a Chromium, or None."""
    named = os.environ.get("MT0_CHROMIUM")
    if named:
        return shutil.which(named)
    return next(filter(None, map(shutil.which, _NAMES)), None)


def measure(page: Path, width: int, dark: bool = False) -> dict:
    """Lays out a copy of a page at a width in CSS pixels and returns what was found.

    Keys: width, errors and requests (of the page), overflow (elements wider than the window),
    charts, empty (charts without size), cut (labels that leave their chart), paper and ink.
    """
    text = page.read_text("utf-8").replace("<head>", _ERRORS, 1).replace("</body>", _MEASURE, 1)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        copy.write_text(text, "utf-8")
        scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
        done = subprocess.run(
            [
                find(), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                f"--user-data-dir={folder}/profile", f"--window-size={width},900", *scheme,
                copy.as_uri(),
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    measured = re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, re.S)
    assert measured, done.stderr[-2000:]
    return json.loads(html.unescape(measured.group(1)))
