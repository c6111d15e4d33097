"""Fully qualified function names: `identifier#namespace::name@version`; all but the name may be left out."""

from __future__ import annotations

import attrs

DEFAULT_NAMESPACE = "default"


@attrs.frozen
class Fqfn:
    """The parts of a function's name; identifier and version are empty where they were left out."""

    identifier: str
    namespace: str
    name: str
    version: str

    @property
    def key(self) -> str:
        """`namespace::name`."""
        return f"{self.namespace}::{self.name}"

    def __str__(self) -> str:
        return f"{self.identifier}#{self.key}@{self.version}"

    def is_of(self, identifier: str, version: str) -> bool:
        """Whether it can name a function of this application in this version."""
        return self.identifier in ("", identifier) and self.version in ("", version)


def parse(text: str) -> Fqfn:
    """Split at the first `#`, then the first `::`, then the first `@`, as Atmo does; any text has some reading."""
    identifier, has_identifier, rest = text.partition("#")
    if not has_identifier:
        identifier, rest = "", text
    namespace, has_namespace, rest_of_name = rest.partition("::")
    if not has_namespace:
        namespace, rest_of_name = DEFAULT_NAMESPACE, rest
    name, _, version = rest_of_name.partition("@")
    return Fqfn(identifier, namespace, name, version)
