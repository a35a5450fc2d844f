"""The code of docs/how-to/train-from-python.md runs as it stands, and its reference page is what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from nexa.runs.state import State, run_status
from nexa.runs.store import RunStore
from nexa_torch.config_reference import page

DOCS = Path(__file__).parents[3] / "docs"


def test_the_pages_code_runs(tmp_path: Path) -> None:
    text = (DOCS / "how-to" / "train-from-python.md").read_text(encoding="utf-8")
    script = "".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = RunStore(tmp_path / "runs").list()
    assert [run_status(run).state for run in runs] == [State.COMPLETED] * 4


def test_config_page_is_current() -> None:
    assert (DOCS / "reference" / "config.md").read_text(encoding="utf-8") == page(), "run `make docs`"
