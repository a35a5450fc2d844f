"""Text generated before, during and after training, so that a person sees the change."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nexa_torch.callbacks.base import Callback, CallbackContext
from nexa_torch.generation import chat_prompt, chat_stop_tokens, decode_stream, generate_tokens, text_prompt

if TYPE_CHECKING:
    from nexa_torch.tasks.language_model import LanguageModelTask


class SampleCallback(Callback):
    """Writes one `sample` event for each prompt of the recipe, behind every evaluation."""

    priority: ClassVar[int] = 50

    def __init__(self, task: LanguageModelTask) -> None:
        """task: the one in training, whose recipe names the prompts."""
        self._task = task

    def on_validation_end(self, ctx: CallbackContext) -> None:
        """Generate on rank 0 while the others wait; on all where the model is sharded over them."""
        samples = self._task.recipe.samples
        if samples.prompts and (ctx.ranks.is_main or ctx.engine.strategy.equal_passes):
            self._generate(ctx)
        ctx.ranks.barrier()

    def _generate(self, ctx: CallbackContext) -> None:
        task, engine = self._task, ctx.engine
        network, tokenizer, samples = task.language.network, task.module.tokenizer, task.recipe.samples
        together = engine.strategy.equal_passes

        def should_stop() -> bool:
            asked = engine.stop_requested()
            return ctx.ranks.any(asked) if together else asked

        network.eval()
        stop_ids = chat_stop_tokens(network, tokenizer)
        ctx.write("progress", phase="sampling", step=ctx.step, total_steps=None)
        for prompt in samples.prompts:
            if should_stop():
                break
            chat = task.recipe.method == "sft" and tokenizer.chat_template
            turns = [{"role": "user", "content": prompt}]
            tokens = generate_tokens(
                network,
                chat_prompt(tokenizer, turns) if chat else text_prompt(tokenizer, prompt),
                max_new_tokens=samples.max_new_tokens,
                temperature=0.0,
                stop_ids=stop_ids,
                should_stop=should_stop,
            )
            ctx.write("sample", step=ctx.step, prompt=prompt, text="".join(decode_stream(tokenizer, tokens)))
