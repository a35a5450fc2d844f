"""Build, load and save causal language models, with or without an adapter.

Models are ordinary transformers models, adapters ordinary PEFT adapters, so what is saved loads
without Nexa. Weights are read from safetensors or GGUF only, and code shipped with a model never runs.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nexa.errors import UserError
from nexa.prepared import cache_root
from nexa_torch.architectures import ARCHITECTURES
from nexa_torch.data.locate import store_in_cache
from nexa_torch.identity import weights_fingerprint, write_base
from nexa_torch.kernels import attention
from nexa_torch.loss import IGNORED, cross_entropy_of_logits, linear_cross_entropy, sample_targets
from nexa_torch.probes import head_is_plain
from nexa_torch.sources import ModelSource, resolve_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nexa.recipe.sections.model import AdapterSection, ModelSection

_CACHED_MODEL_BYTES = 2 << 30


@dataclass(kw_only=True)
class LanguageModel:
    """A causal language model as the engine trains it.

    network: the transformers model; its linear layers are wrapped where it has an adapter.
    adapter: the PEFT model around `network`, None when all weights are trained.
    fingerprint: of its weights as they were loaded, see `nexa_torch.identity`.
    fused_head: whether the output head is a plain product, so that loss and head can be fused.
    takes_positions: whether the decoder accepts position ids, which packing needs.
    """

    network: PreTrainedModel
    source: ModelSource
    adapter: Any = None
    fingerprint: str = ""
    fused_head: bool = False
    takes_positions: bool = True

    @property
    def vocabulary(self) -> int:
        """Rows of the input embedding."""
        return int(self.network.get_input_embeddings().weight.shape[0])

    @property
    def longest_sequence(self) -> int | None:
        """Positions the model was made for; None where its configuration does not say."""
        limit = getattr(self.network.config, "max_position_embeddings", None)
        return limit if isinstance(limit, int) and limit > 0 else None

    def parameter_counts(self) -> tuple[int, int]:
        """Number of all and of trained parameters; tied weights count once."""
        parameters = list(self.network.parameters())
        return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)

    def outputs(self, input_ids: Tensor, positions: Tensor | None, **options: Any) -> Any:
        """What the decoder returns below its head, with `options` of its own such as output_hidden_states."""
        return self.network.base_model(input_ids=input_ids, use_cache=False, **self._places(positions), **options)

    def hidden_states(self, input_ids: Tensor, positions: Tensor | None) -> Tensor:
        """Output of the last block, after the final norm: [rows, width, d_model].

        Positions that restart inside a row separate documents: attention does not cross them.
        """
        return self.outputs(input_ids, positions).last_hidden_state

    def logits(self, input_ids: Tensor, positions: Tensor | None) -> Tensor:
        """Whole logits, [rows, width, vocabulary], for heads that are no plain product."""
        return self.network(input_ids=input_ids, use_cache=False, **self._places(positions)).logits

    def _places(self, positions: Tensor | None) -> dict[str, Tensor]:
        """What tells the decoder where each token stands in its document, and where documents end."""
        if positions is None or not self.takes_positions:
            return {}
        arguments = {"position_ids": positions}
        if attention.enabled(self.network) and positions.device.type == "cpu":
            lengths = attention.document_lengths(positions)
            limit = attention.longest_whole_document(self.network)
            # A row that is one document needs no mask anyway.
            if len(lengths) > len(positions) and (limit is None or max(lengths) <= limit):
                arguments["attention_mask"] = attention.in_place_of_mask(lengths)
        return arguments

    def loss_sum(self, batch: dict[str, Tensor], *, scale: float, chunk: int) -> Tensor:
        """`scale` × the summed cross-entropy over the labelled positions of a batch, in fp32."""
        if self.fused_head:
            hidden = self.hidden_states(batch["input_ids"], batch["positions"])
            head = self.network.get_output_embeddings()
            return linear_cross_entropy(hidden, head.weight, batch["labels"], bias=head.bias, scale=scale, chunk=chunk)
        logits = self.logits(batch["input_ids"], batch["positions"])
        return cross_entropy_of_logits(logits, batch["labels"], scale=scale)

    @torch.no_grad()
    def sample_labels(self, batch: dict[str, Tensor], *, chunk: int) -> Tensor:
        """The labels of a batch, each replaced by a token drawn from the model's own prediction there."""
        if self.fused_head:
            hidden = self.hidden_states(batch["input_ids"], batch["positions"])
            head = self.network.get_output_embeddings()
            return sample_targets(hidden, head.weight, batch["labels"], bias=head.bias, chunk=chunk)
        logits = self.logits(batch["input_ids"], batch["positions"])
        drawn = torch.multinomial(logits.flatten(0, -2).float().softmax(-1), 1).view_as(batch["labels"])
        return torch.where(batch["labels"] == IGNORED, batch["labels"], drawn)


