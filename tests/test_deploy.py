"""What ships the server says the same as the server: parsed, since no docker or systemd is needed for that."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"


def options_of_serve() -> set[str]:
    import dataclasses

    from depthup.serve.settings import Settings

    return {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Settings)} | {"--base", "--encoder"}


def test_compose_builds_both_images_from_the_dockerfile_with_arguments_that_it_has():
    found = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    arguments = set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    assert set(found["services"]) == {"depthup", "depthup-gpu"}
    for service in found["services"].values():
        assert (
            DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]
        ).resolve() == DEPLOY / "Dockerfile"
        assert set(service["build"].get("args", {})) <= arguments
        assert service["environment"]["DEPTHUP_API_KEY"].startswith("${DEPTHUP_API_KEY:?")
        named = {volume.partition(":")[0] for volume in service["volumes"]} - {"${CHECKPOINT"}
        assert named == set(found["volumes"])
    gpu = found["services"]["depthup-gpu"]
    assert gpu["profiles"] == ["gpu"] and "cu" in gpu["build"]["args"]["TORCH_INDEX"]


def test_the_dockerfile_copies_what_is_there_and_serves():
    text = (DEPLOY / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (DEPLOY.parent / source).exists(), source
    entry = re.search(r"^ENTRYPOINT (\[.+\])$", text, re.MULTILINE)
    words = yaml.safe_load(entry[1])
    assert words[:2] == ["depthup", "serve"] and {w for w in words if w.startswith("--")} <= options_of_serve()
    torch = re.search(r"^ARG TORCH=(\S+)", text, re.MULTILINE)[1]
    assert f"torch=={torch}" in (DEPLOY.parent / "constraints.txt").read_text().split()
    assert re.search(r"^USER depthup$", text, re.MULTILINE)


def test_the_unit_serves_and_waits_longer_than_a_request_may_take():
    from depthup.serve.settings import Settings

    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read(DEPLOY / "depthup.service")
    words = shlex.split(unit["Service"]["ExecStart"])
    assert words[1] == "serve" and {w for w in words if w.startswith("--")} <= options_of_serve()
    minutes = int(unit["Service"]["TimeoutStopSec"].removesuffix("min"))
    assert 60 * minutes > Settings().max_request_seconds
