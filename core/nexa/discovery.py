"""Finding and loading plugins: each entry point on its own, so that a broken one harms no other.

Reading the installed metadata imports no plugin. Loading one imports its module, asks its hooks for
specs and checks them; whatever goes wrong is kept as that provider's `Failure`.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pluggy

from nexa import hookspecs
from nexa.specs import (
    ArtifactStoreSpec,
    BackendSpec,
    DistillerSpec,
    ObserverSpec,
    PluginSpec,
    RecipeFolder,
    RewardSpec,
    SchedulerSpec,
    TaskSpec,
)

FIRST_PARTY_DISTRIBUTION = "nexa-train"

_HOOK_RESULTS: dict[str, type[PluginSpec] | type[RecipeFolder]] = {
    "nexa_register_backends": BackendSpec,
    "nexa_register_tasks": TaskSpec,
    "nexa_register_schedulers": SchedulerSpec,
    "nexa_register_distillers": DistillerSpec,
    "nexa_register_artifact_stores": ArtifactStoreSpec,
    "nexa_register_observers": ObserverSpec,
    "nexa_register_rewards": RewardSpec,
    "nexa_register_recipe_folders": RecipeFolder,
}
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a plugin can't be used: one line, and the traceback where there is one."""

    message: str
    traceback: str = ""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a loaded plugin registered."""

    specs: tuple[PluginSpec, ...] = ()
    folders: tuple[RecipeFolder, ...] = ()


class PluginDefectError(Exception):
    """A plugin broke the rules of registration; the message says how."""


class Provider:
    """One installed entry point: where it comes from and, once loaded, what it registers."""

    def __init__(self, entry_point: EntryPoint) -> None:
        self._entry_point = entry_point
        self._lock = threading.Lock()
        self._outcome: Contents | Failure | None = None
        self.name = entry_point.name
        self.module = entry_point.value
        self.distribution, self.version = _identity(entry_point.dist)

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} (entry point {self.name!r})"

    @property
    def first_party(self) -> bool:
        """Whether Nexa's own distribution provides it."""
        return re.sub(r"[-_.]+", "-", self.distribution).lower() == FIRST_PARTY_DISTRIBUTION

    @property
    def loaded(self) -> bool:
        """Whether loading has ended, well or not."""
        return self._outcome is not None

    @property
    def failure(self) -> Failure | None:
        """Why loading failed; None when it did not, or has not ended."""
        return self._outcome if isinstance(self._outcome, Failure) else None

    @property
    def contents(self) -> Contents:
        """What the plugin registered; nothing before it is loaded or when it failed."""
        return self._outcome if isinstance(self._outcome, Contents) else Contents()

    def load(self) -> None:
        """Import the plugin and collect its specs, once; a failure is recorded, never raised."""
        with self._lock:
            if self._outcome is None:
                self._outcome = self._load()

    def _load(self) -> Contents | Failure:
        try:
            return collect(self._entry_point.load(), self.name)
        except KeyboardInterrupt:
            raise
        except PluginDefectError as error:
            return Failure(message=str(error))
        except BaseException as error:  # a plugin may end in SystemExit or a C extension's own error
            text = "".join(traceback.format_exception(error))
            return Failure(message=f"{type(error).__name__}: {error}".rstrip(": "), traceback=text)


def installed_providers() -> list[Provider]:
    """Every installed entry point of the group, in name order; imports none of them."""
    found = [Provider(entry_point) for entry_point in entry_points(group=hookspecs.ENTRY_POINT_GROUP)]
    return sorted(found, key=lambda provider: (provider.name, not provider.first_party, provider.distribution))


