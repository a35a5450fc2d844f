"""The plugin host: what is loaded when, and what a broken plugin can't do."""

from __future__ import annotations

import sys
import time
from importlib.metadata import entry_points

import pytest

from nexa.discovery import FIRST_PARTY_DISTRIBUTION, installed_providers
from nexa.errors import PluginError
from nexa.plugins import CONTRACTS, PluginHost, get_host, load_target

BACKEND = """
import nexa
from nexa.specs import BackendSpec

@nexa.hookimpl
def nexa_register_backends():
    return [BackendSpec(name="{name}", summary="A backend.", factory="{module}:Thing", methods=("sft",))]
"""

TASK = """
import nexa
from nexa.specs import BackendSpec, TaskSpec

@nexa.hookimpl
def nexa_register_backends():
    return [BackendSpec(name="{backend}", summary="A backend.", factory="m:B", methods=("sft",))]

@nexa.hookimpl
def nexa_register_tasks():
    return [TaskSpec(name="fit", summary="A task.", factory="m:T", data_module="m:D", backend="{backend}")]
"""

OBSERVER_WITH_OPTIONS = """
import nexa
from nexa.specs import ObserverSpec

@nexa.hookimpl
def nexa_register_observers():
    return [ObserverSpec(name="{name}", summary="An observer.", factory="m:F", options_model="{options}")]
"""

MODELS = """
import pydantic

class Good(pydantic.BaseModel, extra="forbid"):
    x: int = 1

class Lax(pydantic.BaseModel):
    pass
"""

RECIPE_FOLDER = """
import nexa, pathlib
from nexa.specs import RecipeFolder

@nexa.hookimpl
def nexa_register_recipe_folders():
    return [RecipeFolder(path={path})]
"""


def backend(name, module="somewhere"):
    return BACKEND.format(name=name, module=module)


def statuses(host):
    return {entry.entry_point: entry.status for entry in host.report()}


def entry_of(host, entry_point):
    return next(entry for entry in host.report() if entry.entry_point == entry_point)


def test_naming_a_plugin_imports_its_entry_point_and_no_other(packages, make_host):
    wanted = packages.add("wanted", backend("wanted"))
    other = packages.add("other", backend("other"))
    spec = make_host().spec("backend", "wanted")
    assert (spec.name, spec.methods) == ("wanted", ("sft",))
    assert wanted in sys.modules
    assert other not in sys.modules


def test_a_plugin_named_unlike_its_entry_point_is_found(packages, make_host):
    packages.add("tools", backend("hammer"))
    assert make_host().spec("backend", "hammer").name == "hammer"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("def this is not Python", "SyntaxError"),
        (
            "import nexa\n@nexa.hookimpl\ndef nexa_register_backends():\n    raise RuntimeError('inside the hook')",
            "RuntimeError: inside the hook",
        ),
        (
            "import nexa\n@nexa.hookimpl\ndef nexa_register_backends():\n    yield 1 / 0",
            "ZeroDivisionError: division by zero",
        ),
        (
            "import nexa\n@nexa.hookimpl\ndef nexa_register_backends():\n    return 7",
            "nexa_register_backends must return an iterable of BackendSpec, not int",
        ),
        (
            "import nexa\n@nexa.hookimpl\ndef nexa_register_backends():\n    return 'torch'",
            "nexa_register_backends must return an iterable of BackendSpec, not str",
        ),
        (
            "import nexa\nfrom nexa.specs import ObserverSpec\n@nexa.hookimpl\ndef nexa_register_backends():\n"
            "    return [ObserverSpec(name='x', summary='y', factory='a:b')]",
            "nexa_register_backends must return BackendSpec records, but one is a ObserverSpec",
        ),
        ("import nexa\n@nexa.hookimpl\ndef nexa_register_backend():\n    return []", "nexa_register_backend"),
        ("import nexa\n@nexa.hookimpl\ndef nexa_register_backends(extra):\n    return []", "extra"),
        ("def nexa_register_backends():\n    return []", "not marked with @nexa.hookimpl"),
        (backend("Bad Name"), "a name is a lower-case letter"),
        (backend("broken").replace("somewhere:Thing", "somewhere"), "`factory` must read 'module:attribute'"),
        (backend("broken").replace('("sft",)', "()"), "`methods` must be a tuple with at least one"),
        (backend("broken").replace('"A backend."', '"two\\nlines"'), "`summary` must be one line"),
        (
            backend("broken").replace("methods=", "capabilities=['chat'], methods="),
            "`capabilities` must be a frozenset",
        ),
        (
            OBSERVER_WITH_OPTIONS.format(name="broken", options="nowhere"),
            "`options_model` must read 'module:attribute'",
        ),
        (
            RECIPE_FOLDER.format(path="'recipes'"),
            "`path` must be an absolute pathlib.Path, not 'recipes'",
        ),
        ("", "registers nothing"),
    ],
)
def test_a_broken_plugin_is_reported_and_harms_no_other(packages, make_host, source, message):
    packages.add("broken", source, version="3.2")
    packages.add("sound", backend("sound"))
    host = make_host()
    broken = entry_of(host, "broken")
    assert broken.status == "error"
    assert message in broken.message
    assert (broken.distribution, broken.version) == ("nexa-broken", "3.2")
    assert [spec.name for spec in host.specs("backend")] == ["sound"]
    assert host.spec("backend", "sound").name == "sound"


