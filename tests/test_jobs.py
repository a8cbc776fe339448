"""The example jobs parse, and what they name exists."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser

from depthup import cli
from depthup.recipe import known_keys

ROOT = Path(__file__).parents[1]
SLURM, SKY = ROOT / "recipes" / "jobs" / "slurm.sh", ROOT / "recipes" / "jobs" / "skypilot.yaml"
VALUES = {"ENGINE": "--multi_gpu", "RECIPE": "recipes/paper/smollm2-1.7b/e_branchformer.yaml"}


def commands(path: Path) -> list[str]:
    """Shell scripts: the job's own, and those it hands to another shell."""
    script = path.read_text()
    if path.suffix == ".yaml":
        job = yaml.safe_load(script)
        script = f"{job['setup']}\n{job['run']}"
    return [script, *re.findall(r"bash -c '(.*?)'", script, re.DOTALL)]


@pytest.mark.parametrize("path", [SLURM, SKY], ids=lambda path: path.name)
def test_scripts_are_bash_and_name_paths_that_exist(path):
    for script in commands(path):
        assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""
    named = re.findall(r"recipes/[\w./-]+\.\w+", path.read_text())
    assert named and all((ROOT / name).is_file() for name in named)


@pytest.mark.parametrize("path", [SLURM, SKY], ids=lambda path: path.name)
def test_accelerate_knows_every_option_and_depthup_every_key(path):
    launch = next(line for line in commands(path)[-1].replace("\\\n", " ").splitlines() if "accelerate launch" in line)
    for name, value in VALUES.items():
        launch = launch.replace(f'"${name}"', value).replace(f"${name}", value)
    launch = re.sub(r'"\$\(\(.*?\)\)"|"\$[A-Z_]*(RANK|NODEID|NODES|NNODES)"', "2", launch)
    words = shlex.split(launch.partition("accelerate launch")[2])
    options = launch_command_parser().parse_args(words)
    assert options.module and options.training_script == "depthup.cli"
    assert options.num_processes == options.num_machines == options.machine_rank == 2
    command, *rest = options.training_script_args
    assert command in cli.COMMANDS
    assert {word[2:] for word in rest if word.startswith("--")} <= set(known_keys())
