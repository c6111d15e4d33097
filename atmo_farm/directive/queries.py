"""`queries` of the Directive and of Queries.yaml: from sections to the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from atmo_farm.directive import sql
from atmo_farm.directive.connections import DatabaseConnection
from atmo_farm.directive.model import Query
from atmo_farm.directive.report import Report, shown
from atmo_farm.directive.section import Section


def queries(
    sections: tuple[Section, ...], databases: Mapping[str, DatabaseConnection], names: set[str], report: Report
) -> tuple[Query, ...]:
    """All queries that could be read; `names` are the databases that the file holds, right or wrong."""
    result: dict[str, Query] = {}
    for section in sections:
        query = _query(section, databases, names, report)
        if query is None:
            continue
        if query.name in result:
            other = result[query.name].position
            message = f"the query name {shown(query.name)} is taken; the other is in {other.file}, line {other.line}"
            report.error(section.at("name"), section.key("name"), message)
        else:
            result[query.name] = query
    return tuple(result.values())


def _query(
    section: Section, databases: Mapping[str, DatabaseConnection], names: set[str], report: Report
) -> Query | None:
    name, text = section.text("name"), section.text("query")
    database = section.text("database") or "default"
    if database not in names and section.text("database"):
        near = report.hint(database, names, "there is")
        message = f"`connections.databases` has no {shown(database)}{near}"
        report.error(section.value_at("database"), section.key("database"), message)
    if not name or not text:
        return None
    dialect = databases[database].type if database in databases else "postgresql"
    type_ = cast(sql.QueryType | None, section.get("type", None))
    try:
        if type_ is None and not section.is_written("type"):
            type_ = sql.query_type(text, dialect)
        counted = sql.placeholders(text, dialect).count
    except ValueError as error:
        report.error(section.at("query"), section.key("query"), str(error))
        return None
    given = section.get("varCount", 0)  # Atmo counts where it reads 0, too
    if given not in (0, counted):
        message = f"says {given}, and the query has {_variables(counted)}"
        report.warn(section.at("varCount"), section.key("varCount"), message)
    return Query(
        name=name,
        query=text,
        type=type_ or "select",
        var_count=given or counted,
        database=database,
        position=section.position,
    )


def _variables(count: int) -> str:
    return "1 variable" if count == 1 else f"{count} variables"
