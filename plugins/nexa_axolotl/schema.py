"""What an installed Axolotl accepts, and what is wrong with the keys of a recipe's section. Standard library only.

The schema is read from the Axolotl that will train, by `schema_dump.py` in its interpreter, and kept in the user's
cache under what identifies that installation.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexa.errors import Problem, UserError

CACHE_FOLDER = "axolotl"
_DUMP = Path(__file__).with_name("schema_dump.py")
_DUMP_SECONDS = 300
_FORMAT = 3
_TYPES = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "array": (list, tuple),
    "object": (dict,),
    "null": (type(None),),
}

Place = tuple["str | int", ...]


@dataclass(frozen=True)
class AxolotlSchema:
    """What one Axolotl takes: its version, JSON Schema, and keys that it takes and never reads."""

    version: str
    schema: Mapping[str, Any]
    unread: frozenset[str]

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> AxolotlSchema:
        """Read what `schema_dump.py` prints."""
        return cls(document["axolotl"], document["schema"], frozenset(document["unread"]))

    @property
    def keys(self) -> Mapping[str, Any]:
        """The schema of every top-level key."""
        keys: Mapping[str, Any] = self.schema["properties"]
        return keys

    def problems(self, own: Mapping[str, Any], *, section: str) -> Iterator[Problem]:
        """Everything wrong with the keys of a configuration, each with its place below `section`."""
        for key, value in own.items():
            path = f"{section}.{key}"
            if key not in self.keys:
                yield _unknown(path, key, self.keys, f"Axolotl {self.version} has no such key and would ignore it")
            elif value is None:
                # Left to Axolotl's own default.
                continue
            elif key in self.unread:
                yield Problem(
                    path=path,
                    message=f"Axolotl {self.version} takes this key and does nothing with it",
                    hint="remove it",
                )
            else:
                yield from self._value_problems(self.keys[key], value, (section, key))

    def _value_problems(self, schema: Mapping[str, Any], value: Any, place: Place) -> Iterator[Problem]:
        """What is wrong with one value; of several allowed forms, the one that it comes nearest to tells."""
        schema = self._resolved(schema)
        options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
        if options:
            found = [list(self._value_problems(option, value, place)) for option in options]
            if all(found):
                yield from self._nearest(options, found, value, place)
            return
        kind = schema.get("type")
        if kind is not None and not _is_a(value, kind):
            yield Problem(path=_dotted(place), message=f"{value!r} is not {_article(kind)}")
            return
        if "const" in schema and value != schema["const"]:
            yield Problem(path=_dotted(place), message=f"{value!r} is not {schema['const']!r}")
        if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
            yield Problem(path=_dotted(place), message=f"{value!r} does not match {schema['pattern']}")
        if "enum" in schema and value not in schema["enum"]:
            choices = [str(choice) for choice in schema["enum"]]
            close = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            yield Problem(
                path=_dotted(place), message=f"{value!r} is not a choice", hint=f"{hint}choices: {', '.join(choices)}"
            )
        if isinstance(value, (list, tuple)) and "items" in schema:
            for number, member in enumerate(value):
                yield from self._value_problems(schema["items"], member, (*place, number))
        if isinstance(value, Mapping) and "properties" in schema:
            yield from self._mapping_problems(schema, value, place)

    def _mapping_problems(self, schema: Mapping[str, Any], value: Mapping[str, Any], place: Place) -> Iterator[Problem]:
        known = schema["properties"]
        for key, member in value.items():
            if key in known:
                yield from self._value_problems(known[key], member, (*place, key))
            elif schema.get("additionalProperties") is not True:
                message = f"Axolotl {self.version} has no such key here and would ignore it"
                yield _unknown(f"{_dotted(place)}.{key}", str(key), known, message)

    def _nearest(
        self, options: Sequence[Any], found: Sequence[list[Problem]], value: Any, place: Place
    ) -> Iterator[Problem]:
        """The problems of the form that a value of this kind must have meant."""
        resolved = [self._resolved(option) for option in options]
        fitting = [
            problems
            for option, problems in zip(resolved, found, strict=True)
            if "const" not in option and _is_a(value, option.get("type", "object"))
        ]
        if fitting:
            fewest = min(map(len, fitting))
            nearest = [problems for problems in fitting if len(problems) == fewest]
            yield from nearest[0] if len(nearest) == 1 else self._between(nearest, place)
            return
        forms = [form for option in resolved if (form := _form(option))]
        yield Problem(path=_dotted(place), message=f"{value!r} is not {' or '.join(dict.fromkeys(forms))}")

    def _between(self, nearest: Sequence[list[Problem]], place: Place) -> Iterator[Problem]:
        """What is wrong with a value that several forms come equally near to."""
        names = [", ".join(problem.path.rpartition(".")[2] for problem in problems) for problems in nearest]
        told = list(dict.fromkeys(names))
        if len(told) == 1:
            yield from nearest[0]
            return
        yield Problem(
            path=_dotted(place),
            message=f"no form of this that Axolotl {self.version} takes has all its keys, and it would ignore some",
            hint=f"remove {' or '.join(told)}",
        )

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in schema:
            schema = self.schema["$defs"][schema["$ref"].rpartition("/")[2]]
        return schema


def read_schema(python: Path, cache: Path, plugins: Sequence[str] = ()) -> AxolotlSchema:
    """The schema of the Axolotl that `python` imports, with the keys of `plugins`; asked once, then kept in `cache`.

    plugins: named as under Axolotl's key of that name. Raises UserError where that interpreter has no Axolotl, can't
    be asked, or can't load a plugin.
    """
    kept = cache / CACHE_FOLDER / f"schema-{identity(python, plugins)}.json"
    try:
        return AxolotlSchema.from_document(json.loads(kept.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError):
        document = _asked(python, plugins)
    kept.parent.mkdir(parents=True, exist_ok=True)
    staged = kept.with_name(f"{kept.name}.{os.getpid()}")
    staged.write_text(json.dumps(document), encoding="utf-8")
    staged.replace(kept)
    return AxolotlSchema.from_document(document)


def named_plugins(own: Mapping[str, Any]) -> list[str]:
    """Plugins of Axolotl's that own keys name; each brings keys of its own."""
    names = own.get("plugins")
    return [str(name) for name in names] if isinstance(names, list) else []


