"""Rendered configurations before Axolotl's own validation, also those of machines that are not there: GPUs, nodes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nexa.prepared import cache_root
from nexa.testing.recipes import tiny_recipe
from nexa_axolotl.layout import Layout
from nexa_axolotl.render import expected_inputs, render
from nexa_axolotl.schema import named_plugins, read_schema

PYTHON = os.environ.get("NEXA_AXOLOTL_PYTHON", "")
pytestmark = [
    pytest.mark.skipif(
        not PYTHON,
        reason="needs Axolotl; type: nexa env create axolotl, and set NEXA_AXOLOTL_PYTHON to its interpreter",
    ),
    pytest.mark.soak,
]

_GPUS = {"cluster.gpus_per_node": 2, "training.precision": "bf16"}
_LIGER = "axolotl.integrations.liger.LigerPlugin"
CASES: dict[str, dict[str, Any]] = {
    "CPU": {},
    "packed, held-out rows": {"data.packing": True, "data.validation.fraction": 0.1},
    "LoRA": {"adapter.type": "lora", "adapter.use_rslora": True},
    "QLoRA": {**_GPUS, "adapter.type": "qlora"},
    "DDP on two nodes": {**_GPUS, "cluster.num_nodes": 2},
    "FSDP2": {**_GPUS, "distributed.strategy": "fsdp", "training.activation_checkpointing": True},
    "FSDP2 on two nodes": {
        **_GPUS,
        "cluster.num_nodes": 2,
        "distributed.strategy": "fsdp",
        "distributed.cpu_offload": True,
        "axolotl.fsdp_config": {
            "transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
            "state_dict_type": "SHARDED_STATE_DICT",
        },
    },
    "DeepSpeed": {**_GPUS, "axolotl.deepspeed": {"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}}},
    "8-bit AdamW": {**_GPUS, "optimizer.name": "adamw_8bit", "training.compile": True},
    "Muon, WSD": {**_GPUS, "optimizer.name": "muon", "optimizer.scheduler.name": "wsd"},
    "DPO": {"method": "dpo", "preference.loss_type": "sigmoid", "preference.label_smoothing": 0.1},
    "IPO": {"method": "dpo", "preference.loss_type": "ipo"},
    "KTO": {"method": "kto", "preference.desirable_weight": 1.5},
    "ORPO": {"method": "orpo"},
    "a plugin's keys": {**_GPUS, "axolotl.plugins": [_LIGER], "axolotl.liger_rms_norm": True},
}
_VALIDATE = """
import json, sys
from axolotl.cli.config import prepare_plugins
from axolotl.integrations.base import PluginManager
from axolotl.utils.config import validate_config
from axolotl.utils.dict import DictDefault

machine = {"capabilities": {"bf16": True, "n_gpu": 2, "compute_capability": "sm_90"}}
found = {}
for name, config in json.load(sys.stdin).items():
    PluginManager.get_instance().plugins.clear()
    cfg = DictDefault(config)
    prepare_plugins(cfg)
    try:
        kept = validate_config(cfg, **machine, env_capabilities={"torch_version": "2.13.0"}).to_dict()
    except Exception as error:
        found[name] = [f"{type(error).__name__}: {error}"]
        continue
    places = [((), config, kept)]
    lost = []
    while places:
        place, said, heard = places.pop()
        for key, value in said.items():
            if key not in heard:
                lost.append(".".join((*place, key)))
            elif isinstance(value, dict) and isinstance(heard[key], dict):
                places.append(((*place, key), value, heard[key]))
    found[name] = lost
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The configuration of each case."""
    made = {}
    for name, overrides in CASES.items():
        recipe = tiny_recipe(tmp_path_factory.mktemp("recipe"), {"backend": "axolotl", **overrides})
        layout = Layout(Path("/runs/x"))
        made[name] = render(recipe, layout, expected_inputs(recipe, layout))
    return made


def test_axolotl_takes_every_rendered_key(rendered: dict[str, dict[str, Any]]) -> None:
    """Its validation refuses none of the configurations, and each key of them is still there behind it."""
    done = subprocess.run(
        [PYTHON, "-c", _VALIDATE],
        input=json.dumps(rendered),
        capture_output=True,
        text=True,
        env={**os.environ, "AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {name: [] for name in CASES}


def test_the_schema_that_nexa_reads_takes_them_too(rendered: dict[str, dict[str, Any]]) -> None:
    """What Axolotl takes is no problem to the check before a launch."""
    for name, config in rendered.items():
        schema = read_schema(Path(PYTHON), cache_root(), named_plugins(config))
        assert list(schema.problems(config, section="axolotl")) == [], name
