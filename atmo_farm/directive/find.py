"""A handler by the name that somebody typed."""

from __future__ import annotations

import difflib

from atmo_farm.directive.model import Directive, Handler
from atmo_farm.errors import NotFound

MOST_NAMED = 20


def handler_named(directive: Directive, name: str) -> Handler:
    """NotFound with what may have been meant."""
    for handler in directive.handlers:
        if handler.name == name:
            return handler
    names = [handler.name for handler in directive.handlers]
    close = difflib.get_close_matches(name, names, 1)
    meant = f"did you mean {close[0]}?" if close else f"there is {', '.join(names[:MOST_NAMED])}"
    raise NotFound(f"there is no handler {name[:100]!r}; {meant}")
