"""Paths in a recipe: relative ones count from the folder of the file they are written in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nexa.recipe.node import Node, set_path
from nexa.uris import absolute_path, absolute_uri

FILE_KEYS = (
    "data.remote_uri",
    "data.validation.remote_uri",
    "data.local_cache_root",
    "model.chat_template",
)
MODEL_KEYS = ("model.name", "model.tokenizer", "distill.teacher")
DATASET_KEY = "distill.dataset"
STORE_KEY = "artifacts.store_uri"
ENVIRONMENT_KEYS = ("environment", "environment.name")
IMAGE_KEY = "environment.container"
IMAGE_FILES = (".sif", ".img")
"""Suffixes of container images that are files."""


def absolute_paths(layer: Node, folder: Path) -> Node:
    """`layer` with every relative path made absolute against `folder`; URIs stay as they are."""
    for key in FILE_KEYS:
        layer = _replace(layer, key, lambda value: absolute_path(value, folder))
    layer = _replace(layer, DATASET_KEY, lambda value: absolute_dataset(value, folder))
    for key in MODEL_KEYS:
        layer = _replace(layer, key, lambda value: absolute_model(value, folder))
    for key in ENVIRONMENT_KEYS:
        layer = _replace(layer, key, lambda value: absolute_path(value, folder) if "/" in value else value)
    layer = _replace(
        layer, IMAGE_KEY, lambda value: absolute_path(value, folder) if value.endswith(IMAGE_FILES) else value
    )
    return _replace(layer, STORE_KEY, lambda value: absolute_uri(value, folder))


def absolute_model(value: str, folder: Path) -> str:
    """A model or tokenizer name with a path made absolute; an architecture or hub id stays.

    "org/model" is a path only where such a folder exists; `./org/model` always is one.
    """
    marked = value.startswith(("./", "../", "~")) or value.lower().endswith(".gguf")
    is_path = marked or ("/" in value and (folder / value).exists())
    return absolute_path(value, folder) if is_path else value


def absolute_dataset(value: str, folder: Path) -> str:
    """A distilled dataset's path made absolute; what names one of the artifact store stays.

    "datasets/mine" is a path only where such a folder exists.
    """
    from nexa.distilled import is_reference

    return value if is_reference(value) and not (folder / value).is_dir() else absolute_path(value, folder)


def _replace(layer: Node, key: str, change: Callable[[str], str]) -> Node:
    path = key.split(".")
    node = layer.find(path)
    if node is None or not isinstance(node.value, str) or not node.value:
        return layer
    return set_path(layer, path, replace(node, value=change(node.value)))
