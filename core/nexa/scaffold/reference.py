"""The reference page of plugin contracts, rendered from the code; `python -m nexa.scaffold.reference` prints it."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nexa import artifacts, backend, distiller, observer, reward, scheduler, specs
from nexa.worker import context

_INTRODUCTION = """# Contracts

What a plugin's objects implement, and the records that go in and out. Every class is imported from the module named
with it; methods marked *required* are abstract, the others have a default. The contract tests of each kind are in
`nexa.testing`; [hooks](hooks.md) says how a plugin is found, and [write a backend](../tutorial/write-a-backend.md)
builds one.

<!-- Made by `python -m nexa.scaffold.reference`; change the docstrings, not this page. -->
"""
_NOT_SHOWN = ("kind", "own_section")


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A heading of the page: the classes that a plugin of one kind implements, then the records around them."""

    title: str
    contracts: Sequence[type]
    records: Sequence[type]


_PARTS = (
    _Part(
        title="Specs",
        contracts=(),
        records=(
            specs.PluginSpec,
            specs.BackendSpec,
            specs.Conformance,
            specs.TaskSpec,
            specs.SchedulerSpec,
            specs.DistillerSpec,
            specs.ArtifactStoreSpec,
            specs.ObserverSpec,
            specs.RewardSpec,
            specs.RecipeFolder,
        ),
    ),
    _Part(
        title="Backends",
        contracts=(backend.Backend, backend.ChatSession, context.EventSink, context.CheckpointCommitter),
        records=(
            backend.Resources,
            backend.LaunchSpec,
            backend.SettingAnswer,
            backend.Estimate,
            backend.Preview,
            backend.PreviewToken,
            backend.Preparation,
            backend.PreparedPart,
            context.RunContext,
            backend.RunResult,
        ),
    ),
    _Part(
        title="Schedulers",
        contracts=(scheduler.Scheduler,),
        records=(
            scheduler.Attempt,
            scheduler.Submission,
            scheduler.JobRef,
            scheduler.JobStatus,
            scheduler.JobArray,
            scheduler.ArrayMember,
            scheduler.ClusterView,
            scheduler.NodeResources,
            scheduler.Partition,
            scheduler.QueuedJob,
        ),
    ),
    _Part(
        title="Distillers", contracts=(distiller.Distiller,), records=(distiller.CaptureEstimate, distiller.Comparison)
    ),
    _Part(
        title="Artifact stores",
        contracts=(artifacts.ArtifactStore,),
        records=(artifacts.ArtifactMeta, artifacts.StoredArtifact, artifacts.Damage),
    ),
    _Part(title="Observers", contracts=(observer.Observer,), records=()),
    _Part(title="Rewards", contracts=(reward.Reward,), records=(reward.Completion,)),
)


def contracts() -> Iterator[type]:
    """Every class on the page that a plugin implements or is handed."""
    for part in _PARTS:
        yield from part.contracts


def methods(contract: type) -> Iterator[tuple[str, Any]]:
    """Name and function of the public methods that a contract itself defines, in source order."""
    for name, member in vars(contract).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            yield name, member


def signature(name: str, function: Any) -> str:
    """A method as it is called: `name(argument: type) -> type`, without `self`."""
    whole = inspect.signature(function)
    own = [parameter for parameter in whole.parameters.values() if parameter.name != "self"]
    # Annotations are text, since every module postpones them; quotes would show.
    return f"{name}{whole.replace(parameters=own)}".replace("'", "").replace('"', "")


def markdown() -> str:
    """The page."""
    return "\n".join([_INTRODUCTION, *(line for part in _PARTS for line in _part(part))])


def _part(part: _Part) -> Iterator[str]:
    yield f"## {part.title}\n"
    for contract in part.contracts:
        yield f"### `{contract.__module__}.{contract.__qualname__}`\n"
        yield _doc(contract)
        for name, function in methods(contract):
            required = " *required*" if getattr(function, "__isabstractmethod__", False) else ""
            yield f"#### `{signature(name, function)}`{required}\n"
            yield _doc(function)
    for record in part.records:
        yield f"### `{record.__module__}.{record.__qualname__}`\n"
        yield _doc(record)
        yield from _fields(record)


def _fields(record: type) -> Iterator[str]:
    shown = [field for field in dataclasses.fields(record) if field.name not in _NOT_SHOWN]
    own = [field for field in shown if field.name in vars(record).get("__annotations__", {})]
    if own:
        yield "```python"
        yield from (f"{field.name}: {str(field.type).strip(chr(39) + chr(34))}{_default(field)}" for field in own)
        yield "```\n"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {field.default!r}"
    if field.default_factory is not dataclasses.MISSING:
        return f" = {field.default_factory()!r}"
    return ""


def _doc(thing: Any) -> str:
    """The docstring, its lines joined into paragraphs."""
    paragraphs = (inspect.getdoc(thing) or "").split("\n\n")
    return "\n\n".join(re.sub(r"\s*\n\s*", " ", paragraph) for paragraph in paragraphs) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
