"""Finding recipes by name and path, and listing them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nexa.errors import UserError
from nexa.recipe.catalog import find_recipe, list_recipes
from nexa.recipe.load import load_recipe
from nexa.recipe.locate import own_recipe_folder

from .conftest import BASE

CHECKOUT = Path(__file__).resolve().parents[3]


def _project_recipe(tmp_path: Path, name: str, text: str = BASE) -> Path:
    path = tmp_path / "work" / "recipes" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_own_recipes_are_the_checkouts() -> None:
    assert own_recipe_folder() == CHECKOUT / "recipes"
    assert find_recipe("quickstart") == CHECKOUT / "recipes" / "quickstart.yaml"


def test_a_project_adds_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _project_recipe(tmp_path, "mine")
    assert find_recipe("mine") == path
    assert {entry.name: entry.source for entry in list_recipes()}["mine"] == "project"
    below = tmp_path / "work" / "below"
    below.mkdir()
    (tmp_path / "work" / "nexa.toml").touch()
    monkeypatch.chdir(below)
    assert find_recipe("mine") == path


def test_a_name_in_two_places_is_ambiguous_and_names_both(tmp_path: Path) -> None:
    path = _project_recipe(tmp_path, "v1")
    with pytest.raises(UserError, match="recipe 'v1' is ambiguous") as caught:
        find_recipe("v1")
    assert str(path) in str(caught.value)
    assert str(CHECKOUT / "recipes" / "v1.yaml") in str(caught.value)
    assert find_recipe(path) == path


def test_a_recipe_may_extend_its_namesake(tmp_path: Path) -> None:
    path = _project_recipe(tmp_path, "v1", "extends: v1\ntraining: {max_steps: 3}\n")
    loaded = load_recipe(path)
    assert loaded.recipe.training.max_steps == 3
    assert loaded.files[1] == CHECKOUT / "recipes" / "v1.yaml"


def test_the_checkout_as_current_folder_is_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CHECKOUT)
    names = [entry.name for entry in list_recipes()]
    assert len(names) == len(set(names))
    assert find_recipe("v1") == CHECKOUT / "recipes" / "v1.yaml"


def test_a_list_fills_in_what_is_inherited() -> None:
    entries = {entry.name: entry for entry in list_recipes()}
    assert (entries["v1"].method, entries["v1"].model, entries["v1"].problem) == ("sft", "llama", None)
    assert "stability" in entries["v1"].tags


def test_a_broken_recipe_is_listed_with_its_problem(tmp_path: Path) -> None:
    _project_recipe(tmp_path, "broken", "method: [\n")
    entry = next(entry for entry in list_recipes() if entry.name == "broken")
    assert entry.problem is not None
    assert "not YAML" in entry.problem


def test_a_plugin_folder_is_found_when_nothing_nearer_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "plugin-recipes"
    folder.mkdir()
    (folder / "shipped.yaml").write_text(BASE)
    site = tmp_path / "site"
    info = site / "plug-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nexa]\nplug = plug_module\n")
    (site / "plug_module.py").write_text(
        "from pathlib import Path\nfrom nexa.hookspecs import hookimpl\nfrom nexa.specs import RecipeFolder\n"
        f"@hookimpl\ndef nexa_register_recipe_folders():\n    return [RecipeFolder(path=Path({str(folder)!r}))]\n"
    )
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from nexa.recipe.catalog import find_recipe, list_recipes\n"
        "print(find_recipe('shipped'), [e.source for e in list_recipes() if e.name == 'shipped'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == f"{folder / 'shipped.yaml'} ['plugin']"


def test_a_list_loads_neither_schema_nor_training_libraries() -> None:
    script = (
        "import sys\nfrom nexa.cli.main import main\ncode = main(['recipe', 'list'])\n"
        "heavy = {'pydantic', 'torch', 'transformers', 'numpy', 'textual', 'rich'} & set(sys.modules)\n"
        "sys.exit(code or ','.join(heavy) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
