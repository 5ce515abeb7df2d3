r"""Screenshots of a report, taken by headless Chromium: phone, desktop, light and dark.

    capdeploy report OUT && python -m benchmarks.screenshots OUT/report.html docs/images

Fails if the page says anything on the console. Needs `chromium` on PATH.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-logging=stderr",
)  # fmt: skip
SHOTS = {
    "report-desktop": (1280, 1700, "1"), "report-dark": (1280, 1700, "0"),
    "report-phone": (390, 1700, "1"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    for name, (width, height, scheme) in SHOTS.items():
        target = (asked.folder / f"{name}.png").resolve()
        with tempfile.TemporaryDirectory() as home:
            done = subprocess.run(
                ["chromium", *QUIET, f"--user-data-dir={home}", f"--window-size={width},{height}",
                 f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={target}",
                 asked.page.resolve().as_uri()],
                capture_output=True, text=True, check=True, timeout=120,
            )  # fmt: skip
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        if said:
            raise SystemExit(f"{asked.page} says on the console: {said[0]}")
        print(target)


if __name__ == "__main__":
    main()
