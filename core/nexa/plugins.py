"""The plugin host: finds a plugin by kind and name, and loads no more than that takes.

A plugin whose name equals an entry point's is served by that entry point, which alone is loaded.
Any other name means loading the rest once. Two providers of one name are an error that names both;
a plugin that fails to load is shown by `nexa plugins` and raises only when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, overload

from nexa.discovery import Failure, Provider, installed_providers, load_all
from nexa.errors import PluginError
from nexa.extras import extra_named, install_hint
from nexa.specs import BackendSpec, PluginSpec, RecipeFolder, TaskSpec

if TYPE_CHECKING:
    from pydantic import BaseModel

    from nexa.artifacts import ArtifactStore
    from nexa.backend import Backend
    from nexa.distiller import Distiller
    from nexa.observer import Observer
    from nexa.reward import Reward
    from nexa.scheduler import Scheduler

CreatedKind = Literal["backend", "scheduler", "distiller", "artifact-store", "observer", "reward"]
"""Kinds whose plugin is an object that the host makes."""
Kind = Literal[CreatedKind, "task"]
Status = Literal["ok", "duplicate", "error", "slow", "off"]

CONTRACTS: Mapping[str, str] = {
    "backend": "nexa.backend:Backend",
    "scheduler": "nexa.scheduler:Scheduler",
    "distiller": "nexa.distiller:Distiller",
    "artifact-store": "nexa.artifacts:ArtifactStore",
    "observer": "nexa.observer:Observer",
    "reward": "nexa.reward:Reward",
}
"""Contract class of each kind that the host makes, as "module:attribute"; a task's belongs to its backend."""

ALLOW_LIST_VARIABLE = "NEXA_LOAD_PLUGINS"
FIRST_PARTY_VARIABLE = "NEXA_NO_PLUGINS"

LISTING_TIMEOUT_S = 0.8
LOOKUP_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class PluginEntry:
    """One line of `nexa plugins`: a registered plugin, or an entry point that gave none.

    name and kind are the spec's; for an entry point without specs they are its own name and "".
    message: why the status is not "ok". traceback: of a failed import, else empty.
    """

    name: str
    kind: str
    entry_point: str
    distribution: str
    version: str
    status: Status
    summary: str = ""
    message: str = ""
    traceback: str = ""


