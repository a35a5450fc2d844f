"""Text written before, during and after training, so that a person sees the change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexa_torch.generation import chat_prompt, chat_stop_tokens, decode_stream, generate_tokens, text_prompt

if TYPE_CHECKING:
    from nexa_hf.session import Session
    from nexa_hf.trainer import RunTrainer


def write_samples(session: Session, trainer: RunTrainer) -> None:
    """Write one `sample` event for each prompt of the recipe.

    Rank 0 writes while the others wait; where the model is sharded all compute, since none has it whole.
    """
    job, ranks = session.job, session.ranks
    prompts = job.recipe.samples.prompts if job.method.samples else []
    if not prompts:
        return
    together = trainer.is_sharded
    if ranks.is_main or together:
        network, tokenizer = job.model.network, job.data.tokenizer
        training = network.training
        network.eval()
        session.write("progress", phase="sampling", step=session.step, total_steps=None)
        for prompt in prompts:
            stop = session.agree_on_stop() if together else session.context.stop_requested() is not None
            if stop:
                break
            chat = job.method.name != "pretrain" and tokenizer.chat_template
            turns = [{"role": "user", "content": prompt}]
            tokens = generate_tokens(
                network,
                chat_prompt(tokenizer, turns) if chat else text_prompt(tokenizer, prompt),
                max_new_tokens=job.recipe.samples.max_new_tokens,
                temperature=0.0,
                stop_ids=chat_stop_tokens(network, tokenizer),
                should_stop=(lambda: False) if together else (lambda: session.context.stop_requested() is not None),
            )
            session.write("sample", step=session.step, prompt=prompt, text="".join(decode_stream(tokenizer, tokens)))
        network.train(training)
    ranks.barrier()
