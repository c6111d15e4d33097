"""The keys of whole files: `Directive.yaml`, `Queries.yaml` and `.runnable.yaml`."""

from __future__ import annotations

from atmo_farm.directive.keys.capabilities import CAPABILITIES
from atmo_farm.directive.keys.connections import AUTHENTICATION, CONNECTIONS, NAME
from atmo_farm.directive.keys.handlers import HANDLER
from atmo_farm.directive.keys.kinds import Choice, Flag, Integer, Text
from atmo_farm.directive.keys.shapes import Key, ListOf, Table
from atmo_farm.directive.keys.steps import SCHEDULE

_NUMBER = r"(0|[1-9]\d*)"
_PRE = r"(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)"
SEMVER = (
    rf"v{_NUMBER}\.{_NUMBER}\.{_NUMBER}"
    rf"(-{_PRE}(\.{_PRE})*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?"
)
IDENTIFIER = r"(?=.{1,128}$)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"
"""Folders, queue groups, durables and subjects of dead letters carry it."""
FUNCTION_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_VERSION = Text("a semantic version with a `v`, like `v1.0.0`", SEMVER)


QUERY = Table(
    "Query",
    "a named SQL query",
    (
        Key("name", Text("a name"), "the name that functions use", True),
        Key("query", Text("SQL", multiline=True), "the SQL; placeholders `$1` or `?`", True),
        Key(
            "type",
            Choice(("select", "insert", "update", "delete")),
            "what it does",
            default="from the SQL's first word",
        ),
        Key("varCount", Integer(0, 65535), "how many variables it takes; 0 as if it were not set", default="counted"),
        Key(
            "database",
            Text("a database's name", NAME),
            "which of `connections.databases`",
            default="`connections.database`",
        ),
    ),
)

QUERIES_FILE = Table("Queries", "Queries.yaml", (Key("queries", ListOf(QUERY), "named SQL queries"),))

RUNNABLE = Table(
    "Runnable",
    "a function of the application (.runnable.yaml)",
    (
        Key(
            "name",
            Text("a function's name of letters, digits, `_`, `-` and `.`", FUNCTION_NAME),
            "its name",
            default="the folder's name",
        ),
        Key(
            "namespace",
            Text("a namespace of letters, digits, `_`, `-` and `.`", FUNCTION_NAME),
            "its namespace",
            default="`default`",
        ),
        Key("lang", Text(), "the language that it is written in"),
        Key("version", Text(), "its own version", default="`appVersion`"),
        Key(
            "interface",
            Choice(("runnable", "wasi-command")),
            "the Runnable API, or a WASI command that reads stdin and writes stdout",
            default="`runnable`",
        ),
        Key("draftVersion", Text(), "read and not used"),
        Key("apiVersion", Text(), "read and not used"),
        Key("fqfn", Text(), "filled in by the build"),
        Key("fqfnUri", Text(), "filled in by the build"),
    ),
)

DIRECTIVE = Table(
    "Directive",
    "Directive.yaml",
    (
        Key(
            "identifier",
            Text("an identifier of letters, digits, `_` and `-`, in parts joined by single dots", IDENTIFIER),
            "the application's name, like `com.example.shop`",
            True,
        ),
        Key("appVersion", _VERSION, "the application's version", True),
        Key("atmoVersion", _VERSION, "the version of Atmo that it was written for", True),
        Key(
            "headless",
            Flag(),
            "serve each function at its own URL and nothing else",
            default="`false`",
            later="headless mode is",
            harmless=(False,),
        ),
        Key("connections", CONNECTIONS, "brokers and data sources"),
        Key("authentication", AUTHENTICATION, "credentials for the functions' HTTP requests"),
        Key("capabilities", CAPABILITIES, "what functions may do", default="everything"),
        Key("handlers", ListOf(HANDLER), "what the application reacts to"),
        Key("schedules", ListOf(SCHEDULE), "what it does by the clock", later="schedules are", harmless=((),)),
        Key(
            "queries",
            ListOf(QUERY),
            "named SQL queries, added to those of Queries.yaml",
        ),
        Key("runnables", ListOf(RUNNABLE), "filled in by the build"),
    ),
)
