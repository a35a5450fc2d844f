"""Many processes at one name."""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path

from nexa.errors import ArtifactExistsError

from .conftest import open_store

PROCESSES, ROUNDS = 32, 50


def compete(root: Path, number: int, start, results) -> None:
    """In every round, commit to the name that all the others commit to as well."""
    store = open_store(root)
    outcomes = []
    for turn in range(ROUNDS):
        staged = Path(tempfile.mkdtemp(dir=root.parent))
        (staged / "who").write_text(str(number))
        start.wait()
        try:
            store.commit(staged, f"checkpoints/run/step-{turn:08d}", kind="checkpoint", manifest={"who": number})
            outcomes.append("won")
        except ArtifactExistsError:
            assert (staged / "who").read_text() == str(number)
            outcomes.append("exists")
    results.put((number, outcomes))


def test_one_of_many_processes_wins_each_name(scratch):
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(PROCESSES), context.Queue()
    root = scratch / "artifacts"
    workers = [context.Process(target=compete, args=(root, number, start, results)) for number in range(PROCESSES)]
    for worker in workers:
        worker.start()
    outcomes = dict(results.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0

    store = open_store(root)
    for turn in range(ROUNDS):
        winners = [number for number in range(PROCESSES) if outcomes[number][turn] == "won"]
        name = f"checkpoints/run/step-{turn:08d}"
        assert winners == [store.manifest(name)["who"]]
        assert (store.fetch(name) / "who").read_text() == str(winners[0])
        assert store.verify(name) == []
    assert len(store.list()) == ROUNDS
    assert not list((root / ".nexa" / "staging").iterdir())
