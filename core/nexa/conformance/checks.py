"""The checks of the kit: what each compares, and the differences that it finds."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nexa.conformance.data import SAVE_EVERY, STEPS
from nexa.conformance.event_schema import schema_faults
from nexa.conformance.lab import LANGUAGE, CheckError, Laboratory, Trained
from nexa.conformance.model import PAD, tensor_shapes
from nexa.conformance.reference import TOLERANCES, load_reference
from nexa.conformance.settings import audit_settings, ignored
from nexa.errors import NexaError
from nexa.verification.compare import compare_checkpoints

_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_TIED = "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison. needs: the capability it takes, None where it holds for every backend.

    find: the differences it finds in a laboratory, in words, none where the backend conforms. Raises
    CheckError where the backend did not get that far.
    """

    name: str
    summary: str
    find: Callable[[Laboratory], Iterator[str]]
    needs: str | None = None


def _settings(lab: Laboratory) -> Iterator[str]:
    model = lab.host.options_model(lab.spec.name)
    options = {} if model is None else {lab.spec.name: model}
    try:
        findings = audit_settings(lab.backend, lab.recipe("settings"), options)
    except NexaError as error:
        raise CheckError(str(error)) from error
    for change in ignored(findings):
        yield f"{change} changes neither what the trainer is given nor the backend's answer"


def _tokens(lab: Laboratory) -> Iterator[str]:
    expected = Counter(tokens for tokens, _ in load_reference().documents)
    found = Counter(tokens for tokens, _ in _documents(lab))
    for tokens in found - expected:
        yield f"a row that the reference does not have: {_short(tokens)}"
    for tokens in expected - found:
        yield f"no row has the tokens {_short(tokens)}"


def _masks(lab: Laboratory) -> Iterator[str]:
    found = dict(_documents(lab))
    for tokens, trained in load_reference().documents:
        if tokens not in found:
            yield f"no row has the tokens {_short(tokens)}"
        elif found[tokens] != trained:
            yield f"tokens {_short(tokens)}: trained at {_places(found[tokens])}, not at {_places(trained)}"


def _loss(lab: Laboratory) -> Iterator[str]:
    yield from _differing("loss", lab.plain.series("loss")[:1], load_reference().loss[:1], TOLERANCES["loss"])


def _grad_norm(lab: Laboratory) -> Iterator[str]:
    found, expected = lab.plain.series("grad_norm")[:1], load_reference().grad_norm[:1]
    yield from _differing("grad_norm", found, expected, TOLERANCES["grad-norm"])


def _lr(lab: Laboratory) -> Iterator[str]:
    yield from _differing("lr", lab.warmed.series("lr"), load_reference().lr, TOLERANCES["lr"])


def _curve(lab: Laboratory) -> Iterator[str]:
    yield from _differing("loss", lab.plain.series("loss"), load_reference().loss, TOLERANCES["curve"])


def _accumulation(lab: Laboratory) -> Iterator[str]:
    yield from _same_training(lab.accumulated, lab.plain)


def _packing(lab: Laboratory) -> Iterator[str]:
    yield from _same_training(lab.packed, lab.plain)


def _resume(lab: Laboratory) -> Iterator[str]:
    whole, again = lab.plain, lab.resumed
    steps = [record["step"] for record in again.outcome.of_type("metrics")]
    if steps and min(steps) <= SAVE_EVERY:
        yield f"the run that continued from step {SAVE_EVERY} took step {min(steps)} again"
    for name in ("loss", "grad_norm", "lr"):
        one, other = whole.series(name)[SAVE_EVERY:], again.series(name)[SAVE_EVERY:]
        for step, (left, right) in enumerate(zip(one, other, strict=True), SAVE_EVERY + 1):
            if left != right:
                yield f"{name} of step {step} is {right!r} after the resume, {left!r} without"
    folders = [part.store.fetch(part.checkpoint(STEPS)) for part in (whole, again)]
    difference = compare_checkpoints(STEPS, *folders)[2]
    if difference is not None:
        yield f"{difference.name} of the last checkpoint differs: {difference.expected}, {difference.found} resumed"


def _events(lab: Laboratory) -> Iterator[str]:
    records = lab.plain.outcome.events
    yield from schema_faults(records)
    types = [record.get("type") for record in records]
    if types[:1] != ["start"] or types[-1:] != ["end"]:
        yield f"the first event is {types[0]} and the last {types[-1]}, not start and end"
    if records[-1].get("state") != "completed":
        yield f"the last event's state is {records[-1].get('state')!r}, not 'completed'"
    steps = [record["step"] for record in lab.plain.outcome.of_type("metrics")]
    if steps != list(range(1, STEPS + 1)):
        yield f"metrics are of steps {steps}, not of 1 to {STEPS}, each once"
    if any(value is None for value in lab.plain.series("loss")):
        yield "a metrics record has no finite loss"
    if STEPS not in [record["total_steps"] for record in lab.plain.outcome.of_type("progress")]:
        yield f"no progress event tells total_steps {STEPS}"


