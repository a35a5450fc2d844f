"""Which environment a run's workers get, and why: the current one, a built one, a path or a container.

Reads what is installed and what was built; starts nothing and writes nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.environments.code import code_folder, place_code
from nexa.environments.containers import container_spec
from nexa.environments.requirements import current_misfits, misfits, needs_of, normal_name
from nexa.environments.store import EnvironmentStore, NamedEnvironment
from nexa.errors import NexaError, Problem, UserError
from nexa.extras import extra_named
from nexa.recipe.sections.environment import AUTO, CURRENT

if TYPE_CHECKING:
    from nexa.backend import LaunchSpec, Resources
    from nexa.environments.requirements import Needs
    from nexa.recipe.schema import Recipe
    from nexa.specs import BackendSpec

_LACKS = "it lacks "
_VERSION_LINE = re.compile(r"^version(?:_info)?\s*=\s*(\d+\.\d+(?:\.\d+)?)", re.M)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where workers run.

    kind: "current", "backend" (an interpreter that the backend names itself), "created", "path" or "container".
    name: of the environment, path or image. python: its interpreter. digest: of a built environment, else "".
    version: of its Python, "" where unknown. packages: how many it has, None where unknown. reasons: why this one
    and not another, and what does not fit. problems: what stops the run.
    """

    kind: str
    name: str
    python: str
    digest: str = ""
    version: str = ""
    packages: int | None = None
    reasons: Sequence[str] = ()
    problems: Sequence[Problem] = ()
    code: WorkerCode | None = field(default=None, compare=False)

    @property
    def is_current(self) -> bool:
        """Whether workers run in the environment that launches them."""
        return self.kind == CURRENT

    def document(self) -> dict[str, Any]:
        """What the run records of it, as JSON values."""
        facts = {"kind": self.kind, "name": self.name, "digest": self.digest, "python": self.version}
        return {key: value for key, value in facts.items() if value}

    def place_code(self) -> None:
        """Make the folder that the workers find Nexa in. Raises UserError where it can't be written."""
        if self.code is None:
            return
        try:
            self.code.place()
        except OSError as error:
            raise UserError(
                f"the workers' code can't be written to {self.code.folder}: {error.strerror or error}",
                hint="set NEXA_ENVIRONMENTS_DIR to a folder you may write to",
            ) from error

    def claim(self, run_dir: Path) -> None:
        """Keep the code and the environment from being removed while the run needs them."""
        from nexa.environments.claims import claim

        if self.code is not None:
            claim(self.code.root, run_dir, code=self.code.folder.name, environment=self.digest)

    def apply(self, launch: LaunchSpec, recipe: Recipe, resources: Resources, store_uri: str) -> LaunchSpec:
        """A backend's launch, carried out in this environment."""
        if self.code is None:
            return replace(launch, environment=self.document())
        container = None
        if self.kind == "container":
            container = container_spec(recipe, resources, code=self.code.folder, store_uri=store_uri)
        return replace(
            launch,
            python=self.python,
            code=str(self.code.folder),
            probes=self.code.probes,
            environment=self.document(),
            container=container,
        )


@dataclass(frozen=True, kw_only=True)
class WorkerCode:
    """The folder on a worker's path, below the root of all environments, and what goes into it; see
    `nexa.environments.code`.
    """

    root: Path
    folder: Path
    factories: Sequence[str]
    distributions: Sequence[str]
    probes: Sequence[str] = ()

    @classmethod
    def of(
        cls, root: Path, *, factories: Sequence[str], distributions: Sequence[str], probes: Sequence[str]
    ) -> WorkerCode:
        """The code of these plugins. Raises PluginError for a plugin that can't be copied."""
        folder = code_folder(root, factories, distributions)
        return cls(root=root, folder=folder, factories=factories, distributions=distributions, probes=probes)

    def place(self) -> None:
        """Make the folder, unless it is there. Raises OSError."""
        place_code(self.folder, self.factories, self.distributions)


def choose(
    recipe: Recipe,
    spec: BackendSpec,
    *,
    own_python: str,
    distribution: str,
    root: Path,
    make_code: Callable[[Sequence[str]], WorkerCode],
) -> Placement:
    """Choose by the recipe's section `environment`.

    own_python: the interpreter that the backend itself names. distribution: the one that provides the backend.
    root: folder of environments. make_code: from the modules to look for, the code for a worker that does not run
    here. Raises UserError for a requirement of the backend that can't be read.
    """
    needs, section = needs_of(spec, distribution), recipe.environment
    if section.container is not None:
        placement = Placement(kind="container", name=section.container, python=section.python)
    elif section.name == CURRENT:
        placement = _current(needs)
    elif section.name == AUTO and own_python != sys.executable:
        placement = Placement(kind="backend", name=own_python, python=own_python)
    elif section.name == AUTO:
        placement = _automatic(needs, spec, distribution, EnvironmentStore(root))
    elif "/" in section.name:
        placement = _at_path(Path(section.name), needs)
    else:
        placement = _named(section.name, needs, EnvironmentStore(root))
    if placement.is_current or placement.problems:
        return placement
    return replace(placement, code=make_code(needs.probes))


