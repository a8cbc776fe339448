"""What is wrong with an option is said in one line, in the words of the command that ran."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import save_recordings

from depthup import files
from depthup.cli import main
from depthup.config import AugmentConfig, DataConfig, TrainConfig
from depthup.errors import UserError
from depthup.model.packaged import fetch_base


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluate", "x", "--asr", "y", "--limit", "-1"], "evaluate: argument --limit: must be at least 1, not -1"),
        (["evaluate", "x", "--asr", "y", "--limit", "many"], "evaluate: argument --limit: invalid int value: 'many'"),
        (["transcribe", "x", "y", "--num-beams", "0"], "transcribe: argument --num-beams: must be at least 1, not 0"),
        (
            ["transcribe", "x", "y", "--batch-seconds", "nan"],
            "--batch-seconds: must be more than 0.0, not nan",
        ),
        (["data", "x", "--output", "y", "--shard-clips", "0"], "data: argument --shard-clips: must be at least 1"),
        (["data", "x", "--output", "y", "--channel", "up"], "data: argument --channel: invalid choice: 'up'"),
        (["transcribe", "x", "y", "--loud"], "unrecognized arguments: --loud; `depthup transcribe --help` shows all"),
        (["serve", "x", "--port", "99999"], "serve: --port is at most 65535, not 99999"),
        (["serve", "x", "--max-request-seconds", "nan"], "serve: --max-request-seconds is a number above 0"),
        (["serve", "x", "--batch-seconds", "inf"], "serve: --batch-seconds is 0 or more"),
        (["sweep", "x", "--jobs", "0"], "sweep: argument --jobs: must be at least 1, not 0"),
    ],
)
def test_a_wrong_option(words: list[str], says: str, capsys):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("depthup: ") and says in line


@pytest.mark.parametrize(
    ("section", "values", "says"),
    [
        (DataConfig, {"num_workers": -1}, "data.num_workers must be at least 0, not -1"),
        (DataConfig, {"max_batch_clips": 0}, "data.max_batch_clips must be at least 1, not 0"),
        (DataConfig, {"min_duration": -0.5}, "data.min_duration must be at least 0, not -0.5"),
        (AugmentConfig, {"noise_prob": 1.5}, "augment.noise_prob must lie between 0 and 1"),
        (AugmentConfig, {"time_masks": -1}, "augment.time_masks must be at least 0, not -1"),
        (TrainConfig, {"learning_rate": -1e-3}, "train.learning_rate must be at least 0, not -0.001"),
        (TrainConfig, {"save_steps": 0}, "train.save_steps must be at least 1, not 0"),
    ],
)
def test_keys_of_a_recipe_have_ranges(section: type, values: dict, says: str):
    with pytest.raises(ValueError, match=says):
        section(**values)


def test_errors_name_options_where_the_command_has_options(tmp_path: Path, capsys):
    manifest = save_recordings(tmp_path, 1)
    manifest.write_text(manifest.read_text().replace('"text"', '"said"'))
    assert main(["data", str(manifest), "--output", str(tmp_path / "out")]) == 2
    assert "no field `text`; add the transcript, or name its field with --text-field" in capsys.readouterr().err


def test_output_that_nobody_reads_to_its_end_is_no_error(tmp_path: Path):
    script = "import sys; from depthup.cli import main; sys.exit(main(['train', '--help']))"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # type: ignore[union-attr]
    assert process.stderr.read() == b"" and process.wait() == 0  # type: ignore[union-attr]


def test_a_place_that_cannot_be_written_to_names_the_way_out(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=f"^{tmp_path}/file: cannot be written to .*set DEPTHUP_CACHE to another place$"
    ):
        fetch_base(tmp_path / "file" / "SmolLM2")
    with pytest.raises(UserError, match="choose another directory$"), files.made(tmp_path / "file" / "report"):
        pass


def test_two_writers_do_not_share_a_directory_of_shards(tmp_path: Path, capsys):
    manifest = save_recordings(tmp_path / "audio", 3)
    (tmp_path / "out").mkdir()
    words = ["data", str(manifest), "--output", str(tmp_path / "out"), "--num-workers", "0"]
    with files.locked(tmp_path / "out"):
        assert main(words) == 2
    assert "out: another process is at work in it" in capsys.readouterr().err
    assert main(words) == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["clips"] == 3
    assert main([*words, "--channel", "left"]) == 2
    assert "holds shards made with other channel" in capsys.readouterr().err