def load_model(
    section: ModelSection, tokenizer: PreTrainedTokenizerBase, *, row_length: int, seed: int
) -> LanguageModel:
    """Build or load the model of a recipe, in fp32, on CPU, ready for probing and training.

    Raises UserError where it does not exist, can't be fetched, or is of a kind that can't be loaded.
    """
    source = resolve_source(section.name)
    if source.kind == "architecture":
        network = _build(section, tokenizer, row_length=row_length, seed=seed)
    else:
        network = load_network(source, revision=section.revision)
    return wrap(network, source)


def wrap(network: PreTrainedModel, source: ModelSource) -> LanguageModel:
    """Find out what the engine must know of a loaded model: its head, and whether it takes positions."""
    parameters = inspect.signature(network.base_model.forward).parameters
    model = LanguageModel(network=network, source=source, takes_positions="position_ids" in parameters)
    model.fused_head = head_is_plain(model)
    model.fingerprint = weights_fingerprint(network)
    return model


def _build(section: ModelSection, tokenizer: PreTrainedTokenizerBase, *, row_length: int, seed: int) -> PreTrainedModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    architecture = ARCHITECTURES[section.name]
    sizes = architecture.config(section)
    sizes["max_position_embeddings"] = max(sizes["max_position_embeddings"], row_length)
    config = AutoConfig.for_model(
        architecture.model_type,
        **sizes,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def quiet_libraries() -> None:
    """Turn off progress bars and deprecation notes of transformers: a worker reports progress as events."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    # Deprecations between peft and transformers are theirs to mend, not a reader's of a chat or a log.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def load_network(source: ModelSource, *, revision: str | None = None) -> PreTrainedModel:
    """Load an existing model in fp32, in training mode off. Raises UserError when that fails."""
    if source.gguf_file is not None:
        return _load_gguf(source)
    _require_language_model(source)
    options: dict[str, Any] = {"use_safetensors": True}
    if source.kind == "hub" and revision is not None:
        options["revision"] = revision
    return _from_pretrained(source, source.location, options)


def _require_language_model(source: ModelSource) -> None:
    """Raise UserError for a folder whose model scores text: transformers would give it a random head of words."""
    if source.path is None:
        return
    config = json.loads((source.path / "config.json").read_text(encoding="utf-8"))
    if any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or ()):
        raise UserError(
            f"{source.name} is a reward model, which scores answers and writes none",
            hint="its scores: transformers.AutoModelForSequenceClassification.from_pretrained(FOLDER)",
        )


def _from_pretrained(source: ModelSource, location: str, options: dict[str, Any]) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32, trust_remote_code=False, **options)
    except OSError as error:
        raise _unavailable(source, error) from error
    except (ValueError, KeyError, NotImplementedError) as error:
        raise UserError(f"model {source.name!r} can't be loaded: {_first_line(error)}") from error


def _load_gguf(source: ModelSource) -> PreTrainedModel:
    """A GGUF model in fp32.

    Its conversion takes many times as long as reading safetensors, so the result is kept in the
    user's cache under the file's SHA-256, where it is small enough.
    """
    import transformers

    assert source.path is not None, "a GGUF source has a path"
    try:
        with source.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unavailable(source, error) from error
    cached = cache_root() / "models" / f"{digest[:32]}-{transformers.__version__}"
    if cached.is_dir():
        return _from_pretrained(source, str(cached), {"use_safetensors": True})
    network = _plain(_from_pretrained(source, source.location, {"gguf_file": source.gguf_file}))
    if sum(parameter.numel() for parameter in network.parameters()) * 4 <= _CACHED_MODEL_BYTES:
        store_in_cache(cached, network.save_pretrained)
    return network


def _plain(network: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that knows nothing of GGUF, so that it saves like any other."""
    from transformers import AutoModelForCausalLM

    config = network.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(network.state_dict(), assign=True)
    plain.tie_weights()
    for name, buffer in network.named_buffers():
        owner, _, leaf = name.rpartition(".")
        plain.get_submodule(owner)._buffers[leaf] = buffer
    plain.generation_config = network.generation_config
    return plain.eval()


def _unavailable(source: ModelSource, error: OSError) -> UserError:
    if source.kind == "hub":
        return UserError(
            f"hub model {source.name!r} can't be fetched and is not in the local cache: {_first_line(error)}",
            hint=f"on a machine with internet, type: hf download {source.name} --local-dir FOLDER; "
            "then give that folder as model.name. Only safetensors weights are read",
        )
    return UserError(
        f"model {source.name!r} can't be loaded: {_first_line(error)}", hint=f"looked in {source.location}"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def apply_lora(
    model: LanguageModel,
    section: AdapterSection,
    *,
    seed: int,
    revision: str | None = None,
    task: str = "CAUSAL_LM",
) -> LanguageModel:
    """Freeze the model and add LoRA layers to it, in place; returns the same model.

    task: what PEFT records that the model does; of "SEQ_CLS" the output head is trained whole.
    Raises UserError when no layer has one of the names in target_modules.
    """
    from peft import LoraConfig, get_peft_model

    targets = section.target_modules
    config = LoraConfig(
        use_dora=section.use_dora,
        use_rslora=section.use_rslora,
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        target_modules=targets,
        task_type=task,
        revision=revision,
    )
    torch.manual_seed(seed)
    try:
        model.adapter = get_peft_model(model.network, config)
    except ValueError as error:
        names = sorted(
            {name.rpartition(".")[2] for name, layer in model.network.named_modules() if isinstance(layer, nn.Linear)}
        )
        raise UserError(
            f"adapter.target_modules {targets!r}: {_first_line(error)}", hint=f"linear layers: {', '.join(names)}"
        ) from error
    model.adapter.peft_config["default"].base_model_name_or_path = model.source.name
    # An adapter on the output head is no plain product any more.
    model.fused_head = model.fused_head and type(model.network.get_output_embeddings()) is nn.Linear
    return model


def save_model(
    model: LanguageModel, tokenizer: PreTrainedTokenizerBase, folder: Path, weights: Mapping[str, Tensor]
) -> None:
    """Write weights, configuration and tokenizer into `folder`, as transformers or PEFT reads them.

    weights: of `model.network`, by their names in its state; with an adapter the trained ones will do.

    Without an adapter the folder loads with `AutoModelForCausalLM.from_pretrained`; with one it holds
    the adapter alone and records its base model.
    """
    if model.adapter is None:
        generation = model.network.generation_config
        if generation is not None and tokenizer.eos_token_id is not None:
            generation.eos_token_id = stop_tokens(model.network, tokenizer)
        model.network.save_pretrained(folder, state_dict=dict(weights))
    else:
        save_adapter(model, folder, weights)
    tokenizer.save_pretrained(folder)


def save_adapter(model: LanguageModel, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a model's adapter into `folder` as PEFT reads it, the same bytes from every process.

    weights: at least the trained ones of `model.network`, by their names in its state.
    """
    assert model.adapter is not None, "the model has no adapter"
    # PEFT wraps the network twice and names what lies below accordingly.
    state = {f"base_model.model.{name}": value for name, value in weights.items()}
    model.adapter.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
    # PEFT adds a model card of empty headings; the manifest says what this is.
    (folder / "README.md").unlink(missing_ok=True)
    # PEFT keeps target modules as a set, whose order changes from process to process.
    config = folder / "adapter_config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    if isinstance(values["target_modules"], list):
        values["target_modules"].sort()
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    write_base(folder, model.source.name, model.fingerprint)


def stop_tokens(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that end an answer: the model's own and the tokenizer's end of sequence."""
    generation = network.generation_config
    own = generation.eos_token_id if generation is not None else None
    ids = [own] if isinstance(own, int) else list(own or [])
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return sorted(set(ids))


def restore_weights(model: LanguageModel, checkpoint: Path) -> None:
    """Put a checkpoint's weights into the model it was saved from, in place. Raises UserError where it is another."""
    from safetensors.torch import load_file

    if model.adapter is not None:
        from peft import set_peft_model_state_dict

        file = checkpoint / "adapter_model.safetensors"
        if not file.is_file():
            raise UserError(f"checkpoint {checkpoint} holds no adapter", hint="it was saved without adapter.*")
        set_peft_model_state_dict(model.adapter, load_file(file))
        return
    saved = load_network(ModelSource(kind="folder", name=str(checkpoint), location=str(checkpoint)))
    model.network.load_state_dict(saved.state_dict())
