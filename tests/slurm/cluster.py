"""A real Slurm on one machine: munge, a controller and three nodes, in a folder of their own.

`python -m tests.slurm.cluster up|down|env [FOLDER] [--accounting]` starts and ends one by hand; the tests
start their own. Everything, munge's socket and key included, lies below FOLDER, and the ports are free
ones, so that neither a Slurm of the machine nor another test cluster is disturbed. Needs root (Slurm's
daemons start jobs as their users) and Debian's packages; `missing()` says which.

Partitions: `low` (default; its jobs are requeued for those of `high` after ten seconds of grace) and
`high`. Every node has four CPUs and two GPUs that are only counted, so that requests for them can be
tried. The time between a requeue and the next start is shortened to a few seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

NODES = ("n1", "n2", "n3")
DEFAULT_FOLDER = Path("/tmp/nexa-slurm")
PACKAGES = "slurm-wlm munge"
ACCOUNTING_PACKAGES = "slurmdbd slurm-wlm-mysql-plugin mariadb-server"
START_SECONDS = 60.0

_SLURM_CONF = """\
ClusterName=nexa
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmctldPort={controller_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/pid/slurmctld.pid
SlurmdPidFile={folder}/pid/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,max_rpc_cnt=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
EnforcePartLimits=ALL
MaxArraySize=1001
SlurmctldTimeout=30
SlurmdTimeout=10
MessageTimeout=5
KillWait=10
InactiveLimit=0
MinJobAge=600
GresTypes=gpu
{accounting}
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[0]} CPUs=4 RealMemory=4000 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=4000 Gres=gpu:2
NodeName=n3 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=4000 Gres=gpu:2
PartitionName=low Nodes=n[1-3] Default=YES MaxTime=2-00:00:00 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=high Nodes=n[1-3] MaxTime=2-00:00:00 State=UP PriorityTier=10 PreemptMode=OFF
"""

_NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none"
_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={database_port}
AccountingStoragePass={folder}/munge/socket
AccountingStorageEnforce=associations
AccountingStoreFlags=job_comment"""

_SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={database_port}
SlurmUser=root
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/pid/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_nexa
"""


def missing(*, accounting: bool = False) -> str | None:
    """Why a cluster can't be started here, with the command that helps; None when it can."""
    programs = ["munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun"]
    packages = PACKAGES
    if accounting:
        programs += ["slurmdbd", "sacctmgr", "mariadbd", "mariadb-install-db"]
        packages = f"{PACKAGES} {ACCOUNTING_PACKAGES}"
    absent = [program for program in programs if _program(program) is None]
    if absent:
        return f"no {', '.join(absent)} here; as root: apt-get install --no-install-recommends {packages}"
    if os.geteuid() != 0:
        return "Slurm's daemons start jobs as their users, which takes root"
    return None


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin:/usr/sbin:/sbin")


