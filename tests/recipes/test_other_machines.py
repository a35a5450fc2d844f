"""Recipes for machines larger than this one: their plans can be read here, and say what is missing."""

from __future__ import annotations

import json

import pytest

from nexa.cli.main import main

COMMANDS = {
    "falcon3-qlora": ["cluster.gpus_per_node"],
    "--config-mode v3 --nodes 4 --gpus-per-node 8 --global-batch 1024": ["cluster.num_nodes", "cluster.gpus_per_node"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_explain_prints_the_plan_and_then_what_is_missing(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", *command.split(), "--explain"]) == 2
    output = capsys.readouterr()
    assert "Plan for" in output.out
    assert "nexa.worker" in output.out
    for path in COMMANDS[command]:
        assert path in output.err
    assert main(["launch", *command.split(), "--explain", "--json"]) == 2
    assert len(json.loads(capsys.readouterr().out)["obstacles"]) == len(COMMANDS[command])
