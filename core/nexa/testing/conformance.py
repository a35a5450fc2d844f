"""The conformance kit as tests: a backend trains the kit's model, and each step is compared with the reference.

    class TestMine(ConformanceContract):
        plugin_name = "mine"

What a backend does otherwise by design, its spec says under `conformance`; see `nexa.specs.Conformance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from nexa.conformance.checks import CHECKS
from nexa.conformance.report import CheckResult, Verdict, run_conformance
from nexa.plugins import get_host
from nexa.testing.base import PluginContract


class ConformanceContract(PluginContract):
    """Every check of `nexa conformance`, a test each; the runs they look at are shared.

    overrides: recipe keys on top of the kit's recipe and of the spec's own overrides. only: the checks to make, such
    as those that need no more than one run; all where it is empty.
    """

    kind = "backend"
    overrides: ClassVar[Mapping[str, Any]] = {}
    only: ClassVar[Sequence[str]] = ()

    @pytest.fixture(scope="class")
    @classmethod
    def results(cls, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, CheckResult]:
        """What each check found, by its name."""
        folder = tmp_path_factory.mktemp("conformance")
        report = run_conformance(get_host(), cls.plugin_name, folder, only=cls.only, overrides=cls.overrides)
        return {result.name: result for result in report.results}

    @pytest.mark.parametrize("name", CHECKS)
    def test_it_conforms(self, results: Mapping[str, CheckResult], name: str) -> None:
        """No check finds a difference that the backend does not declare."""
        if name not in results:
            pytest.skip(f"{type(self).__name__} makes the checks {', '.join(self.only)}")
        result = results[name]
        assert result.verdict is not Verdict.FAILED, "\n".join(result.details)
