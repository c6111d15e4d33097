"""What operators want of a running farm beside its Directive. It ends with the farm."""

from __future__ import annotations

from atmo_farm.directive.model import Handler
from atmo_farm.errors import with_exit_code
from atmo_farm.master.generation import Generation
from atmo_farm.master.role import Role

MOST_WORKERS = 1000
"""As the Directive's `workers`."""

USAGE = 2


class Wishes:
    """Which handlers are paused, and how many workers those have that were scaled."""

    def __init__(self) -> None:
        self.paused: set[str] = set()
        self._scaled: dict[str, tuple[int, int]] = {}
        """What the Directive said then, and what is wanted instead."""

    def is_paused(self, role: Role) -> bool:
        """Whether its workers take no messages."""
        return role.handler is not None and role.name in self.paused

    def scale(self, handler: Handler, count: int) -> None:
        """So many workers, until the Directive says something else than it does now."""
        self._scaled.pop(handler.name, None)
        if count != handler.workers:
            self._scaled[handler.name] = handler.workers, count

    def scaled_from(self, role: Role) -> int:
        """What the Directive says, where that does not hold; else 0."""
        return role.workers if self.workers(role) != role.workers else 0

    def workers(self, role: Role) -> int:
        """How many the role is to have."""
        handler = role.handler
        if handler is None or handler.name not in self._scaled:
            return role.workers
        said, count = self._scaled[handler.name]
        return count if said == role.workers and (count == 1 or not needs_one(handler)) else role.workers

    def keep(self, generation: Generation) -> None:
        """This one is in force now: forget what does not fit it."""
        roles = {role.name: role for role in generation.roles() if role.handler is not None}
        self.paused &= roles.keys()
        self._scaled = {
            name: wish for name, wish in self._scaled.items() if name in roles and self.scaled_from(roles[name])
        }


def check_count(handler: Handler, count: int) -> None:
    """AtmoFarmError unless the handler can have so many workers."""
    if not 1 <= count <= MOST_WORKERS:
        raise with_exit_code(f"{count} workers: a handler has 1 to {MOST_WORKERS}; `pause` stops it", USAGE)
    if count > 1 and needs_one(handler):
        raise with_exit_code(f"handler {handler.name}: on JetStream an order needs one worker", USAGE)


def needs_one(handler: Handler) -> bool:
    """Whether its order allows no second worker."""
    return handler.jetstream is not None and handler.ordering != "none"