def _artifacts(lab: Laboratory) -> Iterator[str]:
    trained = lab.plain
    steps = [record["step"] for record in trained.outcome.of_type("checkpoint")]
    expected = list(range(SAVE_EVERY, STEPS + 1, SAVE_EVERY))
    if steps != expected:
        yield f"checkpoints are of steps {steps}, not {expected}"
        return
    for step in steps:
        name = trained.checkpoint(step)
        yield from (f"{name}: {damage}" for damage in trained.store.verify(name))
        manifest = trained.store.manifest(name)
        for key in ("config", "metrics", "lineage", "files"):
            if not manifest.get(key):
                yield f"{name}: the manifest has no {key}"
        if not isinstance(dict(manifest.get("metrics") or {}).get("loss"), float):
            yield f"{name}: the manifest has no metrics.loss"
        yield from (f"{name}: {path} can run code when it is read" for path in _pickled(manifest.get("files") or {}))


def _weights(lab: Laboratory) -> Iterator[str]:
    folder = lab.plain.store.fetch(lab.plain.checkpoint(STEPS))
    yield from (
        f"the checkpoint has no {name}" for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()
    )
    file = folder / "model.safetensors"
    if not file.is_file():
        yield "the checkpoint has no model.safetensors"
        return
    found, expected = _shapes(file), tensor_shapes()
    found.pop(_TIED, None)
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            yield f"{name} has shape {found.get(name)}, not {expected.get(name)}"


CHECKS: Mapping[str, Check] = {
    check.name: check
    for check in (
        Check(name="settings", summary="every recipe field has an effect or an answer", find=_settings),
        Check(name="tokens", summary="token ids of the documents", find=_tokens, needs=LANGUAGE),
        Check(name="masks", summary="which tokens carry loss", find=_masks, needs=LANGUAGE),
        Check(name="loss", summary="loss of the first step", find=_loss, needs=LANGUAGE),
        Check(name="grad-norm", summary="gradient norm of the first step", find=_grad_norm, needs=LANGUAGE),
        Check(name="lr", summary="learning rate of every step, warm-up and cosine", find=_lr, needs=LANGUAGE),
        Check(name="curve", summary="loss of every step: optimizer, decay, clipping", find=_curve, needs=LANGUAGE),
        Check(name="accumulation", summary="four microbatches train as one", find=_accumulation, needs=LANGUAGE),
        Check(name="packing", summary="packed rows train as single ones", find=_packing, needs=LANGUAGE),
        Check(name="resume", summary="a resumed run ends where an undisturbed one does", find=_resume, needs="resume"),
        Check(name="events", summary="event records have their fields", find=_events),
        Check(name="artifacts", summary="checkpoints verify, tell their origin, hold no pickle", find=_artifacts),
        Check(name="weights", summary="checkpoints load in transformers by name", find=_weights, needs=LANGUAGE),
    )
}
"""Every check by its name, in the order of the report."""


def _documents(lab: Laboratory) -> Iterator[tuple[tuple[int, ...], tuple[bool, ...]]]:
    """Tokens and mask of each row of the first batch, without the padding at its end."""
    for row in lab.preview.rows:
        end = len(row)
        while end and row[end - 1].id == PAD and not row[end - 1].trained:
            end -= 1
        yield tuple(token.id for token in row[:end]), tuple(token.trained for token in row[:end])


def _differing(name: str, found: Sequence[float | None], expected: Sequence[float], tolerance: float) -> Iterator[str]:
    """The first step at which a figure is further from the expected one than the tolerance allows, relatively."""
    for step, (value, wanted) in enumerate(zip(found, expected, strict=True), 1):
        if value is None:
            yield f"step {step} has no {name}"
            return
        error = abs(value - wanted) / abs(wanted)
        if error > tolerance:
            yield f"{name} of step {step} is {value:.8g}, not {wanted:.8g} (off by {error:.1e}, at most {tolerance:g})"
            return


def _same_training(found: Trained, plain: Trained) -> Iterator[str]:
    for name in ("loss", "grad_norm"):
        expected = [value for value in plain.series(name) if value is not None]
        if len(expected) < STEPS:
            yield f"the undivided batch has no {name} for every step"
            continue
        yield from _differing(name, found.series(name), expected, TOLERANCES["invariance"])


def _pickled(files: Mapping[str, object]) -> Iterator[str]:
    return (path for path in files if path.endswith(_PICKLED))


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Shape by name of the tensors in a safetensors file."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def _short(tokens: Sequence[int]) -> str:
    shown = ", ".join(map(str, tokens[:12]))
    return f"[{shown}{', …' if len(tokens) > 12 else ''}] ({len(tokens)})"


def _places(mask: Sequence[bool]) -> str:
    return ", ".join(str(place) for place, on in enumerate(mask) if on) or "none"
