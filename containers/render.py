"""Write every image's Containerfile and Apptainer definition from images.toml and templates/.

`python render.py` writes them. Standard library only (Python 3.11).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parent
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def rendered() -> dict[Path, str]:
    """Text of every file that is made here, by its path."""
    document = tomllib.loads((FOLDER / "images.toml").read_text(encoding="utf-8"))
    parts = tomllib.loads((FOLDER / "templates" / "parts.toml").read_text(encoding="utf-8"))
    shared = {name: text.strip("\n") for name, text in parts.items()} | _bases(document["bases"])
    files = {}
    for name, image in document["images"].items():
        places = {
            **shared,
            **image,
            "name": name,
            "check": ", ".join(f'"{word}"' for word in image["check"]),
            "test": " ".join(image.get("test", image["check"])),
            "command": f"\n{image['command']}",
        }
        for form, path in (("Containerfile", "Containerfile"), ("def", f"{name}.def")):
            template = (FOLDER / "templates" / f"{image['template']}.{form}").read_text(encoding="utf-8")
            files[FOLDER / name / path] = _fill(template, places)
    return files


def _bases(bases: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Places for each base image. Apptainer takes no reference that has both a tag and a digest."""
    places = {}
    for name, base in bases.items():
        repository = base["tag"].rpartition(":")[0]
        places[name] = f"{base['tag']}@{base['digest']}"
        places[f"{name}_tag"] = base["tag"]
        places[f"{name}_digest"] = f"{repository}@{base['digest']}"
    return places


def _fill(text: str, places: Mapping[str, str]) -> str:
    """Fill the places of a text, and those of what it was filled with. Raises KeyError for an unknown one."""
    while _PLACE.search(text):
        text = _PLACE.sub(lambda match: places[match[1]], text)
    return text


def main() -> None:
    """Write the files."""
    for path, text in rendered().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
