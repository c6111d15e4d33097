"""What a connection's session must be, made so and looked at: the character set, the mode, autocommit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from atmo_farm.datasource.errors import Unreachable
from atmo_farm.datasource.mysql.canceller import SERVER, Server
from atmo_farm.datasource.mysql.failures import DriverFailed
from atmo_farm.datasource.mysql.link import Link
from atmo_farm.datasource.mysql.target import Target

_FACTS = f"""
SELECT @@character_set_client AS client, @@character_set_connection AS connection, @@character_set_results AS results,
@@autocommit AS autocommit, @@sql_mode AS sql_mode, @@max_allowed_packet AS packet, @@time_zone AS zone,
@@sql_select_limit AS row_limit, DATABASE() AS name, {SERVER}
""".encode()
_CIPHER = b"SHOW SESSION STATUS LIKE 'Ssl_cipher'"

_CHARSETS = {"utf8mb4"}
_NO_ESCAPES = "NO_BACKSLASH_ESCAPES"
_PROBE = "\\é"
"""What is quoted differently in other modes and character sets."""

_PROBE_QUOTED = {False: b"'\\\\\xc3\xa9'", True: b"'\\\xc3\xa9'"}
"""By whether the mode has _NO_ESCAPES."""


@attrs.frozen
class Session:
    """An open link, and what its server has said of it."""

    link: Link
    facts: Mapping[str, Any]
    sql_mode: frozenset[str]
    max_packet: float
    """Bytes of a statement that the server does not take any more."""
    server: Server

    def is_quoted_well(self) -> bool:
        """Whether the driver still quotes for the mode and character set of the session, while no statement runs.

        The driver believes the flags that come with every answer, and a server sends wrong ones: after a procedure or
        function that sets a mode of its own, they tell that mode for good, though it has ended.
        """
        try:
            return self.link.literal(_PROBE) == _PROBE_QUOTED[_NO_ESCAPES in self.sql_mode]
        except UnicodeEncodeError:
            return False


async def greet(link: Link, target: Target) -> Session:
    """Set the session up, and see that it is as it must be; Unreachable, DriverFailed."""
    if target.tls == "off":
        link.has_no_tls()
    for text, option in target.greeting:
        try:
            await link.send(text.encode(), False)
        except DriverFailed as error:
            if error.is_lost or not option:
                raise
            number = error.number
        else:
            continue
        raise Unreachable(f"its server refuses the option `{option}` of connectionString ({number})")
    if target.tls != "off" and not (await _row(link, _CIPHER))["Value"]:
        if target.tls != "preferred":
            raise Unreachable("its server has no TLS")
        link.has_no_tls()
    facts = await look(link)
    if not {facts["client"], facts["connection"], facts["results"]} <= _CHARSETS:
        raise Unreachable("the session's character set must be utf8mb4; its server or an option changes it")
    if not facts["autocommit"]:
        raise Unreachable("the session must be in autocommit mode; its server or an option changes it")
    session = Session(
        link=link,
        facts=facts,
        sql_mode=frozenset(facts["sql_mode"].split(",")),
        max_packet=min(target.max_packet, facts["packet"]),
        server=(facts["host"], facts["port"], facts["server"]),
    )
    if not session.is_quoted_well():
        raise Unreachable("its server and the driver do not agree on how texts are quoted")
    return session


async def look(link: Link) -> dict[str, Any]:
    """What the session is; DriverFailed."""
    return await _row(link, _FACTS)


async def _row(link: Link, query: bytes) -> dict[str, Any]:
    (row,) = msgspec.json.decode(await link.send(query, True), type=list[dict[str, Any]])
    return row