def load_all(providers: Iterable[Provider], *, timeout: float) -> None:
    """Load what is not loaded yet; third parties in threads, for at most `timeout` seconds together.

    A provider that is still importing then stays `loaded == False`: Python can't end an import, but
    it can stop waiting for it. What plugins print while loading goes to stderr.
    """
    pending = [provider for provider in providers if not provider.loaded]
    with contextlib.redirect_stdout(sys.stderr):
        for provider in pending:
            if provider.first_party:
                provider.load()
        threads = [
            threading.Thread(target=provider.load, name=f"load plugin {provider.name}", daemon=True)
            for provider in pending
            if not provider.first_party
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def collect(plugin: Any, name: str) -> Contents:
    """Ask a plugin module's hooks for its specs and check each; raises PluginDefectError."""
    manager = pluggy.PluginManager(hookspecs.ENTRY_POINT_GROUP)
    manager.add_hookspecs(hookspecs)
    _require_marked_hooks(plugin, manager)
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        known = ", ".join(_HOOK_RESULTS)
        raise PluginDefectError(f"{error}; the hooks are: {known}") from error
    specs: list[PluginSpec] = []
    folders: list[RecipeFolder] = []
    for hook, kind in _HOOK_RESULTS.items():
        for result in getattr(manager.hook, hook)():
            for item in _items(hook, kind, result):
                if isinstance(item, PluginSpec):
                    _check_spec(hook, item)
                    specs.append(item)
                else:
                    _check_folder(hook, item)
                    folders.append(item)
    _require_distinct(specs)
    return Contents(specs=tuple(specs), folders=tuple(folders))


@cache
def _identity(distribution: Distribution | None) -> tuple[str, str]:
    """Name and version; an unreadable METADATA must not hide the plugin.

    Kept, since all entry points of a distribution share it and its metadata is parsed as an e-mail.
    """
    try:
        if distribution is None:
            return "unknown", "unknown"
        metadata = distribution.metadata
        return metadata["Name"] or "unknown", metadata["Version"] or "unknown"
    except Exception:
        return "unknown", "unknown"


def _require_marked_hooks(plugin: Any, manager: pluggy.PluginManager) -> None:
    """A hook function without its marker would be ignored in silence."""
    for attribute in dir(plugin):
        if not attribute.startswith("nexa_register_"):
            continue
        if manager.parse_hookimpl_opts(plugin, attribute) is None:
            raise PluginDefectError(f"{attribute} is not marked with @nexa.hookimpl, so it would never be called")


def _items(hook: str, kind: type[PluginSpec] | type[RecipeFolder], result: Any) -> list[PluginSpec | RecipeFolder]:
    if isinstance(result, str | bytes) or not isinstance(result, Iterable):
        raise PluginDefectError(f"{hook} must return an iterable of {kind.__name__}, not {type(result).__name__}")
    items = list(result)
    for item in items:
        if not isinstance(item, kind):
            raise PluginDefectError(f"{hook} must return {kind.__name__} records, but one is a {type(item).__name__}")
    return items


def _check_spec(hook: str, spec: PluginSpec) -> None:
    """Check the fields that everything else relies on; annotations alone check nothing."""
    where = f"{hook}: {type(spec).__name__} {spec.name!r}"
    if not isinstance(spec.name, str) or not _NAME.fullmatch(spec.name):
        raise PluginDefectError(f"{where}: a name is a lower-case letter, then letters, digits, '-' and '_'")
    if not isinstance(spec.summary, str) or not spec.summary.strip() or "\n" in spec.summary:
        raise PluginDefectError(f"{where}: `summary` must be one line of text")
    targets: list[tuple[str, Any, bool]] = [
        ("factory", spec.factory, True),
        ("options_model", spec.options_model, False),
    ]
    if isinstance(spec, TaskSpec):
        targets += [("data_module", spec.data_module, True), ("check", spec.check, False)]
    for field, target, required in targets:
        if target is None and not required:
            continue
        if not isinstance(target, str) or not _TARGET.fullmatch(target):
            raise PluginDefectError(f"{where}: `{field}` must read 'module:attribute', not {target!r}")
    if not _is_names(spec.capabilities, frozenset):
        raise PluginDefectError(f"{where}: `capabilities` must be a frozenset of strings")
    if isinstance(spec, BackendSpec) and not (_is_names(spec.methods, tuple) and spec.methods):
        raise PluginDefectError(f"{where}: `methods` must be a tuple with at least one method name")
    if isinstance(spec, BackendSpec) and not (_is_names(spec.requirements, tuple) and _is_names(spec.probes, tuple)):
        raise PluginDefectError(f"{where}: `requirements` and `probes` must be tuples of texts")
    if isinstance(spec, TaskSpec):
        if not (_is_names(spec.honours, tuple) and _is_names(spec.refuses, tuple)):
            raise PluginDefectError(f"{where}: `honours` and `refuses` must be tuples of recipe keys")
        if not isinstance(spec.backend, str):
            raise PluginDefectError(f"{where}: `backend` must be a backend's name")


def _is_names(value: Any, container: type[frozenset[Any]] | type[tuple[Any, ...]]) -> bool:
    return isinstance(value, container) and all(isinstance(name, str) and name for name in value)


def _check_folder(hook: str, folder: RecipeFolder) -> None:
    if not isinstance(folder.path, Path) or not folder.path.is_absolute():
        raise PluginDefectError(f"{hook}: `path` must be an absolute pathlib.Path, not {folder.path!r}")


def _require_distinct(specs: Sequence[PluginSpec]) -> None:
    seen = set()
    for spec in specs:
        if (spec.kind, spec.name) in seen:
            raise PluginDefectError(f"registers the {spec.kind} {spec.name!r} twice")
        seen.add((spec.kind, spec.name))
