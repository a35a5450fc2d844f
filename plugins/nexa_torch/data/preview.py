"""The first batch of a recipe as training will see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nexa.backend import Preview, PreviewToken
from nexa.batch import resolve_batch
from nexa.plan import resources_of
from nexa_torch.batches import describe, tensors_in
from nexa_torch.data.display import row_tokens, token_text
from nexa_torch.data.order import rows_of_microbatch, run_length
from nexa_torch.data.prepare import prepare_data
from nexa_torch.engine.windows import make_source
from nexa_torch.tasks.registry import load_data_module, load_task

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe


def preview(recipe: Recipe) -> Preview:
    """Prepare the recipe's data and show the first microbatch of the first process; nothing is trained.

    Raises what `prepare_data` raises, and RecipeError where the batch sizes contradict one another.
    """
    batch = resolve_batch(recipe.training, resources_of(recipe).world_size)
    data = prepare_data(recipe)
    length = run_length(recipe.training, len(data.train), batch.global_batch_size)
    indices: Sequence[int] | np.ndarray = range(batch.microbatch_size)
    if not data.train.ordered:
        indices = rows_of_microbatch(
            seed=recipe.training.seed,
            n=len(data.train),
            step=0,
            micro=0,
            rank=0,
            world_size=batch.world_size,
            microbatch_size=batch.microbatch_size,
            accumulation_steps=batch.accumulation_steps,
            total_rows=length.total_rows,
        )
    return Preview(
        rows=row_tokens(data.train.take(indices), token_text(data.tokenizer)),
        documents=data.documents,
        tokens=data.train.token_count,
        trained_tokens=data.train.trained_token_count,
        total_steps=length.total_steps,
        warnings=tuple(data.warnings),
    )


def preview_task(recipe: Recipe) -> Preview:
    """Set up the data of a task that has no tokens, and describe its first microbatch, one line a tensor.

    Raises what the data module raises, and RecipeError where the batch sizes contradict one another.
    """
    plan = resolve_batch(recipe.training, resources_of(recipe).world_size)
    module = load_data_module(recipe)
    module.prepare_data()
    module.setup("preview")
    loader, sampler = module.train_dataloader(0, plan.world_size)
    task = load_task(recipe, module)
    source = make_source(loader, sampler, task, plan, recipe.training)
    window = source.window(0)
    lines = [
        PreviewToken(id=0, text=f"{place}: {describe(tensor)}\n", trained=True)
        for place, tensor in tensors_in(window.microbatches[0].batch)
    ]
    return Preview(
        rows=[lines],
        documents=source.n_rows,
        tokens=0,
        trained_tokens=0,
        total_steps=source.total_steps,
        warnings=tuple(module.warnings()),
    )
