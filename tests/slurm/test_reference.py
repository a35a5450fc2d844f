"""docs/reference/slurm.md names every key of the section, and every state the code leaves on disk."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from nexa.recipe.sections.machines import ClusterSection
from nexa_slurm.options import ContainerOptions, SlurmOptions
from nexa_slurm.states import job_state, reason_in_words

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "slurm.md").read_text(encoding="utf-8")


def test_every_key_is_described():
    words = set(re.findall(r"`([^`]+)`", PAGE))
    assert set(SlurmOptions.model_fields) <= words
    assert set(ContainerOptions.model_fields) <= words
    local = {"processes_per_node", "threads_per_process"}
    assert {f"cluster.{name}" for name in ClusterSection.model_fields} - {f"cluster.{name}" for name in local} <= words


def test_every_state_of_slurm_is_known():
    text = """BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PENDING
    PREEMPTED RUNNING RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING REVOKED SIGNALING SPECIAL_EXIT
    STAGE_OUT STOPPED SUSPENDED TIMEOUT"""
    assert not [state for state in text.split() if job_state(state)[1].startswith("Slurm says")]
    assert job_state("CANCELLED by 1000")[0] == "ended"
    assert job_state("NOVEL_STATE")[0] == "unknown"


def test_reasons_are_in_words():
    assert "nodes to become free" in reason_in_words("Resources")
    assert "account's limit" in reason_in_words("AssocGrpGRES") or "Slurm says" in reason_in_words("AssocGrpGRES")
    assert "account's limit" in reason_in_words("AssocGrpCPUMinutesLimit")
    assert "quality of service's limit" in reason_in_words("QOSMaxJobsPerUserLimit")
    assert "down, drained" in reason_in_words("ReqNodeNotAvail, UnavailableNodes:n1")
    assert reason_in_words("Novelty") == "Slurm says: Novelty"


def test_a_job_starts_without_the_libraries_of_recipes():
    code = (
        "import sys, nexa_slurm.job, nexa_slurm.node; print({'pydantic', 'click', 'ruamel', 'rich'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