def test_a_broken_plugin_raises_when_named_and_keeps_its_traceback(packages, make_host):
    packages.add("broken", "def fail():\n    raise ValueError('bad day')\nfail()")
    host = make_host()
    with pytest.raises(
        PluginError, match=r"nexa-broken 1\.0 \(entry point 'broken'\) failed to load: ValueError: bad day"
    ):
        host.spec("backend", "broken")
    assert "in fail" in entry_of(host, "broken").traceback


def test_one_plugin_registering_a_name_twice_is_its_own_error(packages, make_host):
    twice = backend("double").replace("return [", "return 2 * [")
    packages.add("double", twice)
    assert "registers the backend 'double' twice" in entry_of(make_host(), "double").message


def test_two_providers_of_one_name_are_an_error_that_names_both(packages, make_host):
    packages.add("left", backend("shared"))
    packages.add("right", backend("shared"))
    host = make_host()
    with pytest.raises(PluginError, match=r"provided by nexa-left 1\.0 .* and by nexa-right 1\.0"):
        host.spec("backend", "shared")
    assert statuses(host) == {"left": "duplicate", "right": "duplicate"}
    assert host.specs("backend") == ()


def test_shadowing_a_first_party_entry_point_is_an_error_that_names_both(packages):
    packages.add("mine", backend("mine"), distribution=FIRST_PARTY_DISTRIBUTION + "-core-standin")
    packages.add("mine", backend("mine"), distribution="nexa-evil")
    host = PluginHost([provider for provider in installed_providers() if provider.name == "mine"])
    with pytest.raises(PluginError, match=r"nexa-evil 1\.0.* and by nexa-train-core-standin"):
        host.spec("backend", "mine")


def test_a_name_can_not_be_taken_from_the_entry_point_that_bears_it(packages, make_host):
    packages.add("mine", backend("mine", module="owner"))
    packages.add("thief", backend("mine", module="thief"))
    host = make_host()
    assert host.spec("backend", "mine").factory == "owner:Thing"
    assert statuses(host) == {"mine": "ok", "thief": "duplicate"}
    assert host.spec("backend", "mine").factory == "owner:Thing"
    assert "also provided by nexa-mine" in entry_of(host, "thief").message
    assert "also registered by nexa-thief" in entry_of(host, "mine").message


def test_a_hanging_import_is_named_and_the_listing_does_not_wait_for_it(packages, make_host):
    packages.add("hanging", "import time\ntime.sleep(30)")
    packages.add("sound", backend("sound"))
    host = make_host()
    begin = time.monotonic()
    assert statuses(host) == {"hanging": "slow", "sound": "ok"}
    assert time.monotonic() - begin < 2
    assert entry_of(host, "hanging").distribution == "nexa-hanging"


def test_what_a_plugin_prints_on_import_stays_out_of_stdout(packages, make_host, capsys):
    packages.add("chatty", "print('hello from a plugin')\n" + backend("chatty"))
    make_host().report()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello from a plugin" in captured.err


def test_an_unknown_name_lists_what_there_is(packages, make_host):
    packages.add("hammer", backend("hammer"))
    packages.add("watcher", OBSERVER_WITH_OPTIONS.format(name="watcher", options="a:B"))
    packages.add("broken", "raise ValueError")
    host = make_host()
    with pytest.raises(PluginError) as error:
        host.spec("backend", "hamer")
    assert str(error.value).startswith("there is no backend 'hamer'")
    for part in ("did you mean 'hammer'?", "installed: hammer", "failed to load, see `nexa plugins`: nexa-broken 1.0"):
        assert part in error.value.hint
    assert error.value.exit_code == 2
    with pytest.raises(PluginError, match="a plugin of another kind has this name: observer"):
        host.spec("backend", "watcher")


def test_creating_a_plugin_without_its_library_says_what_to_install(packages, make_host):
    module = packages.add("needy", "")
    source = backend("needy", module) + "\ndef Thing():\n    import gguf_not_here, torch\n"
    (packages.folder / f"{module}.py").write_text(source)
    with pytest.raises(PluginError) as error:
        make_host().create("backend", "needy")
    assert "the backend 'needy' of nexa-needy 1.0" in error.value.message
    assert "No module named 'gguf_not_here'" in error.value.message
    assert "the package that provides the module 'gguf_not_here'" in error.value.hint


