"""The Directive's `capabilities:` as rules."""

from typing import Any

import pytest

from atmo_farm.capabilities.rules import Rules

ON, OFF = True, False


@pytest.mark.parametrize(
    ("capabilities", "logger", "get_field", "set_field"),
    [
        ({}, ON, ON, ON),
        ({"logger": None, "requestHandler": None}, ON, ON, ON),
        ({"logger": {}, "requestHandler": {}}, ON, ON, ON),
        ({"logger": {"enabled": False}}, OFF, ON, ON),
        ({"logger": {"enabled": True}}, ON, ON, ON),
        ({"requestHandler": {"enabled": False}}, ON, OFF, OFF),
        ({"requestHandler": {"enabled": False, "allowGetField": True, "allowSetField": True}}, ON, OFF, OFF),
        ({"requestHandler": {"allowGetField": False}}, ON, OFF, ON),
        ({"requestHandler": {"enabled": True, "allowSetField": False}}, ON, ON, OFF),
    ],
)
def test_everything_is_on_unless_the_directive_says_otherwise(
    capabilities: dict[str, Any], logger: bool, get_field: bool, set_field: bool
) -> None:
    """`enabled: false` wins over what it holds."""
    rules = Rules.from_directive(capabilities)
    assert (rules.logger, rules.get_field, rules.set_field) == (logger, get_field, set_field)


@pytest.mark.parametrize(
    ("capabilities", "secrets"),
    [
        ({}, None),
        ({"secrets": {}}, None),
        ({"secrets": {"enabled": False, "values": {"A": "a"}}}, None),
        ({"secrets": {"enabled": True}}, {}),
        ({"secrets": {"values": {"A": "a"}}}, {"A": "a"}),
    ],
)
def test_secrets_are_off_unless_the_directive_has_some(capabilities: dict[str, Any], secrets: Any) -> None:
    rules = Rules.from_directive(capabilities)
    assert rules.secrets == secrets
    assert "'a'" not in repr(rules)
