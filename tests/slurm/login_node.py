"""A real sshd on loopback with keys of its own: the login node of a test cluster."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from cluster import Cluster

PACKAGE = "openssh-server"
HOST = "cluster-login"
_SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
PidFile {folder}/sshd.pid
SetEnv SLURM_CONF={slurm_conf} PATH={path} NEXA_TEST_CLUSTER={cluster}
"""
_CLIENT = """\
Host {host}
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile /dev/null
"""


def missing() -> str | None:
    """Why there can be no login node here, with the command that helps; None when there can."""
    absent = [name for name in ("ssh", "ssh-keygen", "sshd") if _program(name) is None]
    return (
        f"no {', '.join(absent)} here; as root: apt-get install --no-install-recommends {PACKAGE}" if absent else None
    )


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class LoginNode:
    """An sshd whose sessions see the cluster's Slurm. ssh_config: what a client needs to reach it as HOST."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder = folder
        self.ssh_config = folder / "ssh_config"
        self._daemon: subprocess.Popen[bytes] | None = None
        folder.mkdir(mode=0o700)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        for name in ("host_key", "user_key", "other_key"):
            words = [_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(words, check=True)
        values = {"folder": folder, "port": self.port, "host": HOST, "user": "root"}
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        more = {"slurm_conf": cluster.conf, "path": path, "cluster": cluster.folder}
        (folder / "sshd_config").write_text(_SSHD.format(**values, **more))
        self.ssh_config.write_text(_CLIENT.format(**values))
        self.know("host_key")

    def know(self, key: str | None) -> None:
        """Let clients know one of the folder's keys as the host's; None for no key at all."""
        public = (self.folder / f"{key}.pub").read_text().rpartition(" ")[0] if key else ""
        known = f"[127.0.0.1]:{self.port} {public}\n" if key else ""
        (self.folder / "known_hosts").write_text(known)

    def start(self) -> None:
        """Start sshd; returns when it answers."""
        # sshd insists on the folder, which Debian's start script makes.
        Path("/run/sshd").mkdir(exist_ok=True)
        words = [str(_program("sshd")), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "sshd.log").open("ab") as log:
            self._daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < deadline, (self.folder / "sshd.log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """End sshd; sessions that are open go on."""
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait(timeout=30)
            self._daemon = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as probe:
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False
