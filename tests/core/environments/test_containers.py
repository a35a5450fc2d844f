"""The commands of container runtimes, and runs through them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from nexa.worker.container import RUNTIMES, contained

LAUNCH = {
    "python": "python3",
    "env": {"THREADS": "1"},
    "container": {
        "runtime": "docker",
        "image": "registry/image:tag",
        "mounts": ["/code:/code:ro", "/store:/store:rw", "/data,1:/in:ro"],
        "gpus": 2,
        "shm_bytes": 1 << 30,
        "options": ["--hostname=trainer"],
    },
}
VARIABLES = {
    "PATH": "/host/bin",
    "HOME": "/home/me",
    "LD_LIBRARY_PATH": "/host/lib",
    "HF_TOKEN": "hf_neverinacommand",
    "NEXA_RUN_DIR": "/runs/r",
    "THREADS": "1",
    "SSH_AUTH_SOCK": "/tmp/agent",
}
WORKER = ["python3", "/code/nexa/worker/start.py", "nexa.worker", "/runs/r", "1"]


def command(runtime: str, **options: bool) -> tuple[list[str], dict[str, str]]:
    launch = {**LAUNCH, "container": {**LAUNCH["container"], "runtime": runtime}}
    return contained(launch, WORKER, VARIABLES, Path("/runs/r"), 1, **options)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_value_of_a_variable_is_in_a_command(runtime):
    argv, environment = command(runtime)
    assert "hf_neverinacommand" not in " ".join(argv)
    assert environment["HF_TOKEN"] == "hf_neverinacommand"
    assert argv[-len(WORKER) - 1 :] == ["registry/image:tag", *WORKER]
    assert "--hostname=trainer" in argv


@pytest.mark.parametrize("runtime", ["docker", "podman"])
def test_docker_and_podman(runtime):
    argv, environment = command(runtime)
    assert [word.removeprefix("--mount=") for word in argv if word.startswith("--mount=")] == [
        "type=bind,source=/runs/r,target=/runs/r",
        "type=bind,source=/code,target=/code,readonly",
        "type=bind,source=/store,target=/store",
        'type=bind,"source=/data,1",target=/in,readonly',
    ]
    passed = {word.removeprefix("--env=") for word in argv if word.startswith("--env=")}
    assert passed == {"HOME=/tmp", "HF_TOKEN", "NEXA_RUN_DIR", "THREADS"}
    assert environment["HOME"] == "/home/me"
    assert {"--rm", "--init", "--cap-drop=ALL", f"--shm-size={1 << 30}", f"--user={os.getuid()}:{os.getgid()}"} < set(
        argv
    )
    assert ("--gpus=all" in argv) == (runtime == "docker")
    assert "--network=host" not in argv
    assert "--network=host" in command(runtime, several_nodes=True)[0]
    assert "--name=nexa-r-1-0" in argv


def test_apptainer():
    argv, environment = command("apptainer")
    assert argv[:2] == ["apptainer", "exec"]
    assert {
        "--cleanenv",
        "--contain",
        "--no-privs",
        "--nv",
        "--bind=/runs/r:/runs/r:rw",
        "--bind=/code:/code:ro",
    } < set(argv)
    inside = {name.removeprefix("APPTAINERENV_") for name in environment if name.startswith("APPTAINERENV_")}
    assert inside == {"HF_TOKEN", "NEXA_RUN_DIR", "THREADS"}


def test_without_a_container_nothing_changes():
    assert contained({"env": {}}, WORKER, VARIABLES, Path("/runs/r"), 1) == (WORKER, VARIABLES)


FAKE = """#!{python}
# A stand-in for `docker run`: it records its words, checks that mounts exist, and runs the command in the
# environment that Docker would make of them.
import json, os, sys
words = sys.argv[1:]
image = words.index("trainer:1")
json.dump(words, open({record!r}, "w"))
inside = {{"PATH": "/usr/bin:/bin"}}
for word in words[:image]:
    if word.startswith("--env="):
        name, equals, value = word[6:].partition("=")
        if equals or name in os.environ:
            inside[name] = value if equals else os.environ[name]
    if word.startswith("--mount="):
        source = word.split("source=")[1].split(",")[0]
        if not os.path.exists(source):
            sys.exit(f"docker: Error response from daemon: bind source path does not exist: {{source}}")
command = words[image + 1:]
if command[0] == "absent":
    print("docker: Error response from daemon: exec: absent: executable file not found", file=sys.stderr)
    sys.exit(127)
