"""Colour themes: dark, light, high contrast and colour-blind safe; each names the colours of states and charts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.color import Color
from textual.theme import Theme

if TYPE_CHECKING:
    from textual.app import App

# Okabe and Ito's palette, told apart with any of the common colour vision deficiencies
# (https://jfly.uni-koeln.de/color/).
_OKABE_ITO = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2", "#999999")


def _chart_variables(colours: tuple[str, ...], faint: str, marker: str) -> dict[str, str]:
    named = {f"chart-{index}": colour for index, colour in enumerate(colours, 1)}
    return {**named, "chart-faint": faint, "chart-marker": marker}


DARK = Theme(
    name="nexa-dark",
    primary="#7aa2f7",
    secondary="#9ece6a",
    accent="#ff9e64",
    warning="#e0af68",
    error="#f7768e",
    success="#9ece6a",
    foreground="#c8d0e8",
    background="#13141f",
    surface="#1a1b29",
    panel="#24263a",
    dark=True,
    variables={
        **_chart_variables(
            ("#7aa2f7", "#ff9e64", "#9ece6a", "#bb9af7", "#7dcfff", "#f7768e", "#e0af68", "#73daca"),
            "#3b4266",
            "#565f89",
        ),
        "footer-key-foreground": "#ff9e64",
        "scrollbar-background": "#1a1b29",
        "footer-background": "#1a1b29",
        "border": "#7aa2f7",
        "border-blurred": "#2f334d",
        "block-cursor-background": "#33467c",
        "block-cursor-foreground": "#ffffff",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#24263a",
        "input-selection-background": "#33467c",
    },
)

LIGHT = Theme(
    name="nexa-light",
    primary="#2959aa",
    secondary="#385f0d",
    accent="#b15c00",
    warning="#8f5e15",
    error="#b3243f",
    success="#33635c",
    foreground="#23283d",
    background="#f6f7fb",
    surface="#ffffff",
    panel="#e6e9f2",
    dark=False,
    variables={
        **_chart_variables(
            ("#2959aa", "#b15c00", "#385f0d", "#6b3fa0", "#006c86", "#b3243f", "#8f5e15", "#118c74"),
            "#b9c2dd",
            "#8b93b0",
        ),
        "footer-key-foreground": "#b15c00",
        "border": "#2959aa",
        "border-blurred": "#c9cfdf",
        "block-cursor-background": "#cfdcf7",
        "block-cursor-foreground": "#10131f",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#e6e9f2",
    },
)

CONTRAST = Theme(
    name="nexa-contrast",
    primary="#ffff00",
    secondary="#00ffff",
    accent="#ffff00",
    warning="#ffff00",
    error="#ff6060",
    success="#00ff00",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#404040",
    dark=True,
    text_alpha=1.0,
    variables={
        **_chart_variables(
            ("#ffffff", "#ffff00", "#00ffff", "#00ff00", "#ff80ff", "#ff6060", "#80b0ff", "#ffb000"),
            "#808080",
            "#b0b0b0",
        ),
        "footer-key-foreground": "#ffff00",
        "footer-background": "#000000",
        "border": "#ffff00",
        "border-blurred": "#ffffff",
        "text-muted": "#ffffff",
        "text-disabled": "#c0c0c0",
        "block-cursor-background": "#ffff00",
        "block-cursor-foreground": "#000000",
        "block-cursor-text-style": "bold",
        "block-cursor-blurred-background": "#404040",
        "block-cursor-blurred-foreground": "#ffffff",
    },
)

COLOURBLIND = Theme(
    name="nexa-colourblind",
    primary="#56b4e9",
    secondary="#009e73",
    accent="#e69f00",
    warning="#e69f00",
    error="#d55e00",
    success="#56b4e9",
    foreground="#d6dae6",
    background="#12141a",
    surface="#191c24",
    panel="#252934",
    dark=True,
    variables={
        **_chart_variables(_OKABE_ITO, "#414656", "#6b7183"),
        "footer-key-foreground": "#e69f00",
        "scrollbar-background": "#191c24",
        "border": "#56b4e9",
        "border-blurred": "#323746",
        "block-cursor-background": "#0b4f7a",
        "block-cursor-foreground": "#ffffff",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#252934",
    },
)

THEMES = (DARK, LIGHT, CONTRAST, COLOURBLIND)
"""In the order in which `T` goes through them; the first is the default."""


def colour_of(app: App[None], name: str) -> str:
    """A variable of the app's theme as #rrggbb; colours that adapt to their background become muted text."""
    value = app.theme_variables.get(name, "")
    if value and not value.startswith("auto"):
        return Color.parse(value).hex6
    variables = app.theme_variables
    return Color.parse(variables["background"]).blend(Color.parse(variables["foreground"]), 0.6).hex6
