"""The first rows of a recipe as Axolotl will be given them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nexa.backend import Preview
from nexa.batch import resolve_batch
from nexa.errors import UserError
from nexa.plan import resources_of
from nexa_axolotl.preferences import METHODS, preview_preferences
from nexa_axolotl.render import encodes_rows

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe


def preview(recipe: Recipe) -> Preview:
    """Encode the data and show its first rows, one document each; Axolotl shuffles and packs them itself.

    Raises what `nexa_torch.data.prepare.prepare_data` raises.
    """
    if not encodes_rows(recipe):
        raise UserError(
            "the section axolotl names its own data, which Axolotl encodes itself and Nexa can't show",
            hint="see the plan: --explain; or name the data in data.remote_uri",
        )
    if recipe.method in METHODS:
        return preview_preferences(recipe)
    from nexa_axolotl.prepare import unpacked
    from nexa_torch.data.display import row_tokens, token_text
    from nexa_torch.data.prepare import prepare_data

    batch = resolve_batch(recipe.training, resources_of(recipe).world_size)
    data = prepare_data(unpacked(recipe))
    rows = data.train.take(range(min(batch.microbatch_size, len(data.train))))
    steps = recipe.training.max_steps
    note = []
    if steps is None:
        steps = math.ceil(len(data.train) * (recipe.training.epochs or 1) / batch.global_batch_size)
        if recipe.data.packing:
            note = ["the number of steps is that of unpacked rows; Axolotl counts its packed ones when it starts"]
    return Preview(
        rows=row_tokens(rows, token_text(data.tokenizer)),
        documents=data.documents,
        tokens=data.train.token_count,
        trained_tokens=data.train.trained_token_count,
        total_steps=steps,
        warnings=[*data.warnings, *note],
    )
