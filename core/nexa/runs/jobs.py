"""Jobs of attempts: recorded once, found again after a crash, and asked about one scheduler at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from nexa.files import write_json_once
from nexa.runs.store import AttemptFolder
from nexa.scheduler import Attempt, JobRef, JobStatus


def record_job(attempt: Attempt, job: JobRef) -> bool:
    """Write an attempt's job.json unless there is one; False when another process was first. Raises OSError."""
    folder = AttemptFolder(attempt.run_dir, attempt.number)
    return write_json_once(folder.path / "job.json", asdict(job))


def ask_schedulers(attempts: Sequence[AttemptFolder | None]) -> list[JobStatus | None]:
    """Ask each scheduler once; None for attempts not to ask about or whose scheduler can't answer."""
    answers: list[JobStatus | None] = [None] * len(attempts)
    questions: dict[str, list[tuple[int, JobRef]]] = {}
    for index, attempt in enumerate(attempts):
        job = job_of(attempt) if attempt else None
        if job is not None:
            questions.setdefault(job.scheduler, []).append((index, job))
    for name, asked in questions.items():
        from nexa.errors import NexaError
        from nexa.plugins import get_host

        try:
            states = get_host().create("scheduler", name).status([job for _, job in asked])
        except NexaError:
            # Its plugin is not installed here; the events still tell something.
            continue
        for (index, _), state in zip(asked, states, strict=True):
            answers[index] = state
    return answers


def job_of(attempt: AttemptFolder) -> JobRef | None:
    """The job that the scheduler made of an attempt, None before it was handed over."""
    document = attempt.read("job")
    if document is None:
        return None
    return JobRef(scheduler=document["scheduler"], job_id=document["job_id"], details=document.get("details", {}))


def find_jobs(scheduler: str, attempts: Sequence[Attempt]) -> Sequence[JobRef | None]:
    """Jobs of attempts that have none recorded; None where the scheduler has none or can't be asked."""
    from nexa.errors import NexaError
    from nexa.plugins import get_host

    host = get_host()
    try:
        if "find" not in host.spec("scheduler", scheduler).capabilities:
            return [None] * len(attempts)
        jobs: Sequence[JobRef | None] = host.create("scheduler", scheduler).find(attempts)
    except NexaError:
        return [None] * len(attempts)
    return jobs
