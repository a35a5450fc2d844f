"""Capture: the teacher reads the prepared data, and what it predicts becomes a distilled dataset.

A shard is the unit of work: written whole or not at all, so a killed capture goes on where it stopped. Its bytes depend
on the plan alone: each pass has a shape and rows that follow from the data, each process computes on CPU with one
thread, and draws are named by document and place. So processes and ranks share shards in any way.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nexa import units
from nexa.errors import NexaError, UserError, WorkerError
from nexa.files import read_json, write_json
from nexa.locks import owned_lock
from nexa.prepared import hash_file
from nexa_distill.dataset import DISTILLER, FORMAT, INDEX, ROW_MEANING, VERSION
from nexa_distill.plan import CapturePlan, ShardPlan, passes
from nexa_distill.records import Predictions
from nexa_distill.sampling import Quality, record, uniform
from nexa_distill.shards import Pieces, write_shard
from nexa_distill.teacher import load_teacher, predict, processes_that_fit
from nexa_torch.data.store import TokenStore
from nexa_torch.models import quiet_libraries

if TYPE_CHECKING:
    from nexa_torch.models import LanguageModel

PLAN = "capture.json"
SHARDS = "shards"
_POLL_SECONDS = 0.25
_LEAST_TOKENS = 4096
"""Work for which another process is worth the seconds that it takes to start."""
_DIGITS = 6

Report = Callable[[int], None]


def capture(
    plan: CapturePlan,
    folder: Path,
    *,
    processes: int | None = None,
    gpus: int = 0,
    rank: int = 0,
    world_size: int = 1,
    on_progress: Callable[[str, int, int | None], None] | None = None,
) -> Path | None:
    """Write what is missing of a dataset into `folder` and return its index.

    processes: default one for each GPU or core that there is work and memory for. rank, world_size: of processes on
    other machines that capture into the same folder; whichever finishes last writes the index, the others get None.
    on_progress: called with "capturing", tokens done, tokens of all. Raises UserError where the folder holds another
    capture, or disk or memory are too small; WorkerError where the teacher fails. Finished shards stay.
    """
    report = on_progress or (lambda phase, done, total: None)
    try:
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        with owned_lock(folder / f".lock-{rank}", on_wait=lambda holder: report("waiting", 0, None)):
            _require_same_capture(folder, plan)
            missing = [shard for shard in plan.shards if finished(folder, plan, shard) is None]
            mine = [shard for shard in missing if shard.number % world_size == rank]
            _require_room(folder, plan, missing)
            if mine:
                _capture_shards(plan, folder, mine, _process_count(plan, mine, processes, gpus), gpus, report)
            return _write_index(folder, plan)
    except OSError as error:
        raise _unwritable(folder, error) from error


def finished(folder: Path, plan: CapturePlan, shard: ShardPlan) -> dict[str, Any] | None:
    """The record of a shard that is whole, None for one that is to be captured."""
    found = read_json(folder / SHARDS / f"{shard.name}.json")
    if found is None or found.get("capture") != plan.key:
        return None
    path = folder / found["file"]
    try:
        whole = path.stat().st_size == found["bytes"] and hash_file(path) == found["sha256"]
    except OSError:
        return None
    return found if whole else None


def _require_same_capture(folder: Path, plan: CapturePlan) -> None:
    known = read_json(folder / PLAN)
    if known is None:
        write_json(folder / PLAN, plan.identity)
        return
    changed = [
        f"{section}.{name}"
        for section, values in plan.identity.items()
        for name, value in values.items()
        if known.get(section, {}).get(name) != value
    ]
    if changed:
        raise UserError(
            f"{folder} holds another capture; these differ: {', '.join(changed)}",
            hint="choose another folder with --output, or remove that one",
        )


def _require_room(folder: Path, plan: CapturePlan, missing: list[ShardPlan]) -> None:
    wanted = round(plan.expected_bytes * sum(shard.tokens for shard in missing) / max(1, plan.tokens))
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise UserError(
            f"about {units.size(wanted)} are to be written to {folder}, where {units.size(free)} are free",
            hint="choose another folder with --output, or fewer data.max_documents",
        )


def _process_count(plan: CapturePlan, shards: list[ShardPlan], wanted: int | None, gpus: int) -> int:
    if gpus:
        return min(gpus, wanted or gpus, len(shards))
    worthwhile = -(-sum(shard.tokens for shard in shards) // _LEAST_TOKENS)
    return processes_that_fit(plan.teacher, min(wanted or min(os.cpu_count() or 1, worthwhile), len(shards)))


def _capture_shards(
    plan: CapturePlan,
    folder: Path,
    shards: list[ShardPlan],
    processes: int,
    gpus: int,
    report: Callable[[str, int, int | None], None],
) -> None:
    quiet_libraries()
    total = sum(shard.tokens for shard in shards)
    report("loading teacher", 0, total)
    if processes == 1:
        done = 0

        def count(tokens: int) -> None:
            nonlocal done
            done += tokens
            report("capturing", done, total)

        with _one_thread(on=not gpus):
            teacher = load_teacher(plan.teacher, "cuda:0" if gpus else "cpu")
            for shard in shards:
                capture_shard(plan, folder, shard, teacher, count)
        return
    context = multiprocessing.get_context("spawn")
    tokens, turns = context.Value("q", 0), context.Value("q", 0)
    initial = (plan, folder, tokens, turns, gpus, os.getpid())
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin_worker, initargs=initial) as pool:
        pending: set[Future[None]] = {pool.submit(_in_worker, shard) for shard in shards}
        try:
            while pending:
                done_now, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                report("capturing", tokens.value, total)
                for future in done_now:
                    future.result()
        except BrokenProcessPool as error:
            raise WorkerError(
                "a process of the capture was killed, perhaps for want of memory",
                hint="the same command goes on where it stopped; set distill.capture.processes lower",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _one_thread(*, on: bool) -> Iterator[None]:
    """Compute on one CPU thread, since sums are divided among threads."""
    before = torch.get_num_threads()
    if on:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_worker: dict[str, Any] = {}
"""What a process of the pool keeps between shards."""


def _begin_worker(plan: CapturePlan, folder: Path, tokens: Any, turns: Any, gpus: int, parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    quiet_libraries()
    with turns.get_lock():
        turn = turns.value
        turns.value += 1
    if not gpus:
        torch.set_num_threads(1)
    device = f"cuda:{turn % gpus}" if gpus else "cpu"
    _worker.update(plan=plan, folder=folder, tokens=tokens, device=device)


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone; nobody would hear of its work."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _in_worker(shard: ShardPlan) -> None:
    plan, tokens = _worker["plan"], _worker["tokens"]

    def count(number: int) -> None:
        with tokens.get_lock():
            tokens.value += number

    if "teacher" not in _worker:
        _worker["teacher"] = load_teacher(plan.teacher, _worker["device"])
    try:
        capture_shard(plan, _worker["folder"], shard, _worker["teacher"], count)
    except OSError as error:
        raise _unwritable(_worker["folder"], error) from None


def capture_shard(plan: CapturePlan, folder: Path, shard: ShardPlan, teacher: LanguageModel, count: Report) -> None:
    """Let the teacher read the pieces of one shard, and write it. Raises WorkerError and OSError."""
    store = TokenStore(*plan.store)
    texts = [
        store.read(int(start), int(start + length + more))
        for start, length, more in zip(shard.start, shard.length, shard.continues, strict=True)
    ]
    found: list[Predictions | None] = [None] * len(texts)
    quality = Quality()
    for members, rows, width in passes(shard.length, plan.forward_tokens):
        try:
            quality.add(_one_pass(plan, shard, teacher, texts, found, members, rows, width))
        except NexaError as error:
            place = store.place(int(shard.document[members[0]]))
            raise WorkerError(f"{place}: {error.message}", hint="shards finished so far are kept") from error
        count(int(shard.length[members].sum()))
    predictions = Predictions.join([part for part in found if part is not None])
    tokens = np.concatenate([text[:length] for (text, _), length in zip(texts, shard.length, strict=True)])
    trained = np.concatenate([marks[:length] for (_, marks), length in zip(texts, shard.length, strict=True)])
    path = folder / SHARDS / f"{shard.name}.safetensors"
    pieces = Pieces(document=shard.document, position=shard.position, length=shard.length)
    write_shard(path, pieces, tokens, trained, predictions, vocabulary=plan.vocabulary)
    entry = {
        "file": f"{SHARDS}/{path.name}",
        "bytes": path.stat().st_size,
        "sha256": hash_file(path),
        "documents": len(np.unique(shard.document)),
        "tokens": len(tokens),
        "recorded": quality.rows,
    }
    write_json(path.with_suffix(".json"), {**entry, "quality": asdict(quality), "capture": plan.key})


def _one_pass(
    plan: CapturePlan,
    shard: ShardPlan,
    teacher: LanguageModel,
    texts: list[tuple[np.ndarray, np.ndarray]],
    found: list[Predictions | None],
    members: np.ndarray,
    rows: int,
    width: int,
) -> Quality:
    """One forward pass; puts the predictions of each member into its place of `found`."""
    input_ids = np.zeros((rows, width), dtype=np.int64)
    for row in range(rows):
        piece = members[row % len(members)]
        length = int(shard.length[piece])
        input_ids[row, :length] = texts[piece][0][:length]
    # Position t is recorded where the next token is one to predict.
    columns = [np.flatnonzero(texts[piece][1][1:]) for piece in members]
    where = np.repeat(np.arange(len(members)), [len(part) for part in columns])
    column = np.concatenate(columns)
    following = np.concatenate([texts[p][0][1:][part] for p, part in zip(members, columns, strict=True)])
    device = teacher.network.device
    logits = predict(
        teacher,
        torch.from_numpy(input_ids).to(device),
        torch.from_numpy(where).to(device),
        torch.from_numpy(column).to(device),
    )[:, : plan.vocabulary]
    u = uniform(plan.seed, shard.document[members][where], shard.position[members][where] + column)
    recorded, quality = record(logits, torch.from_numpy(following.astype(np.int64)).to(device), u, plan.spec)
    _deal_out(recorded, columns, shard.length[members], members, plan.spec.head, found)
    return quality


def _deal_out(
    recorded: Predictions,
    columns: list[np.ndarray],
    lengths: np.ndarray,
    members: np.ndarray,
    head: int,
    found: list[Predictions | None],
) -> None:
    """Cut the predictions of a pass into those of its members, with empty rows where nothing was recorded."""
    row_ends = np.cumsum([len(part) for part in columns])
    entry_ends = np.concatenate([[0], np.cumsum(recorded.entries, dtype=np.int64)])
    for piece, part, length, stop in zip(members, columns, lengths, row_ends, strict=True):
        first = stop - len(part)
        entries = np.zeros(int(length), dtype=np.uint8)
        entries[part] = recorded.entries[first:stop]
        span = slice(entry_ends[first], entry_ends[stop])
        found[piece] = Predictions(
            entries=entries,
            ids=recorded.ids[span],
            counts=recorded.counts[span],
            head_log_p=recorded.head_log_p[first * head : stop * head],
            truth_log_p=recorded.truth_log_p[first:stop],
        )


def _write_index(folder: Path, plan: CapturePlan) -> Path | None:
    """Write the index when every shard is whole, also those of other ranks; None when some are missing."""
    entries = []
    quality = Quality()
    for shard in plan.shards:
        record = read_json(folder / SHARDS / f"{shard.name}.json")
        if record is None or record.get("capture") != plan.key:
            return None
        quality.add(Quality(**record["quality"]))
        entries.append({key: value for key, value in record.items() if key not in ("quality", "capture")})
    size = sum(entry["bytes"] for entry in entries)
    index = {
        "format": FORMAT,
        "version": VERSION,
        "distiller": DISTILLER,
        "row": ROW_MEANING,
        **plan.identity,
        "tokens": plan.tokens,
        "recorded": quality.rows,
        "quality": {
            "teacher_loss": _rounded(quality.loss / quality.rows),
            "kept_mass": _rounded(quality.kept / quality.rows),
            "truncation_kl": _rounded(quality.lost / quality.rows),
            "largest_tail_mass": _rounded(quality.largest_tail),
            "entries_per_row": _rounded(quality.entries / quality.rows),
            "bytes_per_row": _rounded(size / quality.rows),
        },
        "bytes": size,
        "shards": entries,
    }
    write_json(folder / INDEX, index)
    return folder / INDEX


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _unwritable(folder: Path, error: OSError) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return UserError(
        f"the capture can't be written to {folder}: {error.strerror or error}",
        hint="make room and type the same command again: finished shards are kept"
        if full
        else "choose another folder with --output",
    )
