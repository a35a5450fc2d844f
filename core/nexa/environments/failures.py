"""Why uv or pip failed, in words: no space, no network, a pin that can't be met and who asks for it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from nexa.errors import UserError
from nexa.text import redact, sanitize

_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|os error 28\b|Errno 28\b", re.I)
_NO_NETWORK = re.compile(
    r"NewConnectionError|Temporary failure in name resolution|Name or service not known|Network is unreachable|"
    r"Connection refused|ConnectTimeout|Connection timed out|dns error|Could not connect|tcp connect error|"
    r"client error \(Connect\)",
    re.I,
)
_LEAD = re.compile(r"^(?:[×├╰─▶ ]|error: |Caused by: )+")
_WRONG_HASH = re.compile(r"THESE PACKAGES DO NOT MATCH THE HASHES|Hash mismatch", re.I)
_UV_STORY = re.compile(r"No solution found when resolving dependencies.*", re.S)
_PIP_CONFLICT = re.compile(r"ERROR: (Cannot install .*?)(?:\n\s*\n|\nTo fix this|\Z)", re.S)
_PIP_CAUSES = re.compile(r"The conflict is caused by:\n(.*?)(?:\n\s*\n|\nTo fix this|\Z)", re.S)
_PIP_MISSING = re.compile(r"ERROR: (Could not find a version that satisfies the requirement .*)")
_VERSIONS = re.compile(r"\(from versions: (.*)\)")
_MAX_VERSIONS = 8
_MAX_LINES = 12


def explain(output: str, *, asker: str, command: Sequence[str]) -> UserError:
    """The error to raise for a builder that failed.

    output: all it printed. asker: who wants the packages.
    """
    text = sanitize(redact(output))
    if _NO_SPACE.search(text):
        return UserError(
            f"the disk is full: what {asker} needs does not fit",
            hint="free some space (nexa env list, nexa env remove NAME), or set NEXA_ENVIRONMENTS_DIR and TMPDIR",
        )
    if _NO_NETWORK.search(text):
        return UserError(
            f"the package index can't be reached: {_network_words(text)[:300]}",
            hint="check the network and the index that pip or uv is set up for; "
            "without one: nexa env create … --find-links FOLDER --no-index",
        )
    if _WRONG_HASH.search(text):
        return UserError(
            f"a package's file is not the one that was locked: {_tail(text)}",
            hint="repeat the command; if it happens again, the index or a proxy changes files",
        )
    unmet = _unmet(text)
    if unmet:
        return UserError(
            f"what {asker} needs can't be met: {unmet}",
            hint="install a version of the plugin whose pins can be met, or try another Python: --python 3.12",
        )
    return UserError(f"{shlex.join(command[:4])} … failed:\n{_tail(text)}", hint="see the lines above for its reason")


def _network_words(text: str) -> str:
    """What could not be reached and why: pip says so in one line, uv in an error and a chain of causes."""
    lines = [line.strip() for line in text.splitlines()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    if causes:
        what = next((line for line in lines if "://" in line), causes[0])
        return f"{_LEAD.sub('', what)}: {causes[-1]}"
    return next(line for line in lines if _NO_NETWORK.search(line))


def _unmet(text: str) -> str:
    """Which pins can't be met and who asks for them, as the resolver says it; "" where it says nothing."""
    if story := _UV_STORY.search(text):
        return " ".join(re.sub(r"[╰─▶│]", " ", story.group()).split())
    if conflict := _PIP_CONFLICT.search(text):
        causes = _PIP_CAUSES.search(text)
        parts = [" ".join(conflict.group(1).split())]
        parts += [f"  {' '.join(line.split())}" for line in causes.group(1).splitlines()[:_MAX_LINES]] if causes else []
        return "\n".join(parts)
    if missing := _PIP_MISSING.search(text):
        return _VERSIONS.sub(_newest, missing.group(1))
    return ""


def _newest(match: re.Match[str]) -> str:
    """pip lists every version there is; the last ones are enough."""
    if match.group(1) == "none":
        return "(there is none, or its index can't be reached)"
    versions = match.group(1).split(", ")
    left_out = "…, " if len(versions) > _MAX_VERSIONS else ""
    return f"(there are: {left_out}{', '.join(versions[-_MAX_VERSIONS:])})"


def _tail(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-_MAX_LINES:])
