"""The wheel and the sdist build, hold the same, and run where nothing but what they depend on is installed.

`python tests/package.py`: dependencies are not downloaded again, but linked from this environment, and only those that
`pip install depthup` would bring, so that a forgotten one is missed.
"""

from __future__ import annotations

import email
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).resolve().parents[1]
COMMANDS = (
    "doctor",
    "train small/recipe.yaml",
    "evaluate small/run --asr small/audio/manifest.jsonl",
    "transcribe small/run small/audio/0.flac",
)
# In one process, which imports torch once.
RUN = """
import pathlib, sys
from depthup.cli import main
sys.path.append(sys.argv[1])
import small_run
small_run.save_recipe(pathlib.Path("small"))
sys.exit(max(main(command.split()) for command in sys.argv[2:]))
"""


def of_wheel(wheel: Path) -> list[str]:
    """What a wheel says that it depends on."""
    with zipfile.ZipFile(wheel) as packed:
        (name,) = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(packed.read(name)).get_all("Requires-Dist") or []


def needed(requirements: list[str], extras: frozenset[str] = frozenset()) -> set[tuple[str, frozenset[str]]]:
    """The distributions that requirements bring, and theirs, each with its extras."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [(Requirement(line), extras) for line in requirements]
    while waiting:
        requirement, wanted = waiting.pop()
        key = requirement.name.lower(), frozenset(requirement.extras)
        applies = requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in (*wanted, ""))
        if applies and key not in found:
            found.add(key)
            theirs = importlib.metadata.requires(requirement.name) or []
            waiting += [(Requirement(line), key[1]) for line in theirs]
    return found


def link_dependencies(wheel: Path, site: Path) -> int:
    """Link what a wheel depends on, and nothing else, into an environment; returns how many distributions."""
    names = {name for name, _ in needed(of_wheel(wheel))}
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            target = Path(str(distribution.locate_file(top)))
            if target.exists() and not (site / top).exists():
                (site / top).symlink_to(target)
    return len(names)


def contents(wheel: Path) -> dict[str, int]:
    """Checksum of each file."""
    with zipfile.ZipFile(wheel) as packed:
        return {entry.filename: entry.CRC for entry in packed.infolist() if not entry.filename.endswith("RECORD")}


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(work / "dist")]
        subprocess.run(build, cwd=HERE, check=True, stdout=subprocess.DEVNULL)
        (wheel,), (sdist,) = (work / "dist").glob("*.whl"), (work / "dist").glob("*.tar.gz")
        pip = [sys.executable, "-m", "pip", "-q"]
        again = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(work / "again"), str(sdist)]
        subprocess.run(again, check=True)
        (of_sdist,) = (work / "again").glob("*.whl")
        if contents(of_sdist) != contents(wheel):
            different = sorted(set(contents(of_sdist).items()) ^ set(contents(wheel).items()))
            raise SystemExit(f"the sdist makes another wheel: {different[:5]}")

        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(work / "clean")], check=True)
        (site,) = (work / "clean").glob("lib/python*/site-packages")
        linked = link_dependencies(wheel, site)
        clean = ["--python", str(work / "clean/bin/python"), "install", "--no-deps", "--no-index", str(wheel)]
        subprocess.run([*pip, *clean], check=True)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"PATH": f"{work / 'clean/bin'}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
        for command in (["depthup", "--help"], ["python", "-c", RUN, str(HERE / "tests"), *COMMANDS]):
            done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        print(f"{wheel.name} and {sdist.name}: built, the same inside, and run with {linked} dependencies")


if __name__ == "__main__":
    main()
