"""Settings as they may be shown: secrets and the ids of users are left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from factorlake.texts import SECRETS

MASK = "•••"
SECRET_NAME = re.compile(SECRETS)
URL_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")
URL_SIGNATURE = re.compile(r"(?i)([?&;](?:sig|signature|token|key|password|x-amz-[a-z-]+|access_?key|secret)=)[^&;\s]+")
USER_RULE_FIELDS = ("values", "pattern", "condition", "min", "max", "above")


def masked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the resolved settings that may stand in a report, a log or a table.

    Left out are values under a name that reads like a secret, logins and signatures inside URLs, and what a
    row rule holds about the user column: a deny list of users is a list of user ids.

    Parameters
    ----------
    settings : nested plain data, ``Settings.model_dump(mode="json", by_alias=True)``. Empty gives {}.
    """
    columns = settings.get("events", {}).get("columns", {})
    named = columns.get("user_id", "user_id") if isinstance(columns, Mapping) else "user_id"
    user_columns = {"user_id", *(map(str, named) if isinstance(named, list | tuple) else [str(named)])}
    return {key: _masked(key, value, user_columns) for key, value in settings.items()}


def _masked(name: str, value: Any, user_columns: set[str]) -> Any:
    if value is not None and not isinstance(value, bool) and SECRET_NAME.search(name):
        return MASK
    if isinstance(value, Mapping):
        hidden = USER_RULE_FIELDS if _is_rule_about_users(value, user_columns) else ()
        return {
            str(key): MASK if key in hidden and item else _masked(str(key), item, user_columns)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_masked(name, item, user_columns) for item in value]
    if isinstance(value, str):
        return URL_SIGNATURE.sub(rf"\1{MASK}", URL_LOGIN.sub(f"{MASK}@", value))
    return value


def _is_rule_about_users(value: Mapping[str, Any], user_columns: set[str]) -> bool:
    if "type" not in value or "name" not in value:
        return False
    condition = str(value.get("condition") or "")
    return value.get("column") in user_columns or any(column in condition for column in user_columns)