def fitting(needs: Needs, backend: str, store: EnvironmentStore) -> NamedEnvironment | None:
    """The environment built for a backend that has what it needs now; the one of its own name first."""
    for named in sorted(store.names(), key=lambda named: (named.name != backend, named.name)):
        built = named.environment
        if named.backend == backend and built is not None and not misfits(needs, built.versions, built.python):
            return named
    return None


def _current(needs: Needs) -> Placement:
    reasons = current_misfits(needs)
    missing = [reason for reason in reasons if reason.startswith(_LACKS)]
    problems = [
        Problem(
            path="environment",
            message=f"the current environment does not do for {needs.asker}: {'; '.join(missing)}",
            hint="install it here, or let Nexa choose: environment=auto",
        )
    ]
    return Placement(
        kind=CURRENT, name=CURRENT, python=sys.executable, reasons=reasons, problems=problems if missing else []
    )


def _automatic(needs: Needs, spec: BackendSpec, distribution: str, store: EnvironmentStore) -> Placement:
    reasons = current_misfits(needs)
    if not reasons:
        return Placement(kind=CURRENT, name=CURRENT, python=sys.executable)
    named = fitting(needs, spec.name, store)
    if named is not None:
        return _built(named, [f"not the current one: {reason}" for reason in reasons])
    outdated = [other.name for other in store.names() if other.backend == spec.name]
    also = f"; {', '.join(outdated)} was built for other needs" if outdated else ""
    problem = Problem(
        path="environment",
        message=f"the current environment does not fit {needs.asker}: {'; '.join(reasons)}{also}",
        hint=" or ".join(_remedies(spec.name, distribution, reasons)),
    )
    return Placement(kind=CURRENT, name=CURRENT, python=sys.executable, reasons=reasons, problems=[problem])


def _remedies(backend: str, distribution: str, reasons: Sequence[str]) -> Iterator[str]:
    yield f"make one for it: nexa env create {backend}"
    if normal_name(distribution) == "nexa-train" and (command := extra_named(backend)):
        yield f"install it here: {command}"
    if not any(reason.startswith(_LACKS) for reason in reasons):
        yield "take it nevertheless: environment=current"


def _named(name: str, needs: Needs, store: EnvironmentStore) -> Placement:
    try:
        named = store.require(name)
    except NexaError as error:
        return _impossible("created", name, error.message, error.hint)
    if named.environment is None:
        return _impossible(
            "created",
            name,
            f"the environment {name} was not built to its end, or was removed",
            f"build it: nexa env create {named.backend} --name {name}",
        )
    placement = _built(named, misfits(needs, named.environment.versions, named.environment.python))
    return _with_lacks(placement, needs, f"nexa env create {needs.asker.split()[-1]}")


def _built(named: NamedEnvironment, reasons: Sequence[str]) -> Placement:
    built = named.environment
    assert built is not None
    return Placement(
        kind="created",
        name=named.name,
        python=str(built.interpreter),
        digest=built.digest,
        version=built.python,
        packages=len(built.packages),
        reasons=reasons,
    )


def _at_path(path: Path, needs: Needs) -> Placement:
    """An environment that a person made: its folder, or its interpreter."""
    from nexa.environments.build import site_folders

    python = path / "bin" / "python" if path.is_dir() else path
    if not python.is_file():
        return _impossible("path", str(path), f"there is no environment {path}", "name its folder, or its Python")
    # Not resolved: a virtual environment's interpreter is a link, and its place says which environment it is.
    folder = python.parent.parent
    sites = [site for site in site_folders(folder) if site.is_dir()]
    version = _version_of(folder)
    placement = Placement(kind="path", name=str(path), python=str(python), version=version)
    if not sites or not version:
        return replace(placement, reasons=["what it holds can't be seen from here; the worker looks when it starts"])
    versions = _versions(sites)
    placement = replace(placement, packages=len(versions), reasons=misfits(needs, versions, version))
    return _with_lacks(placement, needs, f"{python} -m pip install")


def _with_lacks(placement: Placement, needs: Needs, remedy: str) -> Placement:
    """A person's choice stands with other versions than the backend asks for, but not without a package."""
    missing = [reason.removeprefix(_LACKS) for reason in placement.reasons if reason.startswith(_LACKS)]
    if not missing:
        return placement
    problem = Problem(
        path="environment",
        message=f"the environment {placement.name} lacks {', '.join(missing)}, which {needs.asker} needs",
        hint=f"install it there, or: {remedy}",
    )
    return replace(placement, problems=[problem])


def _impossible(kind: str, name: str, message: str, hint: str | None) -> Placement:
    return Placement(
        kind=kind, name=name, python="", problems=[Problem(path="environment", message=message, hint=hint)]
    )


def _version_of(folder: Path) -> str:
    """Version of an environment's Python, from its record or its only folder of modules; "" where unknown."""
    try:
        match = _VERSION_LINE.search((folder / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        match = None
    if match:
        return match.group(1)
    versions = [path.name.removeprefix("python") for path in folder.glob("lib/python3.[0-9]*")]
    return versions[0] if len(versions) == 1 else ""


def _versions(sites: Sequence[Path]) -> Mapping[str, str]:
    found = metadata.distributions(path=[str(site) for site in sites])
    return {normal_name(dist.metadata["Name"]): dist.version for dist in found if dist.metadata["Name"]}
