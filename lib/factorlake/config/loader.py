"""Settings from layers: conf files in order, then FACTORLAKE__ variables, then --set; later layers win."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from factorlake.config.settings import Settings
from factorlake.errors import ConfigError

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
ENVIRONMENT_PREFIX = "FACTORLAKE__"
MAX_CONF_BYTES = 1 << 20


def load_settings(
    paths: Iterable[str | Path] = (),
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings of the layers laid over each other.

    Parameters
    ----------
    paths : YAML files; a later file's keys win, mappings are merged, lists are replaced.
    overrides : ``section.key=value`` texts, the value read as YAML.
    environment : variables (default: the process's); FACTORLAKE__TRAIN__RANK=64 sets train.rank, and
        ``${NAME:-default}`` in any text of a conf file is replaced.

    Raises
    ------
    ConfigError : a file is missing or no mapping, a name is unknown (the nearest known one is told), a value is
        out of its range, a variable without default is not set.
    """
    environment = os.environ if environment is None else environment
    merged: dict[str, Any] = {}
    for path in paths:
        merged = _merge(merged, _expand(_read(Path(path)), environment, str(path)))
    for name in sorted(environment):
        if name.startswith(ENVIRONMENT_PREFIX):
            keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            merged = _merge(merged, _nested(keys, _parse(environment[name], name)))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set wants key=value, got {override!r}")
        merged = _merge(merged, _nested(key.strip().split("."), _parse(value, key.strip())))
    return build(merged)


def build(values: dict[str, Any]) -> Settings:
    """Return checked settings, or raise a ConfigError that names the setting and the way out."""
    _refuse_nul(values, "")
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item) for item in error.errors())) from None


def _refuse_nul(value: Any, name: str) -> None:
    """Raise where a text holds a NUL: in a path it is where some of those who read it stop."""
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"setting {name!r} holds a NUL character")
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        _refuse_nul(item, f"{name}.{key}" if name else str(key))


def conf_folder(paths: Iterable[str | Path]) -> str:
    """Return the conf folder that the given files lie in (the one that holds base/, dev/, expectations/), else
    ./conf."""
    for path in paths:
        for parent in Path(path).resolve().parents:
            if (parent / "expectations").is_dir():
                return str(parent)
    return str(Path("conf").resolve())


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONF_BYTES:
            raise ConfigError(f"conf file {path} is larger than {MAX_CONF_BYTES} bytes")
        values = read_yaml(path.read_text(encoding="utf-8"), f"conf file {path}")
    except OSError as error:
        raise ConfigError(f"conf file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"conf file {path} is no UTF-8 text: {error.reason} at byte {error.start}") from None
    except ValueError:
        # A NUL, which no path has.
        raise ConfigError(f"conf file {str(path)!r} is no path") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"conf file {path} must hold a mapping of settings")
    return values


def read_yaml(text: str, what: str) -> Any:
    """Return what a YAML text holds: plain values, lists and mappings alone. ``what`` names it in errors.

    Raises
    ------
    ConfigError : it is no YAML, or has a key given twice, a tag of its own, an alias, or too many levels. Its line is
        told and not what stands there, which may be a secret.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        at = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ConfigError(f"{what} is no valid YAML{at}: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        # Of a date that is none the constructor raises a ValueError.
        raise ConfigError(f"{what} is no valid YAML: {type(error).__name__}") from None
    except RecursionError:
        raise ConfigError(f"{what} is no valid YAML: it has too many levels") from None


class _StrictLoader(yaml.SafeLoader):
    """safe_load that also refuses a key given twice, where plain YAML silently takes the last, and aliases: a few
    hundred bytes of them stand for more than memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"the alias *{event.anchor} is not taken", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _parse(text: str, where: str) -> Any:
    return read_yaml(text, f"the value of {where!r}")


def _expand(value: Any, environment: Mapping[str, str], where: str) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, environment, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, environment, where) for item in value]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        found = environment.get(match[1], match[2])
        if found is None:
            raise ConfigError(f"{where} uses ${{{match[1]}}}, which is not set")
        return found

    return VARIABLE.sub(replacement, value)


def _nested(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return value


def _merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _explain(error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    name = ".".join(location)
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], _known_names(location[:-1]), n=1, cutoff=0.5)
        if near:
            return f"unknown setting {name!r}; did you mean {'.'.join([*location[:-1], near[0]])!r}?"
        known = ", ".join(_known_names(location[:-1]))
        return f"unknown setting {name!r}; known here are {known}"
    return f"setting {name!r}: {error['msg'].removeprefix('Value error, ')}"


def _known_names(section: list[str]) -> list[str]:
    model: type[BaseModel] | None = Settings
    for part in section:
        if model is None or part.isdigit():
            continue
        field = {info.alias or key: info for key, info in model.model_fields.items()}.get(part)
        model = _section_of(field.annotation) if field else None
    return [info.alias or key for key, info in model.model_fields.items()] if model else []


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is not None:
        return next((found for arg in get_args(annotation) if (found := _section_of(arg))), None)
    return None
