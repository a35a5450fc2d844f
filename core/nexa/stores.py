"""Opens artifact stores and finds the artifact that a person means: by name, by run, or the latest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from nexa.artifacts import ArtifactStore, StoredArtifact
from nexa.errors import ArtifactError, UserError

LATEST = "latest"
CHECKPOINTS = "checkpoints/"


def open_store(uri: str | None = None) -> ArtifactStore:
    """Open the store at a URI or path, or the one in the user's settings.

    Raises PluginError when no plugin serves the URI's scheme, UserError for a malformed one.
    """
    from nexa.plugins import get_host
    from nexa.settings import get_settings
    from nexa.uris import absolute_uri

    found = absolute_uri(uri, Path.cwd()) if uri else get_settings().store_uri
    store = get_host().create("artifact-store", found.partition(":")[0])
    store.open(found)
    return store


def matching_artifacts(store: ArtifactStore, reference: str) -> Sequence[StoredArtifact]:
    """Return what a reference names: an artifact, the checkpoints of a run, or the latest checkpoint.

    `reference` is an artifact's name, a folder of artifacts, a run id or the unique start of one, or
    "latest". Nothing is verified. Raises UserError when it names nothing, or several runs.
    """
    artifacts = store.list()
    checkpoints = [artifact for artifact in artifacts if artifact.name.startswith(CHECKPOINTS)]
    if reference == LATEST:
        if not checkpoints:
            raise UserError("there is no checkpoint yet", hint="train one with: nexa launch quickstart")
        return [max(checkpoints, key=_age)]
    wanted = reference.strip("/")
    named = [a for a in artifacts if a.name == wanted or a.name.startswith(f"{wanted}/")]
    if named:
        return named
    runs = sorted({artifact.name.split("/")[1] for artifact in checkpoints})
    found = [run for run in runs if wanted and run.startswith(wanted)]
    if len(found) > 1 and wanted not in found:
        raise UserError(f"{reference!r} is the start of {len(found)} run ids", hint=f"one of: {', '.join(found[:8])}")
    if not found:
        names = [artifact.name for artifact in artifacts]
        close = get_close_matches(reference, [*names, *runs], n=1)
        advice = f"did you mean {close[0]}?" if close else "see what there is with: nexa artifacts list"
        raise UserError(f"there is no artifact or run {reference!r} in the store", hint=advice)
    run = wanted if wanted in found else found[0]
    return [artifact for artifact in checkpoints if artifact.name.split("/")[1] == run]


def find_verified(store: ArtifactStore, reference: str, *, warn: Callable[[str], None]) -> StoredArtifact:
    """Return the newest artifact a reference names that verifies; `warn` is told of each passed over.

    "latest" and a run fall back to the checkpoint before; the name of one artifact is taken at its
    word. Raises UserError when nothing has that name, ArtifactError when nothing found is whole.
    """
    candidates = sorted(matching_artifacts(store, reference), key=_age, reverse=True)
    if reference == LATEST:
        everything = [artifact for artifact in store.list() if artifact.name.startswith(CHECKPOINTS)]
        candidates = sorted(everything, key=_age, reverse=True)
    for artifact in candidates:
        damages = store.verify(artifact.name)
        if not damages:
            return artifact
        found = f"{damages[0].file} {damages[0].message}"
        if artifact.name == reference:
            raise ArtifactError(f"{reference} is damaged: {found}", hint=f"see all: nexa artifacts verify {reference}")
        warn(f"{artifact.name} is damaged and not used: {found}")
    raise ArtifactError(f"none of {len(candidates)} artifacts of {reference} is whole")


def _age(artifact: StoredArtifact) -> tuple[str, str]:
    """Sorts artifacts by when they were made; one with an unreadable manifest counts as oldest."""
    return artifact.meta.created_at, artifact.name
