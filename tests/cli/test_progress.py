"""What is shown while it works: on a terminal a bar, elsewhere a line at every quarter."""

import io
import os
import pty
import subprocess
import sys

SCRIPT = """
import sys, time
from capdeploy.cli._output import Progress
say = Progress()
say.step("fine-tune ratio-0.5")
for done in range(1, 41):
    time.sleep(0.02)
    say.advance(done, 40, "loss 0.123 val 98.7% 456 images/s")
"""


def test_a_terminal_gets_a_bar_with_the_time_that_is_left():
    here, there = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    running = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stderr=there, stdout=subprocess.PIPE, env=environment
    )
    os.close(there)
    shown = io.BytesIO()
    while True:
        try:
            part = os.read(here, 4096)
        except OSError:  # on Linux the end of a terminal is an error
            break
        if not part:
            break
        shown.write(part)
    assert running.wait(60) == 0
    assert running.stdout.read() == b""
    running.stdout.close()
    os.close(here)
    text = shown.getvalue().decode()
    assert "fine-tune ratio-0.5" in text
    assert "loss 0.123 val 98.7% 456 images/s" in text
    assert "/40" in text
    assert "0:00:0" in text  # the time left
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") >= 1  # the cursor comes back


def test_a_log_gets_a_line_at_every_quarter():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in done.stderr.splitlines() if "/40" in line]
    assert [line[0] for line in lines] == ["10/40", "20/40", "30/40", "40/40"]
    assert "\x1b" not in done.stderr
