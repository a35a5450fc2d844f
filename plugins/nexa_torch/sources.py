"""Where a model comes from: an architecture's name, a folder, a hub id, a GGUF file; no torch.

Shared by planning and by the worker, so that both agree on what `model.name` means.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nexa.errors import UserError
from nexa_torch.architectures import ARCHITECTURES

PACKAGE_SCHEME = "pkg:"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_UNSAFE_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A resolved `model.name`.

    location: what transformers' `from_pretrained` takes as its first argument (folder or hub id);
    empty for an architecture. gguf_file: file name inside `location`, None unless kind is "gguf".
    """

    kind: Literal["architecture", "folder", "hub", "gguf"]
    name: str
    location: str = ""
    gguf_file: str | None = None

    @property
    def path(self) -> Path | None:
        """The folder or GGUF file on this machine; None for an architecture or a hub id."""
        if self.kind not in ("folder", "gguf"):
            return None
        return Path(self.location) / (self.gguf_file or "")


def resolve_source(name: str) -> ModelSource:
    """Tell what `name` refers to; raises UserError when it is nothing that can be loaded."""
    if name in ARCHITECTURES:
        return ModelSource(kind="architecture", name=name)
    if name.startswith(PACKAGE_SCHEME):
        return _local(name, packaged_path(name))
    path = Path(name).expanduser()
    if path.exists():
        return _local(name, path.absolute())
    if name.startswith(("/", ".", "~")) or name.endswith(".gguf") or name.count("/") > 1:
        raise UserError(f"model {name!r} does not exist", hint=f"checked {path.absolute()}")
    if _HUB_ID.match(name):
        return ModelSource(kind="hub", name=name, location=name)
    close = difflib.get_close_matches(name, ARCHITECTURES, n=1)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(
        f"unknown model {name!r}",
        hint=f"{suggestion}architectures: {', '.join(ARCHITECTURES)}; "
        "or give a folder, a GGUF file, a hub id such as org/model, or pkg:PACKAGE/FILE",
    )


def packaged_path(name: str) -> Path:
    """Path of `pkg:PACKAGE/FILE` inside an installed package, which is not imported.

    Raises UserError naming what to install, or which files the package has.
    """
    package, _, file = name.removeprefix(PACKAGE_SCHEME).partition("/")
    if not re.fullmatch(r"[A-Za-z_]\w*", package) or not file or ".." in Path(file).parts or Path(file).is_absolute():
        raise UserError(f"{name!r} is not of the form pkg:PACKAGE/FILE")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        distribution = package.replace("_", "-")
        raise UserError(f"{name}: package {package} is not installed", hint=f"type: pip install {distribution}")
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    for folder in folders:
        if (folder / file).exists():
            return folder / file
    available = sorted(entry.name for folder in folders for entry in folder.iterdir() if entry.suffix != ".py")
    raise UserError(f"{name}: package {package} has no {file}", hint=f"it has: {', '.join(available)}")


def _local(name: str, path: Path) -> ModelSource:
    if path.is_file():
        if path.suffix != ".gguf":
            raise UserError(f"model file {path} is not a GGUF file", hint="give the model's folder instead")
        return ModelSource(kind="gguf", name=name, location=str(path.parent), gguf_file=path.name)
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise UserError(
                f"{path} holds an adapter, not a model", hint="give its base model as model.name, or chat with it"
            )
        raise UserError(f"{path} is not a model folder: it has no config.json")
    if not any(path.glob("*.safetensors")):
        unsafe = sorted(found.name for pattern in _UNSAFE_WEIGHTS for found in path.glob(pattern))
        reason = f"only {', '.join(unsafe)}, which can run code when loaded" if unsafe else "no weights at all"
        raise UserError(
            f"{path} has no *.safetensors file, {reason}", hint="save it with model.save_pretrained(folder) first"
        )
    return ModelSource(kind="folder", name=name, location=str(path))
