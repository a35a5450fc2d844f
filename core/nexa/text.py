"""Text from outside made safe: control sequences shown instead of obeyed, secrets removed.

Standard library only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

REDACTED = "[redacted]"

_SECRET_NAME = re.compile(
    r"(TOKEN(?:$|_)|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|PRIVATE|(?:^|_)KEY(?:$|_)|APIKEY|(?:^|_)PASS(?:$|_)|(?:^|_)AUTH(?:$|_))",
    re.IGNORECASE,
)
# A value this short ("1", "true", "none") would be found in innocent text.
_SHORTEST_SECRET = 6
_BEARER = re.compile(r"\b(Bearer|Basic)(\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_USERINFO = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@:]*(?::[^\s/@]*)?@")
_ASSIGNED = re.compile(
    r"(?i)(\b[\w-]*(?:token|secret|passw(?:or)?d|api[_-]?key|access[_-]?key|private[_-]?key)[\"']?\s*[=:]\s*)"
    r"(?:\"[^\"]{6,}\"|'[^']{6,}'|[^\s\"',;&]{6,})"
)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# C0 but tab and newline, DEL and C1, bidirectional marks, overrides and isolates, line and paragraph
# separators, surrogates, and the tag block, all of which change what a terminal shows.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        # The Unicode pictures of control characters: ␛ for ESC, ␇ for BEL.
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return f"<U+{code:04X}>"


def sanitize(text: str) -> str:
    """Return `text` with everything that drives a terminal replaced by a visible stand-in.

    Tabs and newlines stay; a carriage return before a newline is dropped. Applying it twice
    changes nothing more.
    """
    return _UNSAFE.sub(_visible, text.replace("\r\n", "\n"))


def without_colours(text: str) -> str:
    """Return `text` without the escape sequences that colour it."""
    return _COLOUR.sub("", text)


def sanitize_line(text: str) -> str:
    """Like `sanitize`, and newlines are shown too, so that the text stays on one line."""
    return sanitize(text).replace("\n", "\u2424")


def is_secret_name(name: str) -> bool:
    """Whether an environment variable or option of this name usually holds a secret."""
    return _SECRET_NAME.search(name) is not None


def redactor(environment: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """Return a function that replaces secrets in text by "[redacted]".

    Secrets are: the values of variables in `environment` (default: this process's) whose names look
    secret, credentials in URLs, bearer tokens, and values assigned to secret-looking names.
    """
    variables = os.environ if environment is None else environment
    values = {
        part.strip()
        for name, value in variables.items()
        if is_secret_name(name)
        for part in (value, *value.splitlines())
        if len(part.strip()) >= _SHORTEST_SECRET
    }
    # Longest first, so that a secret which contains another disappears whole.
    known = (
        re.compile("|".join(re.escape(value) for value in sorted(values, key=len, reverse=True))) if values else None
    )

    def redact(text: str) -> str:
        if known is not None:
            text = known.sub(REDACTED, text)
        text = _USERINFO.sub(rf"\g<1>{REDACTED}@", text)
        text = _BEARER.sub(rf"\g<1>\g<2>{REDACTED}", text)
        return _ASSIGNED.sub(rf"\g<1>{REDACTED}", text)

    return redact


def redact(text: str) -> str:
    """Return `text` without secrets, judged by this process's environment (see `redactor`)."""
    return redactor()(text)


def redact_arguments(argv: list[str]) -> list[str]:
    """Return a command line without secrets: also the value after an option with a secret name."""
    clean = redactor()
    result: list[str] = []
    hide_next = False
    for argument in argv:
        if hide_next:
            result.append(REDACTED)
            hide_next = False
            continue
        name, separator, _ = argument.partition("=")
        if is_secret_name(name.lstrip("-").replace("-", "_").replace(".", "_")):
            hide_next = argument.startswith("-") and not separator
            result.append(f"{name}={REDACTED}" if separator else argument)
        else:
            result.append(clean(argument))
    return result
