"""The script that began a run with a model of its own: how it was started, and starting it again.

A run's recipe can't say what a script's model and data are, so whoever continues the run has the script make
them once more. Standard library only.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nexa.errors import RunError
from nexa.text import redact_arguments


@dataclass(frozen=True, kw_only=True)
class Script:
    """A Python program as it was started.

    path: of its file; module: its name where `python -m` started it; both None where there is neither.
    folder: the current one. search: where it finds modules beside Python's own. obstacle: why it can't be started
    again, "" where it can.
    """

    path: str | None
    module: str | None
    arguments: tuple[str, ...]
    folder: str
    search: tuple[str, ...]
    obstacle: str = ""

    @classmethod
    def of_this_process(cls) -> Script:
        """The program that this process runs. Arguments that hold a secret are not kept, which is an obstacle."""
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        arguments = redact_arguments(sys.argv[1:])
        obstacle = ""
        # Python calls its input "<stdin>".
        if spec is None and (file is None or not Path(file).is_file()):
            obstacle = "it was begun in a notebook or at a prompt, not by a script"
        elif arguments != sys.argv[1:]:
            obstacle = "its script's command line holds a secret, which is not recorded"
        own = (sys.prefix, sys.base_prefix)
        return cls(
            path=str(Path(file).absolute()) if file is not None and spec is None else None,
            module=spec.name.removesuffix(".__main__") if spec is not None else None,
            arguments=tuple(arguments),
            folder=str(Path.cwd()),
            search=tuple(str(Path(entry).absolute()) for entry in sys.path if not entry.startswith(own)),
            obstacle=obstacle,
        )

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Script:
        """The inverse of `document`."""
        return cls(
            **{**document, "arguments": tuple(document["arguments"]), "search": tuple(document["search"])},
        )

    def document(self) -> dict[str, Any]:
        """As JSON values, for the run's plan."""
        return {**asdict(self), "arguments": list(self.arguments), "search": list(self.search)}

    def require_startable(self, run_id: str) -> None:
        """Raise RunError, with what to type, where the script can't be started again to continue a run."""
        reason = self.obstacle
        if not reason and self.path is not None and not Path(self.path).is_file():
            reason = f"its script {self.path} is gone"
        if not reason and not Path(self.folder).is_dir():
            reason = f"the folder that its script ran in is gone ({self.folder})"
        if reason:
            raise RunError(
                f"run {run_id} trains a model of a script, which can't be started again: {reason}",
                hint=f"make the same Trainer as before and call: trainer.train(resume_from_checkpoint={run_id!r})",
            )

    def start(self) -> None:
        """Run the program to its end in this process, as Python itself would; raises what it raises."""
        os.chdir(self.folder)
        sys.path[:0] = [entry for entry in self.search if entry not in sys.path]
        sys.argv = [self.path or self.module or "", *self.arguments]
        if self.module is not None:
            runpy.run_module(self.module, run_name="__main__", alter_sys=True)
        elif self.path is not None:
            runpy.run_path(self.path, run_name="__main__")
