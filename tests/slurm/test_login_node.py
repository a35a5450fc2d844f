"""Runs on a cluster that this machine reaches through SSH alone, against a real sshd."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from login_node import HOST, LoginNode, missing
from slurm_runs import nexa
from workspace import until

from nexa.errors import UserError
from nexa.runs.actions import requeue, stop
from nexa.runs.jobs import job_of
from nexa.runs.state import run_status, run_statuses
from nexa.runs.store import Run
from nexa.sweeps.store import SweepStore
from nexa_slurm.commands import run_slurm
from nexa_slurm.login import LoginNode as Place
from nexa_slurm.login import LoginNodeError, UnreachableError
from nexa_slurm.package import package_code


@pytest.fixture(scope="module")
def login(cluster, tmp_path_factory):
    """An sshd that sees the cluster."""
    reason = missing()
    if reason is not None:
        if os.environ.get("NEXA_REQUIRE_SLURM"):
            pytest.fail(f"NEXA_REQUIRE_SLURM is set, but {reason}")
        pytest.skip(reason)
    made = LoginNode(tmp_path_factory.mktemp("login") / "node", cluster)
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _no_slurm_here(login, tmp_path, monkeypatch):
    """A machine with ssh and without Slurm; the login node knows its host key as it should."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("ssh", "git", "env", "sh", "uname"):
        (programs / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("SLURM_CONF")
    login.know("host_key")
    assert shutil.which("sbatch") is None


@pytest.fixture
def place(login) -> Place:
    """The login node as a client names it."""
    return Place(host=HOST, ssh_config=str(login.ssh_config))


def words(login, *more) -> tuple[str, ...]:
    """A launch through the login node."""
    through = (f"slurm.host={HOST}", f"slurm.ssh_config={login.ssh_config}")
    return ("launch", "echo.yaml", "--scheduler", "slurm", *through, *more)


def use_by_default(workspace, login, *lines):
    """Name the login node in the settings of the folder."""
    own = (f'host = "{HOST}"', f'ssh_config = "{login.ssh_config}"')
    (workspace.folder / "nexa.toml").write_text("\n".join(["[defaults.slurm]", *own, *lines]))


def newest(workspace) -> Run:
    """The run that was made last."""
    return Run(max(path for path in workspace.runs_dir.iterdir() if (path / "run.json").exists()))


def test_a_run_through_ssh_is_as_any_other(workspace, login):
    code = workspace.folder / "code $(touch canary)"
    long = words(login, f"slurm.code_folder={code}", "training.max_steps=400", "echo.delay_seconds=0.05")
    shown = nexa(workspace, *long, "--explain").out
    assert "ssh -T -F" in shown
    assert "StrictHostKeyChecking=yes" in shown
    assert not code.exists()
    nexa(workspace, *long)
    run = newest(workspace)
    until(lambda: run_status(run).step or 0, lambda step: step > 3, timeout=60.0)
    (copy,) = code.iterdir()
    worker = Path(f"/proc/{run.attempts[0].read('workers/0')['pid']}/environ").read_bytes()
    assert f"PYTHONPATH={copy}".encode() in worker
    assert {"nexa", "nexa_slurm", "nexa_echo"} <= {path.name for path in copy.iterdir()}
    requeue(run)
    until(lambda: len(run.attempts), lambda count: count == 2)
    until(lambda: str(run_status(run).state), lambda state: state == "queued")
    stop(run)
    until(lambda: str(run_status(run).state), lambda state: state == "stopped")
    assert "starting workers" in nexa(workspace, "logs", "latest", "--attempt", "1", "--rank", "supervisor").out
    stamp = copy.stat().st_mtime_ns
    nexa(workspace, *words(login, f"slurm.code_folder={code}", "training.max_steps=2"))
    until(lambda: str(run_status(newest(workspace)).state), lambda state: state == "completed")
    assert [path.stat().st_mtime_ns for path in code.iterdir()] == [stamp]
    assert not list(workspace.folder.rglob("canary"))


def test_kill_and_the_cluster_view_go_through_ssh(workspace, login):
    # The cluster sees the code where it is, but does not get this shell's variables.
    path = f"slurm.environment.PYTHONPATH={workspace.echo_variables()['PYTHONPATH']}"
    nexa(workspace, *words(login, path, "training.max_steps=1000", "echo.delay_seconds=0.05"))
    run = newest(workspace)
    until(lambda: run_status(run).step or 0, lambda step: step > 3, timeout=60.0)
    use_by_default(workspace, login)
    view = nexa(workspace, "cluster", "--scheduler", "slurm", "--json").json
    assert [node["name"] for node in view["nodes"]] == ["n1", "n2", "n3"]
    assert [job["run_id"] for job in view["jobs"]] == [run.run_id]
    nexa(workspace, "kill", run.run_id)
    assert str(run_status(run).state) == "killed"


def test_a_sweep_is_one_array_through_ssh(workspace, login):
    use_by_default(workspace, login, f'code_folder = "{workspace.folder}/code"')
    nexa(workspace, "sweep", "echo.yaml", "--scheduler", "slurm", "training.max_steps=2,3", "echo.delay_seconds=0")
    sweep = SweepStore(workspace.runs_dir).list()[0]
    until(lambda: [str(status.state) for status in run_statuses(sweep.runs())], lambda seen: seen == ["completed"] * 2)
    jobs = [job_of(run.latest_attempt) for run in sweep.runs()]
    assert [job.job_id.partition("_")[2] for job in jobs] == ["0", "1"]
    assert all(job.details["login"]["host"] == HOST for job in jobs)


@pytest.mark.parametrize(
    ("key", "message", "hint"),
    [
        (None, "does not know the host key", "compare the fingerprint"),
        ("other_key", "is not the one this machine knows", "ssh-keygen -R"),
    ],
)
def test_a_host_key_is_never_taken_on_trust(workspace, login, key, message, hint):
    login.know(key)
    known = (login.folder / "known_hosts").read_text()
    outcome = nexa(workspace, *words(login), exit_code=2)
    assert message in outcome.err
    assert hint in outcome.err
    assert "Traceback" not in outcome.err
    assert (login.folder / "known_hosts").read_text() == known
    assert message in run_status(newest(workspace)).reason


def test_a_log_in_that_takes_a_password_says_so(login, tmp_path):
    config = tmp_path / "config"
    config.write_text(login.ssh_config.read_text().replace("user_key", "other_key"))
    with pytest.raises(LoginNodeError, match="without a password") as caught:
        run_slurm(["squeue"], at=Place(host=HOST, ssh_config=str(config)))
    assert "ssh-copy-id" in caught.value.hint


def test_a_host_that_is_not_there_is_named(login, tmp_path, place):
    with pytest.raises(LoginNodeError, match="not found"):
        run_slurm(["absent-command"], at=place)
    with pytest.raises(LoginNodeError, match=r"no host absent\.invalid"):
        run_slurm(["squeue"], at=Place(host="absent.invalid"))
    config = tmp_path / "config"
    config.write_text(login.ssh_config.read_text().replace(f"Port {login.port}", "Port 1"))
    with pytest.raises(UnreachableError, match=r"can't be reached: .*refused"):
        run_slurm(["squeue"], at=Place(host=HOST, ssh_config=str(config)))


def test_a_refusal_of_slurm_comes_through(workspace, login):
    outcome = nexa(workspace, *words(login, "slurm.partition=absent"), exit_code=2)
    assert "nvalid partition" in outcome.err
    assert "high, low" in outcome.err


def test_a_login_node_that_is_away_makes_no_run_fail(workspace, login):
    code = f"slurm.code_folder={workspace.folder / 'code'}"
    nexa(workspace, *words(login, code, "training.max_steps=3", "slurm.options=[--hold]"))
    run = newest(workspace)
    until(lambda: run_status(run).reason or "", lambda reason: "held" in reason)
    login.stop()
    try:
        seen = until(lambda: run_status(run), lambda status: "can't be asked since" in (status.reason or ""))
        assert str(seen.state) == "queued"
        outcome = nexa(workspace, "requeue", run.run_id, exit_code=1)
        assert "can't be reached" in outcome.err
    finally:
        login.start()
    nexa(workspace, "requeue", run.run_id)
    until(lambda: str(run_status(run).state), lambda state: state == "completed")


def test_a_run_folder_that_the_login_node_does_not_see_is_named(workspace, login):
    # The same words mean another folder for each process.
    outcome = workspace.nexa(
        *words(login), **{**workspace.echo_variables(), "NEXA_RUNS_DIR": "/proc/self/cwd/private-runs"}
    )
    assert outcome.exit_code == 2
    assert "is not visible on cluster-login" in outcome.err
    assert "NEXA_RUNS_DIR" in outcome.err


def test_a_code_folder_that_can_not_be_written_is_named(workspace, login):
    outcome = nexa(workspace, *words(login, "slurm.code_folder=/proc/absent"), exit_code=2)
    assert "the code can't be copied to /proc/absent on cluster-login" in outcome.err


def test_an_archive_that_arrives_damaged_is_not_unpacked(place, tmp_path):
    from nexa_slurm.package import CodePackage
    from nexa_slurm.sending import _send

    with pytest.raises(UserError, match="can't be copied"):
        _send(place, CodePackage(archive=b"cut off", digest="0" * 64), str(tmp_path / "code"))
    assert list((tmp_path / "code").iterdir()) == []


def test_the_same_code_is_the_same_package(tmp_path, monkeypatch):
    folder = tmp_path / "some_plugin"
    folder.mkdir()
    (folder / "__init__.py").write_text("A = 1\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    first = package_code(("some_plugin.a:B",))
    os.utime(folder / "__init__.py", (1, 1))
    package_code.cache_clear()
    assert package_code(("some_plugin.a:B",)).digest == first.digest
    (folder / "__init__.py").write_text("A = 2\n")
    package_code.cache_clear()
    assert package_code(("some_plugin.a:B",)).digest != first.digest
