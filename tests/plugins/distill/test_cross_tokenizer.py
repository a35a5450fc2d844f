"""Students of other tokens than their teacher's: the same text, read twice, compared where both have read as much."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from nexa.errors import UserError
from nexa.testing.recipes import tiny_recipe
from nexa_distill.aligned import AlignedDataset, aligned_rows, collate_aligned
from nexa_distill.alignment import Aligner, token_bytes
from nexa_distill.checks import find_problems
from nexa_torch.data.byte_tokenizer import byte_tokenizer
from nexa_torch.data.rows import IGNORED
from nexa_torch.data.tokenizer import load_tokenizer
from nexa_torch.engine.engine import TrainingEngine
from nexa_torch.tasks.registry import load_data_module, load_task

TEXT = (Path(__file__).parents[3] / "recipes/data/shakespeare.txt").read_text(encoding="utf-8")[:60_000]
ODD = "“Zwölf Boxkämpfer”, naïve — 日本語のテキスト 🦊🦊 e\u0301te\n\n\tend"


def byte_level(size: int, *, eos: str = "</s>", nfc: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `size` tokens, trained on real text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=size, special_tokens=[eos], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token=eos)


def sentence_piece(size: int) -> PreTrainedTokenizerFast:
    """A BPE in the manner of SentencePiece: words begin with ▁, unknown characters are bytes, texts with <s>."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    named = ["<unk>", "<s>", "</s>"]
    tokenizer.train_from_iterator(TEXT.split(), trainers.BpeTrainer(vocab_size=size, special_tokens=named))
    form = json.loads(tokenizer.to_str())
    vocabulary = form["model"]["vocab"]
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    tokenizer = Tokenizer.from_str(json.dumps(form))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


@pytest.fixture(scope="module")
def tokenizers():
    """Byte-level ones of two sizes, and one in the manner of SentencePiece."""
    return {"small": byte_level(300), "large": byte_level(700, eos="<end>", nfc=True), "sp": sentence_piece(500)}


@pytest.mark.parametrize(
    ("student", "teacher"), [("small", "large"), ("large", "small"), ("large", "sp"), ("sp", "large")]
)
@pytest.mark.parametrize("text", [TEXT[:2000], ODD])
def test_matched_positions_have_read_the_same(tokenizers, student, teacher, text):
    """The shift: behind equal prefixes both models predict what comes next."""
    ours, theirs = tokenizers[student], tokenizers[teacher]
    ids = np.array([*ours(text, add_special_tokens=False)["input_ids"], ours.eos_token_id])
    found = Aligner(ours, theirs)(ids)
    our_bytes, their_bytes = token_bytes(ours, ""), token_bytes(theirs, "")

    def read(tokens, table, tokenizer):
        markers = {tokenizer.eos_token_id, tokenizer.bos_token_id}
        data = b"".join(b"" if token in markers else table[token] for token in tokens)
        # "é" of two characters is one for a tokenizer that composes them; the end of the text is matched again.
        return unicodedata.normalize("NFC", data.decode("utf-8", errors="replace")).lstrip()

    assert len(found.student) == len(found.teacher) > 0
    assert (np.diff(found.student) > 0).all()
    assert (np.diff(found.teacher) > 0).all()
    for mine, its in zip(found.student, found.teacher, strict=True):
        assert read(ids[: mine + 1], our_bytes, ours) == read(found.ids[: its + 1], their_bytes, theirs)
    if text is not ODD:
        # Words end together, and so does the text: at its last marker both have read everything.
        assert len(found.student) > 0.2 * len(ids)
        assert found.student[-1] == len(ids) - 1
        assert found.ids[found.teacher[-1]] == theirs.eos_token_id


def test_a_piece_that_begins_and_ends_within_characters_is_matched_between(tokenizers):
    """As long documents are cut at any token."""
    ids = np.array(byte_tokenizer()("日本語 and so on 日本語", add_special_tokens=False)["input_ids"])[1:-1]
    found = Aligner(byte_tokenizer(), tokenizers["large"])(ids)
    whole = bytes(ids.astype(np.uint8))[2:-2]
    text = b"".join(token_bytes(tokenizers["large"], "")[token] for token in found.ids)
    assert text == whole
    assert found.student[-1] == len(ids) - 3


def test_a_teacher_reads_no_more_than_it_can(tokenizers):
    """Its context ends, and matches with it."""
    ids = np.array(tokenizers["small"](TEXT[:500])["input_ids"])
    found = Aligner(tokenizers["small"], tokenizers["large"], longest=20)(ids)
    assert len(found.ids) == 20
    assert found.teacher[-1] < 20


