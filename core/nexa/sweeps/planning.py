"""Plans of all members of a sweep, worked out before anything is touched, with all their problems at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nexa.errors import Problem, RecipeError, UserError
from nexa.runs.ids import LONGEST_NAME
from nexa.sweeps.space import Member

if TYPE_CHECKING:
    from pathlib import Path

    from nexa.plan import Plan
    from nexa.plugins import PluginHost
    from nexa.recipe.load import RecipeTree
    from nexa.settings import Settings

_MEMBERS_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What a sweep will do.

    name: part of its id. members: overrides of each run; plans: of each run, in the same order. method:
    "grid" or "random", with its seed. max_concurrent: how many runs at once, None for no limit. in_array:
    whether the scheduler takes all runs as one job.
    """

    name: str
    members: Sequence[Member]
    plans: Sequence[Plan]
    method: str
    seed: int | None
    max_concurrent: int | None
    in_array: bool

    @property
    def runs_dir(self) -> Path:
        """Folder of the runs."""
        return self.plans[0].runs_dir

    @property
    def varied(self) -> Sequence[str]:
        """Keys of which not all runs have the same value."""
        return [key for key in self.members[0] if len({member[key] for member in self.members}) > 1]


def plan_sweep(
    source: str | None,
    members: Sequence[Member],
    *,
    flags: Mapping[str, Any],
    method: str,
    seed: int | None,
    max_concurrent: int | None,
    host: PluginHost,
    settings: Settings,
) -> SweepPlan:
    """Resolve and plan every member's recipe; touches nothing.

    flags: as of `load_recipe`, the same for all members. Raises RecipeError with all problems of all
    members, and UserError for runs that can't be one sweep.
    """
    from nexa.recipe.load import read_tree

    _refuse_twice(members, flags)
    tree = read_tree(source)
    base = _base_name(tree, members[0], flags)
    numbered = [_named(member, base, number, len(members)) for number, member in enumerate(members, start=1)]
    plans = _plans(tree, members, numbered, flags, host, settings)
    schedulers = {plan.scheduler.name for plan in plans}
    if len(schedulers) > 1:
        raise UserError(f"one sweep has one scheduler, not {' and '.join(sorted(schedulers))}")
    in_array = "array" in plans[0].scheduler.capabilities
    # Without a queue of the scheduler's own, one run after another is what a machine surely holds.
    concurrent = max_concurrent if in_array else max_concurrent or 1
    return SweepPlan(
        name=base,
        members=members,
        plans=plans,
        method=method,
        seed=seed,
        max_concurrent=concurrent,
        in_array=in_array,
    )


def override_texts(member: Member) -> list[str]:
    """The member as command-line overrides."""
    return [f"{key}={value}" for key, value in member.items()]


def _refuse_twice(members: Sequence[Member], flags: Mapping[str, Any]) -> None:
    both = [key for key in members[0] if key in flags]
    if both:
        raise UserError(f"{', '.join(both)} is set by a flag and by KEY=VALUES", hint="leave one of them out")


def _base_name(tree: RecipeTree, member: Member, flags: Mapping[str, Any]) -> str:
    from nexa.recipe.load import apply_typed

    node = apply_typed(tree, override_texts(member), flags).root.find(["run", "name"])
    name = node.plain() if node is not None else None
    return name if isinstance(name, str) and name else tree.path.stem


def _named(member: Member, base: str, number: int, count: int) -> Member:
    """The member with a name of its own, unless the sweep is over names."""
    if "run.name" in member:
        return member
    suffix = f"-{number:0{len(str(count))}d}"
    return {**member, "run.name": f"'{base[: LONGEST_NAME - len(suffix)]}{suffix}'"}


def _plans(
    tree: RecipeTree,
    members: Sequence[Member],
    numbered: Sequence[Member],
    flags: Mapping[str, Any],
    host: PluginHost,
    settings: Settings,
) -> list[Plan]:
    from nexa.plan import make_plan
    from nexa.recipe.load import all_problems, apply_typed, resolve_tree

    plans: list[Plan] = []
    found: dict[Problem, list[int]] = {}
    for index, member in enumerate(numbered):
        try:
            loaded = resolve_tree(apply_typed(tree, override_texts(member), flags))
            plan = make_plan(loaded, host=host, settings=settings)
            plan.require_startable()
        except RecipeError as error:
            for problem in error.problems:
                found.setdefault(problem, []).append(index)
        else:
            plans.append(plan)
    if found:
        raise all_problems([_located(problem, places, members) for problem, places in found.items()])
    return plans


def _located(problem: Problem, places: Sequence[int], members: Sequence[Member]) -> Problem:
    """The problem with the members that have it, where not all do."""
    if len(places) == len(members):
        return problem
    named = [f"run {place + 1} ({' '.join(override_texts(members[place]))})" for place in places[:_MEMBERS_NAMED]]
    more = f" and {len(places) - _MEMBERS_NAMED} more" if len(places) > _MEMBERS_NAMED else ""
    return replace(problem, message=f"{problem.message}; in {', '.join(named)}{more}")
