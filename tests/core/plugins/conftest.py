"""Plugin packages made on the spot: a module and a `.dist-info` folder, as pip would leave them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from nexa.discovery import Provider, installed_providers
from nexa.plugins import PluginHost

_NUMBERS = itertools.count()


class SyntheticPackages:
    """Writes importable distributions into one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, entry_point: str, source: str, *, distribution: str | None = None, version: str = "1.0") -> str:
        """Install a distribution whose entry point imports a module of `source`; return the module's name."""
        distribution = distribution or f"nexa-{entry_point}"
        module = f"synthetic_{entry_point.replace('-', '_')}_{next(_NUMBERS)}"
        (self.folder / f"{module}.py").write_text(source, encoding="utf-8")
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[nexa]\n{entry_point} = {module}\n")
        return module


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SyntheticPackages:
    """A folder on `sys.path` to put synthetic distributions into."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return SyntheticPackages(folder)


@pytest.fixture
def make_host(packages: SyntheticPackages) -> Callable[[], PluginHost]:
    """Builds a host over the synthetic distributions alone."""

    def make() -> PluginHost:
        return PluginHost([provider for provider in installed_providers() if is_synthetic(provider)])

    return make


def is_synthetic(provider: Provider) -> bool:
    """Whether a provider was made by `SyntheticPackages`."""
    return provider.module.startswith("synthetic_")
