"""From a YAML file and command-line overrides to a checked `Recipe`, and back."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from depthup.config import Recipe
from depthup.errors import UserError

RECIPE = "recipe.yaml"
"""Keeps the recipe of a run in its directory."""

set_parsing_settings(docstring_parse_attribute_docstrings=True)

EXTENDS = "extends"
"""The key by which a recipe names another one that it starts from."""


def recipe_parser(prog: str = "depthup train RECIPE", **kwargs: Any) -> ArgumentParser:
    """A parser with one `--section.key` option per field of `Recipe`."""
    parser = ArgumentParser(prog=prog, exit_on_error=False, add_help=False, **kwargs)
    parser.add_class_arguments(Recipe, as_group=False)
    return parser


@functools.cache
def _parser() -> ArgumentParser:
    """Made once: reading the fields' docstrings takes longer than all that it parses."""
    return recipe_parser()


def load_recipe(path: Union[str, Path, None] = None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply overrides such as `["--train.max_steps", "100"]` or `["--method=full"]`.

    Without `path` the defaults are taken. Files in `configs` and `extends` are relative to the recipe that names them.
    Raises UserError naming the file or option and, for an unknown key, the nearest known one.
    """
    parser = _parser()
    values: dict[str, Any] = {}
    if path is not None:
        values = _read_extended(Path(path))
    try:
        config = parser.parse_object(values) if values else parser.get_defaults()
        config = parser.parse_args(_known_options(overrides), namespace=config)
        recipe = Recipe(**parser.instantiate(config).as_dict())
    except (ArgumentError, ValueError, TypeError) as error:
        raise UserError(one_line(error, str(path) if path is not None else "recipe")) from error
    return recipe


def checked(recipe: Recipe) -> Recipe:
    """A recipe made in Python, held to what a YAML recipe is: types, choices, ranges. Raises UserError.

    Sections may be mappings of some of their keys; paths may be `Path`.
    """
    values = _plain(dataclasses.asdict(recipe))
    _check_keys(values, Recipe, "recipe")
    try:
        return Recipe(**_parser().instantiate(_parser().parse_object(values)).as_dict())
    except (ArgumentError, ValueError, TypeError) as error:
        raise UserError(one_line(error, "recipe")) from error


def _plain(value: Any) -> Any:
    """As YAML would give it."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every value shown."""
    return yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False, allow_unicode=True)


def known_keys(cls: Any = Recipe, prefix: str = "") -> list[str]:
    """All keys of a recipe, dotted."""
    keys = []
    for field in dataclasses.fields(cls):
        keys.append(prefix + field.name)
        if dataclasses.is_dataclass(field.default_factory):
            keys += known_keys(field.default_factory, f"{prefix}{field.name}.")
    return keys


def nearest(key: str) -> str:
    """A hint that names the known key most like `key`."""
    section, _, leaf = key.rpartition(".")
    close: list[str] = []
    for known in ([k for k in known_keys() if k.startswith(f"{section}.")], known_keys()):
        leaves = {k.rpartition(".")[2]: k for k in known}
        close = close or [leaves[k] for k in difflib.get_close_matches(leaf, leaves, 1, 0.65)]
    return f"; did you mean {close[0]}?" if close else "; `depthup train RECIPE --print_config` shows all keys"


def _read_extended(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a recipe, over those of the recipe that it extends."""
    if path.resolve() in extended_by:
        raise UserError(f"{path}: extends itself; remove one `{EXTENDS}`")
    values = _read_yaml(path)
    parent = values.pop(EXTENDS, None)
    _check_keys(values, Recipe, str(path))
    if isinstance(files := values.get("configs"), dict):
        values["configs"] = {name: str((path.parent / str(file)).resolve()) for name, file in files.items()}
    if parent is None:
        return values
    return _over(_read_extended(path.parent / str(parent), (*extended_by, path.resolve())), values)


def _over(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` with the keys of `new` in place of its own, section by section."""
    shared = [key for key in old if isinstance(old[key], dict) and isinstance(new.get(key), dict)]
    return {**old, **new, **{key: _over(old[key], new[key]) for key in shared}}


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would keep the last in silence."""

    def keys_once(self, node: yaml.MappingNode) -> Any:
        keys: list[Any] = []
        for key, _ in node.value:
            if key.value in keys:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is there twice; keep one", problem_mark=key.start_mark)
            keys.append(key.value)
        return self.construct_yaml_map(node)


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.keys_once)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such recipe") from error
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: a recipe is a YAML mapping of keys to values")
    return values


def _check_keys(values: dict[str, Any], cls: Any, where: str, prefix: str = "") -> None:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in fields:
            raise UserError(f"{where}: unknown key {prefix}{key}{nearest(f'{prefix}{key}')}")
        section = fields[key].default_factory
        if dataclasses.is_dataclass(section):
            if not isinstance(value, dict):
                raise UserError(f"{where}: {prefix}{key} is a section and needs keys of its own")
            _check_keys(value, section, where, f"{prefix}{key}.")


def hyphenless(arguments: Sequence[str]) -> list[str]:
    """Option names with underscores, however they were written."""
    result = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        result.append(name.replace("-", "_").replace("__", "--", 1) + equals + value if name[:2] == "--" else argument)
    return result


def _known_options(arguments: Sequence[str]) -> list[str]:
    """Overrides, checked: an unknown one is refused with the nearest known one."""
    arguments, known = hyphenless(arguments), known_keys()
    for argument in arguments:
        name = argument[2:].partition("=")[0]
        if argument.startswith("--") and name not in known:
            raise UserError(f"--{name}: unknown option{nearest(name)}")
    return arguments


def one_line(error: Exception, where: str) -> str:
    """jsonargparse's message on one line, from the key on."""
    text = " ".join(str(error).split())
    match = re.search(r'(?:Parser|Option|argument) (?:key )?"?([\w.]+)"?:? (.*)', text)
    return f"{where}: {match.group(1)}: {match.group(2)}" if match else f"{where}: {text}"


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ."""
    found: list[str] = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(prefix + key)
    return found
