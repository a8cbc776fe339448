"""Checks of settings, whose message names the setting and says what it may be."""

from __future__ import annotations


def require(condition: bool, message: str) -> None:
    """Raises ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def at_least(section: object, name: str, **bounds: float) -> None:
    """Raises ValueError for a field of the section `name` that is below its bound."""
    for key, bound in bounds.items():
        value = getattr(section, key)
        if isinstance(value, (int, float)):  # of another type it is refused when the recipe is checked
            require(value >= bound, f"{name}.{key} must be at least {bound}, not {value}")