def identity(python: Path, plugins: Sequence[str] = ()) -> str:
    """What tells one installation of Axolotl from another: the lists of its files, the plugins, who made this one."""
    digest = hashlib.sha256(f"{_FORMAT} {python} {' '.join(plugins)}".encode())
    digest.update(_DUMP.read_bytes())
    for record in sorted(python.parent.parent.glob("lib*/python*/site-packages/axolotl-*.dist-info/RECORD")):
        digest.update(str(record).encode())
        digest.update(record.read_bytes())
    return digest.hexdigest()[:32]


def _asked(python: Path, plugins: Sequence[str]) -> dict[str, Any]:
    # Telemetry off: Axolotl would report the start of every process to its makers.
    environment = {**os.environ, "AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    try:
        answer = subprocess.run(
            [str(python), "-I", str(_DUMP), *plugins],
            capture_output=True,
            text=True,
            timeout=_DUMP_SECONDS,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"{python} can't be asked which keys its Axolotl takes: {error}") from error
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or ["no reason given"]
        raise UserError(
            f"{python} can't say which keys its Axolotl takes: {lines[-1]}",
            hint="see what is missing there: nexa env verify",
        )
    document: dict[str, Any] = json.loads(answer.stdout.strip().splitlines()[-1])
    return document


def _unknown(path: str, key: str, known: Mapping[str, Any], message: str) -> Problem:
    close = difflib.get_close_matches(key, known, n=1)
    return Problem(path=path, message=message, hint=f"did you mean {close[0]!r}?" if close else "remove it")


def _is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES.get(kind, (object,)))


def _article(kind: str) -> str:
    words = {"integer": "a whole number", "array": "a list", "object": "a mapping", "null": "null"}
    return words.get(kind, f"a {kind}")


def _form(schema: Mapping[str, Any]) -> str | None:
    if "const" in schema:
        return repr(schema["const"])
    kind = schema.get("type")
    return _article(kind) if kind not in (None, "null") else None


def _dotted(place: Place) -> str:
    return ".".join(str(part) for part in place)
