"""What every recipe section is built from: the strict base class and the value types with their bounds."""

from __future__ import annotations

from typing import Annotated, Any, Self, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field

from nexa.quantities import DURATION, MEMORY

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SHA256 = r"^(sha256:)?[0-9a-f]{64}$"
PATTERNS = {
    NAME: "1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit",
    SHA256: "a SHA-256 of 64 hexadecimal digits, with or without sha256: before it",
    DURATION: "a time such as 90m, 12h, 1d 6h or 1-06:00:00",
    MEMORY: "a size such as 512M or 64G",
}
"""What each pattern of the schema asks for, in words."""

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of every recipe section: unknown keys refused, no silent type conversion, immutable.

    The text under a field is its description; `nexa.recipe.jsonschema` reads it from the source when
    asked, because pydantic would read it on every start.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)

    @classmethod
    def defaults(cls) -> Self:
        """The section with every field at its default, for the class body of the section around it.

        Calling the class would build a validator of its own, on every start and for every section.
        """
        # pydantic's plugin for mypy declares it to return the class that is being defined.
        return cast("Self", cls.model_construct())

    @classmethod
    def leaf_paths(cls) -> tuple[str, ...]:
        """Dotted paths of the fields that hold values, not sections, in schema order.

        The fields of a section that may be null, or be given by a name alone, count as its leaves.
        """
        paths: list[str] = []
        for name, field in cls.model_fields.items():
            section = section_of(field.annotation)
            if section is not None:
                paths += [f"{name}.{path}" for path in section.leaf_paths()]
            elif not field.exclude:
                paths.append(name)
        return tuple(paths)


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a field of this type holds, also where it may be null; None for a leaf, such as a list."""
    options = () if get_origin(annotation) is list else (annotation, *get_args(annotation))
    return next((option for option in options if isinstance(option, type) and issubclass(option, Section)), None)