class Cluster:
    """One cluster in `folder`; `start` makes it, `stop` ends every process of it."""

    def __init__(self, folder: Path, *, accounting: bool = False) -> None:
        self.folder = folder
        self.accounting = accounting
        self.conf = folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that point Slurm's commands at this cluster."""
        return {"SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        """Configure and start everything; returns when all nodes are idle. Raises RuntimeError."""
        # Daemons refuse to live where others may write; jobs of all users read the configuration.
        for name in ("munge", "state", "spool", "pid", "log", "gpus", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o755)
        self.folder.chmod(0o755)
        self._configure()
        self._start_munge()
        if self.accounting:
            self._start_accounting()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_idle()

    def stop(self) -> None:
        """End every process of the cluster, jobs included, and remove its folder."""
        left = _end_all(self.folder)
        if left:
            raise RuntimeError(f"processes of {self.folder} can't be ended: {left}")
        shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self) -> list[int]:
        """Process ids of the daemons and of their jobs."""
        return _processes_of(self.folder)

    def _configure(self) -> None:
        ports = _free_ports(5)
        values = {"folder": self.folder, "host": socket.gethostname(), "controller_port": ports[0], "ports": ports[1:4]}
        accounting = _ACCOUNTING.format(**values, database_port=ports[4]) if self.accounting else _NO_ACCOUNTING
        self.conf.write_text(_SLURM_CONF.format(**values, accounting=accounting))
        (self.folder / "gpus" / "0").touch()
        (self.folder / "gpus" / "1").touch()
        gpus = f"NodeName=n[1-3] Name=gpu File={self.folder}/gpus/[0-1]\n"
        (self.folder / "gres.conf").write_text(gpus)
        # Without cgroups; the file must exist, since the machine's own must not be read.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nConstrainCores=no\n")
        if self.accounting:
            database = self.folder / "slurmdbd.conf"
            database.write_text(_SLURMDBD_CONF.format(**values, database_port=ports[4]))
            database.chmod(0o600)

    def _start_munge(self) -> None:
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        place = self.folder / "munge"
        self._run(
            "munged",
            f"--key-file={key}",
            f"--socket={place}/socket",
            f"--pid-file={place}/pid",
            f"--log-file={self.folder}/log/munged.log",
            f"--seed-file={place}/seed",
            "--num-threads=2",
            "--force",
        )
        _wait_until(lambda: (place / "socket").exists(), "munge's socket", self)

    def _start_accounting(self) -> None:
        """Start MariaDB and slurmdbd, and give root an account."""
        data, sock = self.folder / "mysql", self.folder / "mysql.sock"
        self._run("mariadb-install-db", f"--datadir={data}", "--auth-root-authentication-method=normal", "--user=root")
        self._spawn(
            "mariadbd",
            "--no-defaults",
            "--user=root",
            f"--datadir={data}",
            f"--socket={sock}",
            "--skip-networking",
            f"--pid-file={self.folder}/pid/mariadb.pid",
            f"--log-error={self.folder}/log/mariadb.log",
            "--innodb-buffer-pool-size=64M",
        )
        _wait_until(sock.exists, "MariaDB", self)
        self._spawn("slurmdbd", "-D", SLURM_CONF=str(self.conf), MYSQL_UNIX_PORT=str(sock))
        _wait_until(lambda: self._answers("sacctmgr", "-n", "show", "cluster"), "slurmdbd", self)
        for words in (
            ["add", "cluster", "nexa"],
            ["add", "account", "research"],
            ["add", "user", "root", "account=research"],
        ):
            self._answers("sacctmgr", "-i", *words)

    def start_controller(self) -> None:
        """Start slurmctld; its state is that of the controller before it."""
        self._spawn("slurmctld", "-D", "-i")
        _wait_until(lambda: self._answers("scontrol", "ping"), "the controller", self)

    def stop_controller(self) -> None:
        """End slurmctld in order, so that it has saved its state; jobs go on."""
        self._end("slurmctld", signal.SIGTERM)

    def start_node(self, node: str) -> None:
        """Start the slurmd of one node."""
        self._spawn("slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill a node as a power cut does: its slurmd and everything it started."""
        # Slurm's own processes first: they would report the end of the rest.
        self.kill_slurmd(node)
        doomed = [pid for pid in self.processes() if _job_node(pid) == node]
        parents = {_parent(pid) for pid in doomed}
        for pid in [*(parent for parent in parents if "slurmstepd" in " ".join(_words(parent))), *doomed]:
            _signal(pid, signal.SIGKILL)

    def kill_slurmd(self, node: str) -> None:
        """Kill a node's slurmd alone: its jobs' processes go on, out of Slurm's sight."""
        for pid in self.processes():
            words = _words(pid)
            if words[:1] and Path(words[0]).name == "slurmd" and node in words:
                _signal(pid, signal.SIGKILL)

    def wait_idle(self) -> None:
        """Wait until every node is idle."""

        def idle() -> bool:
            answer = self.command("sinfo", "-h", "-N", "-o", "%N %t", check=False).split()
            return dict(zip(answer[::2], answer[1::2], strict=False)) == dict.fromkeys(NODES, "idle")

        _wait_until(idle, "idle nodes", self)

    def command(self, *argv: str, check: bool = True, timeout: float = 60.0) -> str:
        """Run one of Slurm's commands against this cluster and return what it printed."""
        answer = subprocess.run(
            [_program(argv[0]) or argv[0], *argv[1:]],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and answer.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: {answer.stderr.strip()}")
        return answer.stdout

    def _answers(self, *argv: str) -> bool:
        try:
            words = self.command(*argv, timeout=15.0)
        except (RuntimeError, subprocess.TimeoutExpired):
            return False
        return "DOWN" not in words

    def _run(self, program: str, *arguments: str) -> None:
        answer = subprocess.run([_program(program) or program, *arguments], capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            raise RuntimeError(f"{program}: {answer.stderr.strip() or answer.stdout.strip()}")

    def _spawn(self, program: str, *arguments: str, **variables: str) -> None:
        """Start a daemon in the foreground of a session of its own, so that it has no terminal to lose."""
        with (self.folder / "log" / f"{program}.out").open("ab") as log:
            subprocess.Popen(
                [_program(program) or program, *arguments],
                env={**_plain_environment(), **self.environment, **variables, "NEXA_TEST_CLUSTER": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )

    def _end(self, program: str, number: signal.Signals) -> None:
        pids = [pid for pid in self.processes() if _words(pid)[:1] and Path(_words(pid)[0]).name == program]
        for pid in pids:
            _signal(pid, number)
        _wait_until(lambda: not set(pids) & set(self.processes()), f"the end of {program}", self)


def _plain_environment() -> dict[str, str]:
    """This process's environment without what a Slurm job or another cluster left in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait_until(good: Callable[[], bool], what: str, cluster: Cluster) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not good():
        if time.monotonic() > deadline:
            logs = "\n".join(
                f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in (cluster.folder / "log").iterdir()
            )
            raise RuntimeError(f"{what} did not come within {START_SECONDS:g} s\n{logs}")
        time.sleep(0.05)


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
    except OSError:
        return []


def _variables(pid: int) -> dict[str, str]:
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return {}
    return dict(entry.partition("=")[::2] for entry in entries)


def _parent(pid: int) -> int:
    """Parent of a process; 0 for one that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _job_node(pid: int) -> str | None:
    """The node that a process of a job runs on."""
    return _variables(pid).get("SLURMD_NODENAME")


def _processes_of(folder: Path) -> list[int]:
    """Living processes that name the folder in their words or variables, but for this process and its ancestors."""
    mark = str(folder)
    spared = set()
    pid = os.getpid()
    while pid > 1:
        spared.add(pid)
        pid = _parent(pid)
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) in spared:
            continue
        pid = int(entry.name)
        variables = _variables(pid)
        ours = (
            variables.get("NEXA_TEST_CLUSTER") == mark
            or variables.get("SLURM_CONF") == f"{mark}/slurm.conf"
            or any(f"{mark}/" in word or word == mark for word in _words(pid))
        )
        if ours and not _is_zombie(pid):
            found.append(pid)
    return found


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _end_all(folder: Path) -> list[int]:
    """Kill every process of the cluster in `folder`; returns those that stay."""
    deadline = time.monotonic() + 20.0
    while (left := _processes_of(folder)) and time.monotonic() < deadline:
        for pid in left:
            _signal(pid, signal.SIGKILL)
        time.sleep(0.05)
    return left


def main(argv: Sequence[str] | None = None) -> int:
    """Start or end a cluster by hand; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.cluster", description=__doc__)
    parser.add_argument("what", choices=("up", "down", "env"))
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd and MariaDB, so that sacct answers")
    arguments = parser.parse_args(argv)
    cluster = Cluster(arguments.folder.absolute(), accounting=arguments.accounting)
    if arguments.what == "down":
        cluster.stop()
        return 0
    if arguments.what == "up":
        reason = missing(accounting=arguments.accounting)
        if reason is not None:
            print(f"error: {reason}", file=sys.stderr)
            return 2
        if not cluster.processes():
            cluster.start()
    print(f"export SLURM_CONF={cluster.conf}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
