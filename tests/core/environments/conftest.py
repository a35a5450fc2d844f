"""Environments built from small real wheels."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from environment_kit import ECHO, Nexa, make_wheel, needs

from nexa.environments.build import create
from nexa.environments.builders import Sources
from nexa.environments.requirements import Needs
from nexa.environments.store import EnvironmentStore, NamedEnvironment


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny 1.0 and 2.0; needy 1.0, which needs tiny<2; broken 1.0, which can't be imported."""
    folder = tmp_path_factory.mktemp("wheels")
    make_wheel(folder, "tiny", "1.0")
    make_wheel(folder, "tiny", "2.0")
    make_wheel(folder, "needy", "1.0", requires=["tiny<2"])
    make_wheel(folder, "broken", "1.0", body="raise ImportError('no such driver')\n")
    return folder


Make = Callable[..., NamedEnvironment]


@pytest.fixture
def make(wheels: Path, tmp_path: Path) -> Make:
    """Create an environment from the wheels alone, with pip."""

    def run(wanted: Needs, *, root: Path = tmp_path / "environments", **options: object) -> NamedEnvironment:
        settings = {"sources": Sources(find_links=[str(wheels)], index=False), "builder": "pip", **options}
        return create(EnvironmentStore(root), wanted, backend="demo", progress=lambda text: None, **settings)

    return run


@pytest.fixture(scope="session")
def built(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EnvironmentStore, NamedEnvironment]:
    """An environment with needy and tiny, shared by tests that do not change it."""
    store = EnvironmentStore(tmp_path_factory.mktemp("environments"))
    sources = Sources(find_links=[str(wheels)], index=False)
    wanted = needs("needy", probes=["needy", "tiny"])
    named = create(store, wanted, backend="demo", sources=sources, builder="pip", progress=lambda text: None)
    return store, named


@pytest.fixture
def own_copy(built: tuple[EnvironmentStore, NamedEnvironment], tmp_path: Path) -> tuple[EnvironmentStore, str]:
    """A copy of the built environment to change by hand."""
    store = EnvironmentStore(tmp_path / "copy")
    shutil.copytree(built[0].root, store.root, symlinks=True)
    return store, built[1].name


@pytest.fixture(scope="session")
def echo_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nexa-echo as pip would install it."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(ECHO / "src" / "nexa_echo", site / "nexa_echo")
    info = site / "nexa_echo-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nexa-echo\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[nexa]\necho = nexa_echo.plugin\n")
    (info / "RECORD").write_text(f"{info.name}/METADATA,,\n{info.name}/entry_points.txt,,\n")
    return site


@pytest.fixture
def nexa(tmp_path: Path, echo_site: Path) -> Nexa:
    """The command, in a folder that holds nexa-echo's recipe."""
    for name in ("echo.yaml", "echo.jsonl"):
        shutil.copyfile(ECHO / "src" / "nexa_echo" / "recipes" / name, tmp_path / name)
    return Nexa(tmp_path, echo_site)
