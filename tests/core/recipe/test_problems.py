"""What a person reads about a wrong value: the place, plain words, and what to write instead."""

from __future__ import annotations

import pytest

from nexa.errors import RecipeError
from nexa.recipe.load import load_recipe

from .conftest import WriteRecipe

CASES = [
    ("training: {max_step: 1}", "6:12: training.max_step: unknown key (did you mean 'max_steps'?)"),
    ("training: {lr: 1e-3}", "6:12: training.lr: unknown key (did you mean optimizer.lr?)"),
    ("learning_rate: 1e-3", "6:1: learning_rate: unknown key (did you mean optimizer.lr?)"),
    ("optimizer: {learning_rate: 1}", "6:13: optimizer.learning_rate: unknown key (did you mean 'lr'?)"),
    ("trainig: {}", "6:1: trainig: unknown key (did you mean 'training'?)"),
    ("tensorbord: {}", "6:1: tensorbord: unknown key (did you mean 'tensorboard'?)"),
    ("zzz: 1", "your own keys go under `meta`)"),
    ("checkpointing: {zzz: 1}", "(known here: async_save, keep_best, keep_last, mode, monitor, save_optimizer)"),
    ("cluster: {time_limit: soon}", "must be a time such as 90m, 12h, 1d 6h or 1-06:00:00"),
    ("cluster: {time_limit: 60s}", "stop_lead_seconds (120) leaves no time to train within time_limit (60 s)"),
    ("cluster: {memory_per_node: lots}", "must be a size such as 512M or 64G"),
    ("training: {seed: '1'}", "training.seed: must be a whole number, not the text '1' (remove the quotes)"),
    ("training: {seed: 1.0}", "training.seed: must be a whole number, not 1.0 (write 1)"),
    ("training: {seed: 1.5}", "training.seed: must be a whole number, not 1.5"),
    ("training: {seed: -1}", "training.seed: must be at least 0, not -1"),
    ("training: {max_steps: 0}", "training.max_steps: must be greater than 0, not 0"),
    ("optimizer: {lr: fast}", "optimizer.lr: must be a number, not the text 'fast'"),
    ("optimizer: {lr: true}", "optimizer.lr: must be a number, not true"),
    ("optimizer: {betas: [0.9]}", "optimizer.betas: must hold at least 2 values, not 1"),
    ("optimizer: {betas: [0.9, x]}", "6:26: optimizer.betas.1: must be a number, not the text 'x'"),
    ("data: {packing: yes}", "data.packing: must be true or false, not the text 'yes' (YAML 1.2 knows only true"),
    ("data: {format: mesages}", "not the text 'mesages' (did you mean 'messages'?)"),
    ("data: {expected_dataset_hash: abc}", "must be a SHA-256 of 64 hexadecimal digits"),
    ("run: {name: a b}", "run.name: must be 1 to 64 letters, digits, dots, dashes and underscores"),
    ("run: {name: 7}", "run.name: must be text, not 7 (put it in quotes)"),
    ("samples: hello", "samples: must be a mapping of keys (prompts, max_new_tokens), not the text 'hello'"),
    ("adapter: {target_modules: 3}", "adapter.target_modules: must be a list or 'all-linear', not 3"),
    ("meta: []", "meta: must be a mapping, not a list"),
    ("preference: {beta: 0}", "preference.beta: must be greater than 0, not 0"),
    ("preference: {loss_type: sigmod}", "not the text 'sigmod' (did you mean 'sigmoid'?)"),
    (
        "preference: {loss_type: ipo, label_smoothing: 0.1}",
        "label_smoothing is for the losses sigmoid and robust, not ipo",
    ),
    ("rollouts: {rewards: exact-answer}", "rollouts.rewards: must be a list, not the text 'exact-answer'"),
    ("rollouts: {rewards: [json]}", "rollouts.rewards.0: must be a mapping of keys (name, weight, options), not"),
    ("rollouts: {rewards: [{weight: 1.0}]}", "rollouts.rewards.0.name: required, but not given"),
    ("rollouts: {rewards: [{name: json, wieght: 1}]}", "6:35: rollouts.rewards.0.wieght: unknown key (did you mean"),
    (
        "rollouts: {rewards: [{name: exact-anser}]}",
        "6:29: rollouts.rewards.0.name: there is no reward 'exact-anser' (did you mean 'exact-answer'?",
    ),
    (
        "rollouts: {rewards: [{name: json, options: {key: [a]}}]}",
        "6:45: rollouts.rewards.0.options.key: unknown key (did you mean 'keys'?)",
    ),
    (
        "rollouts: {rewards: [{name: format}]}",
        "rollouts.rewards.0.options.pattern: required, but not given",
    ),
    (
        "rollouts: {rewards: [{name: format, options: {pattern: '('}}]}",
        "rollouts.rewards.0.options.pattern: '(' is no regular expression",
    ),
    ("rollouts: {generations: 1}", "rollouts.generations: must be at least 2, not 1"),
    ("schema_version: 2", "schema_version: must be 1, not 2"),
    ("training: {max_steps: 1, epochs: 1}", "6:1: training: max_steps and epochs exclude each other; keep one"),
    ("data: {validation: {fraction: 0.1, split: x}}", "data.validation: fraction and split exclude each other"),
    ("model: {d_model: 8}", "'org/model' is an existing model and brings its own sizes; leave d_model out"),
    (
        "model: {name: llama, d_model: 8}",
        "an architecture needs d_model, n_layers, n_heads; not given: n_layers, n_heads",
    ),
    ("model: {name: llama, d_model: 8, n_layers: 1, n_heads: 3}", "d_model 8 does not divide by n_heads 3"),
    (
        "model: {name: llama, d_model: 8, n_layers: 1, n_heads: 4, n_kv_heads: 3}",
        "n_heads 4 does not divide by n_kv_heads",
    ),
]


@pytest.mark.parametrize(("text", "message"), CASES, ids=[text for text, _ in CASES])
def test_messages(write_recipe: WriteRecipe, text: str, message: str) -> None:
    parent = write_recipe(name="parent.yaml")
    path = write_recipe(f"{text}\n", base=f"\n\n\n\nextends: {parent}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert message in str(caught.value)


def test_everything_wrong_is_reported_at_once_in_file_order(write_recipe: WriteRecipe) -> None:
    text = """\
    backend: torhc
    training: {max_step: 1, seed: x}
    colour: red
    wandb: {projekt: x}
    optimizer: {lr: "1"}
    """
    path = write_recipe(text, base="model: {}\ndata: 3\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    paths = [problem.path for problem in caught.value.problems]
    assert paths == [
        "method",
        "model.name",
        "data",
        "backend",
        "training.max_step",
        "training.seed",
        "colour",
        "wandb.projekt",
        "optimizer.lr",
    ]
    assert all(problem.line for problem in caught.value.problems)


def test_long_lists_of_problems_are_cut_and_counted(write_recipe: WriteRecipe) -> None:
    path = write_recipe("samples: {prompts: [" + "1," * 80 + "]}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert len(caught.value.problems) == 50
    assert caught.value.hint == "and 30 more problems"