os.execve({python!r}, [{python!r}, *command[1:]], inside)
"""


@pytest.fixture
def docker(nexa, monkeypatch):
    """A recording `docker` first on PATH; returns where it records its words."""
    import sys

    program, record = nexa.folder / "bin" / "docker", nexa.folder / "words.json"
    program.parent.mkdir()
    program.write_text(FAKE.format(python=sys.executable, record=str(record)))
    program.chmod(0o755)
    nexa.variables["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    return record


CONTAINER = ("environment.container=trainer:1", "environment.runtime=docker", "scheduler=local")


def test_a_run_in_a_container(nexa, docker):
    answer = nexa("launch", "echo.yaml", *CONTAINER, "--follow", "--json", HF_TOKEN="hf_neverinacommand")
    status = json.loads(answer.stdout)
    assert status["state"] == "completed", answer.stderr
    words = json.loads(docker.read_text())
    assert "hf_neverinacommand" not in " ".join(words)
    assert "--env=HF_TOKEN" in words
    explained = nexa("launch", "echo.yaml", *CONTAINER, "--explain").stdout
    shown = next(line for line in explained.splitlines() if line.startswith("  docker run"))
    # The command that is shown is the one that runs, but for the run's name and this shell's variables.
    assert shown.split()[1:4] == ["run", "--rm", "--init"]
    assert "trainer:1 python3" in shown
    mounts = [word for word in words if word.startswith("--mount=")]
    assert [mount.endswith(",readonly") for mount in mounts] == [False, True, True, False]


def test_an_image_without_the_interpreter(nexa, docker):
    answer = nexa("launch", "echo.yaml", *CONTAINER, "environment.python=absent", "--follow", "--json")
    status = json.loads(answer.stdout)
    assert status["state"] == "failed"
    assert status["reason"].startswith(
        "docker found no such Python in the image (trainer:1, absent): docker: Error response"
    )


PODMAN_CONF = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=8192:8192"]
netns = "host"
[engine]
runtime = "runc"
"""


@pytest.mark.soak
@pytest.mark.parametrize("runtime", ["podman", "apptainer"])
def test_a_run_in_a_real_container(nexa, tmp_path, runtime):
    """In an image made of this machine's Python: trained, stopped, resumed, killed; and one without the Python."""
    from test_workers import PYTHONS

    program = shutil.which(runtime)
    if program is None:
        pytest.skip(f"{runtime} is not installed")
    (tmp_path / "containers.conf").write_text(PODMAN_CONF)
    variables = {"CONTAINERS_CONF": str(tmp_path / "containers.conf")}
    root = _root(PYTHONS[max(PYTHONS, key=lambda version: int(version[2:]))], tmp_path)
    image = IMAGES[runtime](program, root, variables)
    words = ("launch", "echo.yaml", "scheduler=local", f"environment.container={image}")
    words = (*words, f"environment.runtime={runtime}", "environment.python=/opt/python/bin/python3")
    try:
        answer = nexa(*words, "--follow", "--json", HF_TOKEN="hf_neverinacommand", **variables)
        status = json.loads(answer.stdout)
        assert status["state"] == "completed", answer.stderr
        recorded = json.loads((Path(status["path"]) / "attempts" / "1" / "environment.json").read_text())
        assert recorded["place"] == {"kind": "container", "name": image}
        assert recorded["variables"]["HF_TOKEN"] == "[redacted]"
        begun = json.loads(nexa(*words, "echo.delay_seconds=0.2", "--detach", "--json", **variables).stdout)
        assert "stopped at step" in nexa("stop", "--wait", begun["run_id"], **variables).stdout
        assert nexa("resume", begun["run_id"], **variables).returncode == 0
        assert nexa("kill", begun["run_id"], **variables).returncode == 0
        left = subprocess.run(["ps", "-ef"], capture_output=True, text=True, check=True).stdout
        assert begun["run_id"] not in left
        missing = json.loads(nexa(*words[:-1], "environment.python=absent", "--follow", "--json", **variables).stdout)
        assert missing["state"] == "failed"
        assert image in missing["reason"]
        assert "absent" in missing["reason"]
    finally:
        if runtime == "podman":
            subprocess.run([program, "rmi", "--force", image], capture_output=True)


def _root(python: Path, folder: Path) -> Path:
    """A file system of a Python of this machine and the libraries it links."""
    root, home = folder / "root", python.resolve().parent.parent
    if home == Path("/usr"):
        pytest.skip("only the system's own Python is here, which is no folder of its own")
    ignored = shutil.ignore_patterns("test", "site-packages", "config-*", "*.a", "__pycache__")
    shutil.copytree(home, root / "opt" / "python", symlinks=True, ignore=ignored)
    binaries = [python, Path("/bin/sh"), *(root / "opt/python/lib").glob("python3*/lib-dynload/*.so")]
    listed = subprocess.run(["ldd", *binaries], capture_output=True, text=True).stdout
    for library in {"/bin/sh", *(word for word in listed.split() if word[0] == "/" and word[-1] != ":")}:
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, target)
        target.chmod(0o755)
    for name in ("dev", "etc", "proc", "sys", "tmp", "var/tmp"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    return root


def _podman_image(podman: str, root: Path, variables: dict[str, str]) -> str:
    """An image in Podman's store; skips where Podman can't run it."""
    image, archive = "localhost/nexa-test-python", root.with_suffix(".tar")
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    environment = {**os.environ, **variables}
    subprocess.run([podman, "import", "-q", archive, image], env=environment, check=True, capture_output=True)
    _try([podman, "run", "--rm", "--init", image], environment)
    return image


def _apptainer_image(apptainer: str, root: Path, variables: dict[str, str]) -> str:
    """An image file; skips where Apptainer can't run it."""
    image = str(root.with_suffix(".sif"))
    subprocess.run([apptainer, "build", image, root], check=True, capture_output=True)
    _try([apptainer, "exec", "--contain", "--no-home", "--no-privs", image], dict(os.environ))
    return image


IMAGES = {"podman": _podman_image, "apptainer": _apptainer_image}


def _try(command: list[str], environment: dict[str, str]) -> None:
    words = [*command, "/opt/python/bin/python3", "-c", "print(1)"]
    tried = subprocess.run(words, env=environment, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"{command[0]} runs nothing here: {tried.stderr.strip()}")
