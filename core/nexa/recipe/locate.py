"""Finding a recipe file: by path, or by name in the project, in Nexa itself, and in plugins.

A name is a file's name without `.yaml`. Folders searched: `recipes/` of the current folder (or of
the nearest folder above it that holds `nexa.toml`) and Nexa's own recipes, then those plugins ship.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from nexa.errors import UserError

SUFFIXES = (".yaml", ".yml")


def find_recipe(name_or_path: str | Path) -> Path:
    """The recipe file a person means, as an absolute path.

    A value with a separator or a YAML suffix is a path, everything else a name. Raises UserError
    when there is no such recipe, or when several folders have one of that name.
    """
    text = str(name_or_path)
    path = Path(text).expanduser()
    if isinstance(name_or_path, Path) or os.sep in text or path.suffix in SUFFIXES or text.startswith("~"):
        if not path.exists():
            raise UserError(f"there is no recipe file {path}", hint=_suggest_file(path))
        return Path(os.path.normpath(Path.cwd() / path))
    return _find_by_name(text)


def find_parent(reference: str, child: Path) -> Path:
    """The file that `extends: reference` in the file `child` means: a path beside it, else a name."""
    path = Path(reference).expanduser()
    if os.sep in reference or path.suffix in SUFFIXES:
        found = Path(os.path.normpath(child.parent / path))
        if not found.exists():
            raise UserError(f"there is no recipe file {found}", hint=_suggest_file(found))
        return found
    beside = child.parent / f"{reference}.yaml"
    return beside if beside.is_file() and beside != child else _find_by_name(reference, but=child)


def own_recipe_folder() -> Path:
    """The folder of the recipes Nexa ships: the checkout's, else the installed package's."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parents[1]
    if package.parent.name == "core" and (checkout / "recipes").is_dir():
        return checkout / "recipes"
    return package / "_recipes"


def project_recipe_folder() -> Path:
    """The folder `recipes/` of the current project; it need not exist."""
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / "nexa.toml").is_file()), here)
    return root / "recipes"


def _find_by_name(name: str, *, but: Path | None = None) -> Path:
    """The one recipe of that name; `but` is left out, so that a recipe may extend its namesake."""
    matches = [path for path, _ in recipe_files(plugins=False) if path.stem == name and path != but]
    if not matches:
        matches = [path for path, _ in recipe_files() if path.stem == name and path != but]
    if len(matches) > 1:
        places = ", ".join(str(path) for path in matches)
        raise UserError(f"recipe {name!r} is ambiguous: {places}", hint="type the path of the one you mean")
    if not matches:
        names = sorted({path.stem for path, _ in recipe_files()})
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(
            f"there is no recipe {name!r}",
            hint=f"{hint}recipes: {', '.join(names) or 'none'}; or type a path to a file",
        )
    return matches[0]


def recipe_files(*, plugins: bool = True) -> Iterator[tuple[Path, str]]:
    """Path and source ("project", "nexa", "plugin") of each recipe file, every folder once."""
    folders = [(project_recipe_folder(), "project"), (own_recipe_folder(), "nexa")]
    if plugins:
        from nexa.plugins import get_host

        folders += [(folder.path, "plugin") for folder in get_host().recipe_folders()]
    seen: set[Path] = set()
    own = own_recipe_folder().resolve()
    for folder, source in folders:
        resolved = folder.resolve()
        if resolved in seen or not resolved.is_dir():
            continue
        seen.add(resolved)
        for path in sorted(resolved.iterdir()):
            if path.suffix in SUFFIXES and path.is_file():
                yield path, "nexa" if resolved == own else source


def _suggest_file(path: Path) -> str | None:
    """Names close to a missing path, from the folder it should be in."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    files = [entry.name for entry in path.parent.iterdir() if entry.suffix in SUFFIXES]
    close = difflib.get_close_matches(path.name, files, n=1)
    return f"did you mean {path.parent / close[0]}?" if close else None
