"""User settings: what belongs to a person or a site, not to a recipe.

Strongest first: `NEXA_*` variables, the nearest `nexa.toml` upward from the current folder, the
user's own `config.toml`, defaults. Relative paths count from the folder of the file that sets them,
else from the current folder.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from nexa.errors import UserError
from nexa.uris import absolute_uri

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

PROJECT_FILE = "nexa.toml"


@dataclass(frozen=True, kw_only=True)
class TuiSettings:
    """Settings of the terminal UI.

    keys: by id of a key (`nexa tui`, then ?), the keys it is on instead, such as
        `"run.stop" = "ctrl+s"`; comma-separated where several.
    """

    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings in force; paths are absolute.

    runs_dir: folder of run directories (NEXA_RUNS_DIR; default `runs` in the current folder).
    store_uri: artifact store, as a URI (NEXA_STORE_URI; default `artifacts` in the current folder).
    environments_dir: folder of environments that `nexa env` makes, on a disk that all nodes share where runs
        go to other machines (NEXA_ENVIRONMENTS_DIR; default ~/.local/share/nexa/environments).
    scheduler: scheduler of recipes that name none (NEXA_SCHEDULER; default "local").
    defaults: options of plugins under every recipe's own, by plugin section, such as a Slurm
        partition (NEXA_DEFAULTS as JSON, or a table such as `[defaults.slurm]`).
    tui: of the terminal UI (NEXA_TUI as JSON, or a table such as `[tui.keys]`).
    sources: for each setting that is not a default, its file or "$VARIABLE".
    """

    runs_dir: Path = Path("runs")
    store_uri: str = "artifacts"
    environments_dir: Path = field(default_factory=lambda: user_data() / "environments")
    scheduler: str = "local"
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tui: TuiSettings = field(default_factory=TuiSettings)
    sources: Mapping[str, str] = field(default_factory=dict)


_NAMES = tuple(setting.name for setting in fields(Settings) if setting.name != "sources")
_TEXTS = ("runs_dir", "store_uri", "environments_dir", "scheduler")


def get_settings() -> Settings:
    """Read the settings now in force.

    Raises UserError naming the file or variable for an unknown setting or a wrong value.
    """
    layers = {str(path): _read_file(path) for path in _files()}
    given = {variable.upper() for variable, value in os.environ.items() if value}
    variables = {name: f"NEXA_{name.upper()}" for name in _NAMES if f"NEXA_{name.upper()}" in given}
    settings = Settings()
    if variables or any(layers.values()):
        values = _validate(layers, variables)
        sources: dict[str, str] = {}
        for name in values:
            owner = next((file for file, layer in layers.items() if name in layer), None)
            sources[name] = f"${variables[name]}" if name in variables else str(owner)
        settings = replace(settings, **values, sources=sources)
    here = Path.cwd()
    return replace(
        settings,
        runs_dir=here / settings.runs_dir.expanduser(),
        store_uri=absolute_uri(settings.store_uri, here),
        environments_dir=here / settings.environments_dir.expanduser(),
    )


def user_config() -> Path:
    """The user's own settings file; it need not exist."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "nexa" / "config.toml"


def user_data() -> Path:
    """The user's own folder of data that Nexa makes; it need not exist."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "nexa"


def _files() -> Iterator[Path]:
    """Existing settings files, strongest first."""
    here = Path.cwd()
    project = next(
        (folder / PROJECT_FILE for folder in (here, *here.parents) if (folder / PROJECT_FILE).is_file()), None
    )
    if project is not None:
        yield project
    if user_config().is_file():
        yield user_config()


def _read_file(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, paths made absolute against its folder."""
    import tomllib

    try:
        with path.open("rb") as stream:
            values = tomllib.load(stream)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: can't be read: {error}") from None
    for name in ("runs_dir", "environments_dir"):
        if isinstance(values.get(name), str):
            values[name] = str(path.parent / Path(values[name]).expanduser())
    if isinstance(values.get("store_uri"), str):
        values["store_uri"] = absolute_uri(values["store_uri"], path.parent)
    return values


def _validate(layers: Mapping[str, dict[str, Any]], variables: Mapping[str, str]) -> dict[str, Any]:
    """The settings that are given somewhere, strongest layer first, with their types checked."""
    given: dict[str, Any] = {}
    for layer in (*reversed(list(layers.values())), _from_variables(variables)):
        given = _merged(given, layer)
    if all(name in _TEXTS and isinstance(value, str) for name, value in given.items()):
        # Nothing to check, so that the library that checks need not be loaded.
        return {name: Path(value) if name.endswith("_dir") else value for name, value in given.items()}
    from pydantic import ValidationError

    try:
        checked = _settings_model().model_validate(given)
    except ValidationError as error:
        raise UserError("\n".join(_explain(error, layers, variables))) from None
    return {name: getattr(checked, name) for name in checked.model_fields_set}


def _from_variables(variables: Mapping[str, str]) -> dict[str, Any]:
    """The settings that variables give: text, or JSON for those that hold more than a text."""
    import json

    given = {name.upper(): value for name, value in os.environ.items()}
    values: dict[str, Any] = {}
    for name, variable in variables.items():
        try:
            values[name] = given[variable] if name in _TEXTS else json.loads(given[variable])
        except ValueError as error:
            raise UserError(
                f"settings can't be read from ${variable}: {error}", hint=f"{variable} holds JSON"
            ) from None
    return values


def _merged(weaker: Mapping[str, Any], stronger: Mapping[str, Any]) -> dict[str, Any]:
    """One layer over another, tables key by key."""
    tables = {
        name: _merged(weaker[name], value)
        for name, value in stronger.items()
        if isinstance(value, dict) and isinstance(weaker.get(name), dict)
    }
    return {**weaker, **stronger, **tables}


def _explain(
    error: ValidationError, layers: Mapping[str, dict[str, Any]], variables: Mapping[str, str]
) -> Iterator[str]:
    """One line for each thing wrong with the settings: where, which, why."""
    for problem in error.errors():
        name = str(problem["loc"][0])
        key = ".".join(str(part) for part in problem["loc"])
        place = (
            f"${variables[name]}"
            if name in variables
            else next((f for f, layer in layers.items() if name in layer), "")
        )
        if problem["type"] == "extra_forbidden":
            close = difflib.get_close_matches(name, _NAMES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"settings: {', '.join(_NAMES)}"
            yield f"{place}: unknown setting {key} ({hint})"
        else:
            yield f"{place}: {key}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


@cache
def _settings_model() -> type[BaseModel]:
    """`Settings` as a model that checks types and refuses unknown names; made on demand: pydantic loads slowly."""
    from pydantic import ConfigDict, create_model

    types = get_type_hints(Settings)
    defaults = Settings()
    definitions: dict[str, Any] = {name: (types[name], getattr(defaults, name)) for name in _NAMES}
    return create_model("SettingsModel", __config__=ConfigDict(extra="forbid"), **definitions)