def test_creating_a_plugin_whose_library_is_in_an_extra_says_the_pip_line(packages, make_host, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    module = packages.add("needy", "")
    (packages.folder / f"{module}.py").write_text(
        backend("needy", module) + "\ndef Thing():\n    raise ModuleNotFoundError('no', name='safetensors.torch')\n"
    )
    with pytest.raises(PluginError) as error:
        make_host().create("backend", "needy")
    assert error.value.hint == "pip install 'nexa-train[torch]'"


def test_a_factory_that_returns_something_else_is_refused(packages, make_host):
    module = packages.add("fake", "")
    (packages.folder / f"{module}.py").write_text(backend("fake", module) + "\nThing = dict\n")
    with pytest.raises(PluginError, match="returned a dict, which is not a nexa Backend"):
        make_host().create("backend", "fake")


def test_options_models_are_strict_pydantic_models_and_sections_unambiguous(packages, make_host):
    (packages.folder / "synthetic_models.py").write_text(MODELS)
    for name, options in {"good": "Good", "lax": "Lax", "gone": "Gone"}.items():
        packages.add(name, OBSERVER_WITH_OPTIONS.format(name=name, options=f"synthetic_models:{options}"))
    packages.add("left", OBSERVER_WITH_OPTIONS.format(name="both", options="synthetic_models:Good"))
    packages.add("right", OBSERVER_WITH_OPTIONS.format(name="both", options="synthetic_models:Lax"))
    host = make_host()
    assert host.options_model("good").__name__ == "Good"
    assert host.options_model("nobody") is None
    with pytest.raises(PluginError, match='not a pydantic model with extra="forbid"'):
        host.options_model("lax")
    with pytest.raises(PluginError, match="AttributeError"):
        host.options_model("gone")
    with pytest.raises(
        PluginError, match=r"'both' is claimed by the observer of nexa-left .* and by the observer of nexa-right"
    ):
        host.options_model("both")
    assert host.option_sections() == ("both", "gone", "good", "lax")


def test_recipe_folders_are_collected(packages, make_host):
    packages.add("cook", RECIPE_FOLDER.format(path="pathlib.Path('/recipes')"))
    host = make_host()
    assert [str(folder.path) for folder in host.recipe_folders()] == ["/recipes"]
    assert entry_of(host, "cook").status == "ok"


@pytest.fixture
def fresh_get_host():
    get_host.cache_clear()
    yield get_host
    get_host.cache_clear()


def test_a_task_is_a_method_of_its_backend_alone(packages, make_host):
    packages.add("one", TASK.format(backend="one"))
    packages.add("two", backend("two"))
    host = make_host()
    one, two = host.spec("backend", "one"), host.spec("backend", "two")
    assert (host.trains(one, "fit"), host.trains(one, "sft"), host.trains(one, "fut")) == (True, True, False)
    assert not host.trains(two, "fit")
    assert host.methods(one) == ("sft", "fit")
    assert host.spec("task", "fit").data_module == "m:D"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"m:D"', '"m.D"', "`data_module` must read 'module:attribute'"),
        ('factory="m:T"', 'factory="m:T", honours="data"', "`honours` and `refuses` must be tuples"),
        ('factory="m:T"', 'factory="m:T", check="m"', "`check` must read 'module:attribute'"),
    ],
)
def test_a_task_s_spec_is_checked(packages, make_host, old, new, message):
    packages.add("one", TASK.format(backend="one").replace(old, new))
    (entry,) = make_host().report()
    assert message in entry.message


def test_the_allow_list_loads_only_what_it_names(packages, monkeypatch, fresh_get_host):
    module = packages.add("extra", backend("extra"))
    monkeypatch.setenv("NEXA_LOAD_PLUGINS", "file")
    report = {entry.entry_point: entry for entry in fresh_get_host().report()}
    assert report["extra"].status == "off"
    assert module not in sys.modules
    with pytest.raises(PluginError, match="is not loaded: not among NEXA_LOAD_PLUGINS=file"):
        fresh_get_host().spec("backend", "extra")


def test_the_allow_list_refuses_a_name_that_is_not_installed(packages, monkeypatch, fresh_get_host):
    monkeypatch.setenv("NEXA_LOAD_PLUGINS", "fiel")
    with pytest.raises(PluginError, match="names 'fiel', but no such entry point is installed"):
        fresh_get_host()


def test_no_plugins_loads_first_party_only(packages, monkeypatch, fresh_get_host):
    module = packages.add("extra", backend("extra"))
    monkeypatch.setenv("NEXA_NO_PLUGINS", "1")
    report = {entry.entry_point: entry.status for entry in fresh_get_host().report()}
    assert report["extra"] == "off"
    assert report["torch"] != "off"
    assert module not in sys.modules


def test_every_kind_has_a_contract_class():
    assert {kind: load_target(target).__name__ for kind, target in CONTRACTS.items()} == {
        "backend": "Backend",
        "scheduler": "Scheduler",
        "distiller": "Distiller",
        "artifact-store": "ArtifactStore",
        "observer": "Observer",
        "reward": "Reward",
    }


def test_installed_entry_points_are_those_of_pyproject(pytestconfig):
    import tomllib

    declared = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text())["project"]["entry-points"]["nexa"]
    installed = {
        entry_point.name: entry_point.value
        for entry_point in entry_points(group="nexa")
        if entry_point.dist is not None and entry_point.dist.name == FIRST_PARTY_DISTRIBUTION
    }
    assert installed == declared, "entry points are fixed at installation: run `pip install -e .` again"