def test_tokens_without_bytes_are_refused():
    """Those of WordPiece do not keep the text."""
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(UserError, match="the teacher does not keep the bytes"):
        Aligner(byte_tokenizer(), PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"))


@pytest.fixture(scope="module")
def make(teacher, tokenizers, tmp_path_factory):
    """Makes a recipe of a student with tokens of its own and a byte-level teacher."""
    folder = tmp_path_factory.mktemp("cross")
    tokenizers["large"].save_pretrained(folder / "tokenizer")

    def recipe(**more):
        own = {
            "method": "distill",
            "distill.mode": "online",
            "distill.teacher": str(teacher),
            "distill.cross_tokenizer": "uld",
            "model.tokenizer": str(folder / "tokenizer"),
        }
        return tiny_recipe(folder / "recipe", {**own, **more})

    return recipe


def set_up(recipe):
    """The recipe's data module and task, its model built."""
    module = load_data_module(recipe)
    module.setup()
    task = load_task(recipe, module)
    return module, task, task.build_model()


def step(set_up_task, indices):
    """Loss and figures of a step over some rows, and its trained tokens."""
    module, task, model = set_up_task
    batch = collate_aligned(AlignedDataset(module.data.train, module.aligner).__getitems__(indices))
    loss, figures = task.train_step(batch, model, None)
    return loss, {name: float(value) for name, value in figures.items()}, batch["trained_tokens"]


def test_a_student_of_other_tokens_comes_closer_to_its_teacher(make):
    """By training as any other, from chat rows that are packed and masked."""
    runs = {}
    for steps in (1, 12):
        recipe = make(**{"distill.alpha": 1.0, "optimizer.lr": 1e-2, "training.max_steps": steps})
        module = load_data_module(recipe)
        module.setup()
        runs[steps] = TrainingEngine(recipe, load_task(recipe, module)).run().metrics
    assert runs[12]["uld"] < 0.9 * runs[1]["uld"]
    assert 0.2 < runs[1]["matched"] <= 1.0


def test_division_of_a_batch_does_not_matter(make):
    """Order, accumulation and packing: the loss is that of each row, weighed by its trained tokens."""
    apart = set_up(make(**{"data.packing": False}))
    whole, figures, count = step(apart, [4, 9, 2])
    assert step(apart, [2, 4, 9])[0].item() == pytest.approx(whole.item(), rel=1e-5)
    parts = [step(apart, [index]) for index in (4, 9, 2)]
    assert sum(loss.item() * weight for loss, _, weight in parts) / count == pytest.approx(whole.item(), rel=1e-5)
    assert sum(own["matched"] * weight for _, own, weight in parts) / count == pytest.approx(figures["matched"])
    packed = set_up(make())
    totals = []
    for one in (apart, packed):
        rows = [step(one, [index]) for index in range(len(one[0].data.train))]
        totals.append(sum(loss.item() * weight for loss, _, weight in rows) / sum(weight for *_, weight in rows))
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


def test_with_one_tokenizer_it_is_the_plain_sorted_loss(make):
    """Every labelled position is matched with itself, and loss and gradient are those of whole sorted rows."""
    module, task, model = set_up(make(**{"model.tokenizer": "bytes", "distill.alpha": 0.7}))
    batch = module.data.train.take([0, 3])
    aligned = aligned_rows(batch, module.aligner)
    labelled = np.flatnonzero(batch.labels.ravel() != IGNORED)
    assert np.array_equal(aligned["student"], np.arange(len(labelled)))
    assert np.array_equal(aligned["input_ids"].ravel()[aligned["teacher"]], batch.input_ids.ravel()[labelled])
    loss, figures, count = step((module, task, model), [0, 3])
    tensors = collate_aligned((batch, aligned))
    inputs = tensors["input_ids"], tensors["positions"]
    logits = task.language.logits(*inputs).flatten(0, 1)[labelled]
    theirs = task.student_loss.teacher.logits(*inputs).flatten(0, 1)[labelled].detach()
    q, p = (torch.softmax(values, -1).sort(descending=True).values for values in (logits, theirs))
    ce = torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.labels.ravel()[labelled]).long())
    expected = 0.3 * ce + 0.7 * (q - p).abs().sum() / count
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert figures["matched"] == 1.0
    first = next(model.parameters())
    wanted, found = (torch.autograd.grad(value, first, retain_graph=True)[0] for value in (expected, loss))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_names_of_tokens_do_not_matter(make, teacher, tmp_path):
    """A student that is its teacher with its vocabulary in another order has nothing to learn."""
    from transformers import AutoModelForCausalLM

    own = load_tokenizer(make(**{"model.tokenizer": str(teacher)}).model)
    order = np.random.default_rng(0).permutation(256)
    vocabulary = {piece: int(order[number]) for piece, number in own.get_vocab().items() if number < 256}
    changed = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    changed.pre_tokenizer = own.backend_tokenizer.pre_tokenizer
    changed.decoder = decoders.ByteLevel()
    changed.add_special_tokens([own.convert_ids_to_tokens(number) for number in range(256, len(own))])
    folder = tmp_path / "other-order"
    PreTrainedTokenizerFast(tokenizer_object=changed, eos_token=own.eos_token, pad_token=own.pad_token).save_pretrained(
        folder
    )
    network = AutoModelForCausalLM.from_pretrained(teacher)
    with torch.no_grad():
        for weight in {network.get_input_embeddings().weight, network.get_output_embeddings().weight}:
            weight[torch.from_numpy(order)] = weight[:256].clone()
    network.save_pretrained(folder)
    recipe = make(**{"distill.alpha": 1.0})
    sizes = {"name": str(folder), "d_model": None, "n_layers": None, "n_heads": None, "tokenizer": None}
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=sizes)})
    loss, figures, _ = step(set_up(recipe), [0, 1])
    assert figures["matched"] == 1.0
    assert abs(loss.item()) < 1e-4


def test_what_does_not_go_with_other_tokens_is_told(make, teacher):
    """Distances that need the same positions or tokens; and without the key the refusal names it."""
    assert list(find_problems(make())) == []
    for key, value in {"divergence": "jsd", "hidden_weight": 1.0, "attention_weight": 1.0}.items():
        (problem,) = find_problems(make(**{f"distill.{key}": value}))
        assert problem.path == f"distill.{key}"
    with pytest.raises(UserError, match="different tokenizers") as refusal:
        set_up(make(**{"distill.cross_tokenizer": "refuse"}))
    assert "cross_tokenizer=uld" in str(refusal.value.hint)
