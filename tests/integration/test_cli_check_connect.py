"""`atmo-farm check --connect` against real servers."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg2
import pytest

from tests.integration.test_cli_check import atmo_farm, project
from tests.servers.nats import NatsServer
from tests.servers.postgresql import PostgresServer
from tests.servers.process import free_port
from tests.servers.redis import RedisServer

__all__ = ["project"]

QUERIES = """\
queries:
  - name: good
    query: SELECT id FROM check_connect WHERE id = $1 AND name = $2
  - name: table
    query: SELECT id FROM no_such_table
  - name: column
    query: INSERT INTO check_connect (id, nme) VALUES (?, ?)
  - name: syntax
    query: SELECT FROM WHERE
"""


@pytest.fixture
def write(project: Path, nats_server: NatsServer, postgresql: PostgresServer, redis_server: RedisServer) -> Path:
    """The project with connections to all servers, and a table."""
    connection = psycopg2.connect(postgresql.url())
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS check_connect (id integer, name text)")
    connection.close()
    connections = (
        f"  database: {{type: postgresql, connectionString: env(CHECK_DB)}}\n"
        f"  redis: {{serverAddress: {redis_server.address}}}\n"
    )
    directive = (project / "Directive.yaml").read_text()
    head = f"    serverAddress: {nats_server.url}\n"
    directive = directive.replace("    serverAddress: env(CHECK_NATS_URL)\n", head + connections)
    (project / "Directive.yaml").write_text(directive)
    (project / "Queries.yaml").write_text(QUERIES)
    return project


def test_every_query_is_prepared(write: Path, postgresql: PostgresServer) -> None:
    """A wrong table, column or syntax is an error with the query's place and the server's words."""
    done = atmo_farm("check", "--connect", "--json", cwd=write, CHECK_DB=postgresql.url())
    assert done.returncode == 1, done.stderr
    errors = [problem for problem in json.loads(done.stdout)["problems"] if problem["severity"] == "error"]
    assert [(Path(error["file"]).name, error["line"]) for error in errors] == [
        ("Queries.yaml", 4),
        ("Queries.yaml", 6),
        ("Queries.yaml", 8),
    ]
    table, column, syntax = (error["message"] for error in errors)
    assert "no_such_table" in table and "nme" in column and "syntax" in syntax
    (write / "Queries.yaml").write_text("\n".join(QUERIES.splitlines()[:3]) + "\n")
    done = atmo_farm("check", "--connect", cwd=write, CHECK_DB=postgresql.url())
    assert done.returncode == 0, done.stdout


def test_what_is_out_of_reach_is_named(write: Path) -> None:
    """Each connection by its line, without the secret."""
    closed = f"postgresql://trusted:hunter2@127.0.0.1:{free_port()}/x"
    directive = (write / "Directive.yaml").read_text()
    (write / "Directive.yaml").write_text(
        directive.replace("redis: {serverAddress: ", f"redis: {{serverAddress: 127.0.0.1:{free_port()}, password: ")
    )
    done = atmo_farm("check", "--connect", cwd=write, CHECK_DB=closed)
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if "is out of reach" in line]
    assert len(lines) == 2, done.stdout
    assert "Directive.yaml:7:" in lines[0] and "connections.database" in lines[0] and "refused" in lines[0]
    assert "connections.redis" in lines[1]
    assert "hunter2" not in done.stdout + done.stderr
