"""The rules that image definitions keep, and that their locks can be installed. No engine is needed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from nexa.errors import UserError

ROOT = Path(__file__).parents[2] / "containers"
IMAGES = ("infer", "train-heavy", "train-light")
CONTAINERFILES = [ROOT / name / "Containerfile" for name in IMAGES]
DEFINITIONS = [ROOT / name / f"{name}.def" for name in IMAGES]
LOCKS = sorted(ROOT.glob("*/*.lock"))
_LOCKED = re.compile(r"([a-z0-9][a-z0-9._-]*)==(\S+)( ; [^\\]+)?( \\)?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SECRETS = re.compile(r"(TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIAL)", re.I)


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, its text in one line) of a Containerfile."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines]


def lint(found: list[tuple[str, str]]) -> list[str]:
    """What is wrong with a Containerfile, in words."""
    problems = []
    names = [name for name, _ in found]
    texts = {name: [text for other, text in found if other == name] for name in names}
    for base in texts.get("FROM", []):
        image = base.split()[0]
        tag, _, digest = image.rpartition("/")[2].partition("@")
        if ":" not in tag or tag.endswith(":latest"):
            problems.append(f"FROM {image} has no fixed tag")
        if not _DIGEST.fullmatch(digest):
            problems.append(f"FROM {image} has no digest")
        if image.count("/") < 2:
            problems.append(f"FROM {image} leaves the registry open")
    users = [index for index, name in enumerate(names) if name == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", found[users[-1]][1]):
        problems.append("it does not end as a numbered user that is not root")
    elif "RUN" in names[users[-1] :]:
        problems.append("something runs after USER")
    if "HEALTHCHECK" not in names:
        problems.append("it has no HEALTHCHECK")
    if "ADD" in names:
        problems.append("ADD fetches and unpacks; COPY says what it does")
    problems += [
        f"COPY {text} copies too much" for text in texts.get("COPY", []) if text.split()[0] in (".", "..", "/")
    ]
    for text in texts.get("RUN", []):
        if "apt-get install" in text and not {"--yes", "--no-install-recommends"} <= set(text.split()):
            problems.append("apt-get installs what was not asked for")
        if "apt-get update" in text and "rm -rf /var/lib/apt/lists/*" not in text:
            problems.append("package lists stay in a layer")
        for command in re.findall(r"pip install[^&|]*", text):
            if not {"--require-hashes", "--no-deps"} <= set(command.split()):
                problems.append(f"{command.strip()} installs what no lock names")
        if re.search(r"(curl|wget).*\|\s*(ba)?sh", text) or re.search(r"\bsudo\b", text):
            problems.append("a script from the network, or sudo")
    for text in (*texts.get("ENV", []), *texts.get("ARG", [])):
        if _SECRETS.search(text):
            problems.append(f"a secret in the image: {text}")
    if not any("--no-cache-dir" in text or "PIP_NO_CACHE_DIR=1" in text for _, text in found):
        problems.append("pip's cache stays in a layer")
    return problems


@pytest.mark.parametrize("path", CONTAINERFILES, ids=IMAGES)
def test_containerfiles_keep_the_rules(path):
    assert lint(instructions(path)) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("python:3.12.8-slim-bookworm", "python:latest"), "no fixed tag"),
        (("@sha256:", ""), "has no digest"),
        (("docker.io/library/python", "python"), "leaves the registry open"),
        (("USER 1000:1000", "USER root"), "not root"),
        (("COPY health.py", "ADD health.py"), "ADD fetches"),
        (("--require-hashes ", ""), "no lock names"),
        (("--no-install-recommends ", ""), "not asked for"),
        ((" && rm -rf /var/lib/apt/lists/* \\\n", " \\\n"), "package lists"),
        (("PYTHONUNBUFFERED=1", "HF_TOKEN=abc"), "a secret"),
        (("HEALTHCHECK", "LABEL"), "no HEALTHCHECK"),
        (("WORKDIR /tmp", "RUN true"), "runs after USER"),
    ],
)
def test_the_rules_find_what_breaks_them(tmp_path, change, problem):
    broken = tmp_path / "Containerfile"
    text = (ROOT / "train-light" / "Containerfile").read_text()
    assert change[0] in text
    broken.write_text(text.replace(*change))
    assert any(problem in found for found in lint(instructions(broken)))


def test_hadolint_finds_nothing():
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    program = str(hadolint) if hadolint.exists() else shutil.which("hadolint")
    assert program, "hadolint is missing: pip install -e '.[dev]'"
    answer = subprocess.run([program, *CONTAINERFILES], cwd=ROOT.parent, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_files_are_what_the_templates_say():
    command = [
        sys.executable,
        "-c",
        "import json, render; print(json.dumps({str(k): v for k, v in render.rendered().items()}))",
    ]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = {Path(path): text for path, text in json.loads(answer.stdout).items()}
    assert sorted(files) == sorted([*CONTAINERFILES, *DEFINITIONS])
    stale = [str(path.relative_to(ROOT)) for path, text in files.items() if path.read_text() != text]
    assert stale == [], "run: python containers/render.py"


@pytest.mark.parametrize("name", IMAGES)
def test_both_forms_of_an_image_are_made_of_the_same(name):
    containerfile, definition = (ROOT / name / "Containerfile").read_text(), (ROOT / name / f"{name}.def").read_text()
    (base,) = re.findall(r"^From: (\S+)", definition, re.M)
    repository, digest = base.split("@")
    assert re.findall(r"^FROM (\S+)", containerfile, re.M)[0].startswith(f"{repository}:")
    assert f"@{digest}" in containerfile
    for text in (containerfile, definition):
        for lock in (ROOT / name).glob("*.lock"):
            assert f"{name}/{lock.name}" in text
    assert "%test" in definition
    assert "set -eu" in definition
    assert re.findall(r"pip install (?!--require-hashes)", definition) == []


@pytest.mark.parametrize("name", IMAGES)
def test_what_is_copied_is_there(name):
    for instruction, text in instructions(ROOT / name / "Containerfile"):
        if instruction == "COPY" and not text.startswith("--from"):
            assert all((ROOT / source).is_file() for source in text.split()[:-1])


@pytest.mark.parametrize("lock", LOCKS, ids=[str(lock.relative_to(ROOT)) for lock in LOCKS])
def test_every_line_of_a_lock_has_a_version_and_a_hash(lock):
    for block in re.split(r"\n(?=\S)", lock.read_text().strip()):
        head, *hashes = block.splitlines()
        assert _LOCKED.fullmatch(head), head
        assert hashes
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes)


@pytest.mark.parametrize(
    ("name", "backend"), [("train-light", "torch"), ("train-light", "hf"), ("train-heavy", "axolotl")]
)
def test_the_locks_hold_what_their_backends_ask_for(name, backend):
    from nexa.environments.requirements import misfits, needs_of
    from nexa.plugins import get_host

    spec = get_host().spec("backend", backend)
    assert misfits(needs_of(spec, "nexa-train"), _locked(name), "3.12.8") == []


def test_train_light_holds_the_versions_that_the_tests_ran_with():
    constraints = dict(
        line.split("==") for line in (ROOT.parent / "constraints.txt").read_text().split() if "==" in line
    )
    differing = {n: (version, constraints[n]) for n, version in _locked("train-light").items() if n in constraints}
    assert {name: both for name, both in differing.items() if both[0] != both[1]} == {}, "run: containers/lock.sh"


def _locked(name: str) -> dict[str, str]:
    """Version of each package of an image."""
    return dict(_LOCKED.match(line).group(1, 2) for line in _heads(ROOT / name / "requirements.lock"))


def _heads(lock: Path) -> list[str]:
    return [line for line in lock.read_text().splitlines() if line and not line[0].isspace()]


def test_health(tmp_path):
    def ends(*words: str) -> int:
        return subprocess.run([sys.executable, "-I", ROOT / "health.py", *words], capture_output=True).returncode

    assert ends("modules", "json", "click") == 0
    assert ends("modules", "json", "no_such_module") == 1
    assert ends("http", "http://127.0.0.1:9/health") == 1


@pytest.mark.parametrize("script", ["lock.sh", "pin_digests.sh"])
def test_scripts_parse(script):
    assert subprocess.run(["bash", "-n", ROOT / script]).returncode == 0


@pytest.mark.parametrize("name", IMAGES)
def test_a_lock_holds_the_versions_that_its_image_asks_for(name):
    from nexa.environments.requirements import parse

    asked = ROOT / name / "requirements.in"
    locked = _locked(name)
    for line in asked.read_text().splitlines() if asked.exists() else ():
        if line and not line.startswith("#"):
            requirement = parse(line, name)
            assert requirement.specifier.contains(locked[requirement.name]), line


IMPORTS = {
    "train-light": ["torch", "transformers", "trl", "peft", "accelerate", "datasets", "tensorboard", "wandb"],
    "infer": ["torch", "transformers", "vllm", "vllm.entrypoints.openai.api_server"],
}
"""What each image is for, importable without a GPU. train-heavy is compiled by CUDA's compiler, in its image alone."""


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", IMPORTS)
def test_an_images_packages_install_and_import(name):
    """Exactly the locked files, in a clean environment: gigabytes, and many minutes."""
    from packaging.specifiers import SpecifierSet

    from nexa.environments.builders import Sources, find_builder
    from nexa.environments.interpreters import find_interpreter

    try:
        python = find_interpreter(SpecifierSet("==3.12.*"), asker=f"the image {name}")
        uv = find_builder("uv")
    except UserError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory() as folder:
        venv = Path(folder) / "venv"
        subprocess.run([python.path, "-m", "venv", "--without-pip", venv], check=True)
        lock = ROOT / name / "requirements.lock"
        uv.install(venv / "bin" / "python", lock, Sources(), asker=f"the image {name}", progress=lambda text: None)
        subprocess.run([uv.program, "pip", "check", "--python", venv / "bin" / "python"], check=True)
        code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
        command = [venv / "bin" / "python", "-I", "-c", code, *IMPORTS[name]]
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr[-3000:]


@pytest.mark.soak
@pytest.mark.parametrize("name", IMAGES)
def test_an_images_packages_can_be_installed(name, tmp_path):
    from nexa.environments.builders import find_builder

    uv = find_builder("uv").program
    platform = ["--python-version", "3.12", "--python-platform", "x86_64-unknown-linux-gnu"]
    options = ["--dry-run", "--no-deps", "--require-hashes", "--target", str(tmp_path), *platform]
    command = [uv, "pip", "install", *options, "-r", str(ROOT / name / "requirements.lock")]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count(" + ") == len(_heads(ROOT / name / "requirements.lock"))
