"""An OpenAI-compatible endpoint over one checkpoint: `nexa serve`."""