class PluginHost:
    """Looks plugins up in a set of providers, some of which may be switched off.

    `disabled` maps a provider to the reason why it is not loaded.
    """

    def __init__(self, providers: Sequence[Provider], *, disabled: Mapping[Provider, str] | None = None) -> None:
        self._disabled = dict(disabled or {})
        self._providers = tuple(providers)
        self._enabled = tuple(provider for provider in providers if provider not in self._disabled)

    @overload
    def spec(self, kind: Literal["backend"], name: str) -> BackendSpec: ...
    @overload
    def spec(self, kind: Literal["task"], name: str) -> TaskSpec: ...
    @overload
    def spec(self, kind: Kind, name: str) -> PluginSpec: ...

    def spec(self, kind: Kind, name: str) -> PluginSpec:
        """Return the spec of one plugin. Raises PluginError when it is unknown, failed or ambiguous."""
        return self._find(kind, name)[1]

    def specs(self, kind: Kind) -> tuple[PluginSpec, ...]:
        """Return the usable plugins of a kind in name order; loads every plugin, skips broken ones."""
        self._load_rest(LISTING_TIMEOUT_S)
        names = {spec.name for provider in self._enabled for spec in provider.contents.specs if spec.kind == kind}
        owners = {name: self._owners(kind, name) for name in sorted(names)}
        return tuple(found[0][1] for found in owners.values() if len(found) == 1)

    def trains(self, backend: BackendSpec, method: str) -> bool:
        """Whether a backend trains a method: one of its own, or a task that a plugin registered for it."""
        return method in backend.methods or self.task_of(backend.name, method) is not None

    def task_of(self, backend: str, method: str) -> TaskSpec | None:
        """The task that a backend trains under a method's name, None where there is none.

        Raises PluginError when two plugins provide it.
        """
        self._load_rest(LOOKUP_TIMEOUT_S)
        if not self._owners("task", method):
            return None
        spec = self.spec("task", method)
        return spec if spec.backend == backend else None

    def methods(self, backend: BackendSpec) -> tuple[str, ...]:
        """Every method that a backend trains, its own first; loads every plugin."""
        tasks = [
            spec.name for spec in self.specs("task") if isinstance(spec, TaskSpec) and spec.backend == backend.name
        ]
        return (*backend.methods, *(name for name in tasks if name not in backend.methods))

    @overload
    def create(self, kind: Literal["backend"], name: str) -> Backend: ...
    @overload
    def create(self, kind: Literal["scheduler"], name: str) -> Scheduler: ...
    @overload
    def create(self, kind: Literal["distiller"], name: str) -> Distiller: ...
    @overload
    def create(self, kind: Literal["artifact-store"], name: str) -> ArtifactStore: ...
    @overload
    def create(self, kind: Literal["observer"], name: str) -> Observer: ...

    @overload
    def create(self, kind: Literal["reward"], name: str, options: Mapping[str, Any] = ...) -> Reward: ...

    def create(self, kind: CreatedKind, name: str, options: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """Return a new plugin object. Raises PluginError, also when its libraries are missing.

        options: keyword arguments of the factory, for kinds whose factory takes them.
        """
        provider, spec = self._find(kind, name)
        contract = load_target(CONTRACTS[kind])
        try:
            plugin = load_target(spec.factory)(**options)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise _unusable(provider, spec, spec.factory, error) from error
        if not isinstance(plugin, contract):
            raise PluginError(
                f"{kind} {name!r} of {provider}: {spec.factory} returned a {type(plugin).__name__}, "
                f"which is not a nexa {contract.__name__}",
                hint=f"its class must derive from {CONTRACTS[kind].replace(':', '.')}",
            )
        return plugin

    def options_model(self, section: str) -> type[BaseModel] | None:
        """Return the model of a plugin's recipe section, or None when no plugin has such a section.

        Raises PluginError when two plugins claim the section or its model can't be imported.
        """
        found = self._with_options(section, (provider for provider in self._enabled if provider.name == section))
        if not found:
            self._load_rest(LOOKUP_TIMEOUT_S)
            found = self._with_options(section, self._enabled)
        if not found:
            return None
        provider, spec = found[0]
        others = [owner for owner, other in found if (owner, other.options_model) != (provider, spec.options_model)]
        if others:
            claims = " and by ".join(f"the {other.kind} of {owner}" for owner, other in found)
            raise PluginError(f"the recipe section {section!r} is claimed by {claims}", hint="uninstall one of them")
        return _options_class(provider, spec)

    def options_of(self, kind: Kind, name: str) -> type[BaseModel] | None:
        """The model of the options of one plugin, None when it takes none. Raises PluginError as `spec` does."""
        provider, spec = self._find(kind, name)
        return _options_class(provider, spec) if spec.options_model else None

    def option_sections(self) -> tuple[str, ...]:
        """Return the names of all recipe sections that plugins define; loads every plugin."""
        self._load_rest(LISTING_TIMEOUT_S)
        specs = (spec for provider in self._enabled for spec in provider.contents.specs)
        return tuple(sorted({spec.name for spec in specs if spec.options_model and spec.own_section}))

    def recipe_folders(self) -> tuple[RecipeFolder, ...]:
        """Return the recipe folders plugins ship; loads every plugin, skips broken ones."""
        self._load_rest(LISTING_TIMEOUT_S)
        return tuple(folder for provider in self._enabled for folder in provider.contents.folders)

    def report(self) -> tuple[PluginEntry, ...]:
        """Return every plugin with its state, broken and switched-off ones too; loads every plugin."""
        self._load_rest(LISTING_TIMEOUT_S)
        return tuple(entry for provider in self._providers for entry in self._entries(provider))

    def provider_of(self, kind: Kind, name: str) -> Provider:
        """Return who provides a plugin, for lineage. Raises PluginError as `spec` does."""
        return self._find(kind, name)[0]

    def _find(self, kind: Kind, name: str) -> tuple[Provider, PluginSpec]:
        named = [provider for provider in self._enabled if provider.name == name]
        for provider in named:
            provider.load()
        found = _matches(named, kind, name)
        if not found:
            failed = next((provider for provider in named if provider.failure), None)
            if failed is not None and failed.failure is not None:
                raise _broken(kind, name, failed, failed.failure)
            self._load_rest(LOOKUP_TIMEOUT_S)
            found = _matches(self._enabled, kind, name)
        if not found:
            raise self._unknown(kind, name)
        if len(found) > 1:
            providers = " and by ".join(str(provider) for provider, _ in found)
            raise PluginError(
                f"the {kind} {name!r} is provided by {providers}",
                hint=f"uninstall one, or name the plugins to load: {ALLOW_LIST_VARIABLE}={found[0][0].name}",
            )
        return found[0]

    def _load_rest(self, timeout: float) -> None:
        load_all(self._enabled, timeout=timeout)

    def _owners(self, kind: str, name: str) -> list[tuple[Provider, PluginSpec]]:
        """Who a lookup of this name finds when everything is loaded."""
        named = [provider for provider in self._enabled if provider.name == name]
        return _matches(named, kind, name) or _matches(self._enabled, kind, name)

    def _with_options(self, section: str, providers: Iterable[Provider]) -> list[tuple[Provider, PluginSpec]]:
        found = []
        for provider in providers:
            if provider.name == section:
                provider.load()
            found += [
                (provider, spec)
                for spec in provider.contents.specs
                if spec.name == section and spec.options_model and spec.own_section
            ]
        return found

    def _entries(self, provider: Provider) -> list[PluginEntry]:
        def entry(status: Status, *, spec: PluginSpec | None = None, **text: str) -> PluginEntry:
            return PluginEntry(
                name=spec.name if spec else provider.name,
                kind=spec.kind if spec else "",
                entry_point=provider.name,
                distribution=provider.distribution,
                version=provider.version,
                status=status,
                summary=spec.summary if spec else "",
                **text,
            )

        if provider in self._disabled:
            return [entry("off", message=self._disabled[provider])]
        if provider.failure:
            return [entry("error", message=provider.failure.message, traceback=provider.failure.traceback)]
        if not provider.loaded:
            return [entry("slow", message=f"still importing after {LISTING_TIMEOUT_S:g} s")]
        contents = provider.contents
        if not contents.specs and not contents.folders:
            return [entry("error", message=f"{provider.module} registers nothing")]
        if not contents.specs:
            return [entry("ok", message=f"{len(contents.folders)} recipe folder(s)")]
        entries = []
        for spec in contents.specs:
            others = [owner for owner, _ in _matches(self._enabled, spec.kind, spec.name) if owner is not provider]
            owners = self._owners(spec.kind, spec.name)
            if not others:
                entries.append(entry("ok", spec=spec))
            elif len(owners) == 1 and owners[0][0] is provider:
                entries.append(entry("ok", spec=spec, message=f"also registered by {others[0]}, which is ignored"))
            else:
                entries.append(entry("duplicate", spec=spec, message=f"also provided by {others[0]}"))
        return entries

    def _unknown(self, kind: Kind, name: str) -> PluginError:
        for provider, reason in self._disabled.items():
            if provider.name == name:
                return PluginError(f"the {kind} {name!r} of {provider} is not loaded: {reason}")
        known = [spec.name for spec in self.specs(kind)]
        hints = []
        if close := get_close_matches(name, known, n=1):
            hints.append(f"did you mean {close[0]!r}?")
        hints.append(f"installed: {', '.join(known) or 'none'}")
        kinds = {spec.kind for owner in self._enabled for spec in owner.contents.specs if spec.name == name}
        if kinds:
            hints.append(f"a plugin of another kind has this name: {', '.join(sorted(kinds))}")
        if extra := extra_named(name):
            hints.append(f"to install it: {extra}")
        broken = [str(provider) for provider in self._enabled if provider.failure or not provider.loaded]
        if broken:
            hints.append(f"failed to load, see `nexa plugins`: {', '.join(broken)}")
        return PluginError(f"there is no {kind} {name!r}", hint="; ".join(hints))


@cache
def get_host() -> PluginHost:
    """The host of this process, over the installed plugins.

    NEXA_LOAD_PLUGINS=a,b loads only these entry points; NEXA_NO_PLUGINS=1 (`nexa --no-plugins`) only
    Nexa's own. Raises PluginError when the allow-list names an entry point that is not installed.
    """
    providers = installed_providers()
    allowed = _allow_list(providers)
    first_party_only = os.environ.get(FIRST_PARTY_VARIABLE, "") not in ("", "0")
    disabled = {}
    for provider in providers:
        if allowed is not None and provider.name not in allowed:
            disabled[provider] = f"not among {ALLOW_LIST_VARIABLE}={','.join(sorted(allowed))}"
        elif first_party_only and not provider.first_party:
            disabled[provider] = "only Nexa's own plugins are loaded (--no-plugins)"
    return PluginHost(providers, disabled=disabled)


def load_target(target: str) -> Any:
    """Import "module:attribute" and return the attribute; raises ImportError or AttributeError."""
    module, _, path = target.partition(":")
    value: Any = import_module(module)
    for attribute in path.split("."):
        value = getattr(value, attribute)
    return value


def _allow_list(providers: Sequence[Provider]) -> frozenset[str] | None:
    listed = os.environ.get(ALLOW_LIST_VARIABLE)
    if listed is None:
        return None
    allowed = frozenset(name.strip() for name in listed.split(",")) - {""}
    installed = {provider.name for provider in providers}
    if missing := sorted(allowed - installed):
        raise PluginError(
            f"{ALLOW_LIST_VARIABLE} names {', '.join(map(repr, missing))}, but no such entry point is installed",
            hint=f"installed entry points: {', '.join(sorted(installed)) or 'none'}",
        )
    return allowed


def _matches(providers: Iterable[Provider], kind: str, name: str) -> list[tuple[Provider, PluginSpec]]:
    return [
        (provider, spec)
        for provider in providers
        for spec in provider.contents.specs
        if spec.kind == kind and spec.name == name
    ]


def _options_class(provider: Provider, spec: PluginSpec) -> type[BaseModel]:
    from pydantic import BaseModel

    assert spec.options_model is not None
    try:
        model = load_target(spec.options_model)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _unusable(provider, spec, spec.options_model, error) from error
    if not (isinstance(model, type) and issubclass(model, BaseModel) and model.model_config.get("extra") == "forbid"):
        raise PluginError(
            f"{spec.kind} {spec.name!r} of {provider}: {spec.options_model} is not a pydantic model with "
            f'extra="forbid", so it would ignore misspelt options'
        )
    return model


def _broken(kind: str, name: str, provider: Provider, failure: Failure) -> PluginError:
    return PluginError(
        f"the {kind} {name!r} can't be used: {provider} failed to load: {failure.message}",
        hint=f"the traceback: nexa plugins {provider.name}",
    )


def _unusable(provider: Provider, spec: PluginSpec, target: str, error: BaseException) -> PluginError:
    cause = f"{type(error).__name__}: {error}".rstrip(": ")
    return PluginError(
        f"the {spec.kind} {spec.name!r} of {provider} can't be used: {target}: {cause}",
        hint=install_hint(error, provider.distribution),
    )
