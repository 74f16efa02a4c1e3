"""Pages of events: the one query of the SQLite read model that is put together from what is asked.

Every filter has a list of the ids that satisfy it, ascending, in some index. A page walks one list, the
shortest, and holds each event it finds there against the other filters; all walks are keyset walks by
id. Lists are measured first: their entries within the page's bounds are counted up to `COUNT_MAX`, and of
longer ones the sparsest is walked, whose so many entries reach farthest. So a page costs at most about
the length of the shortest list, whatever else is in the store.

Ids carry `received_at_ms`: bounds in time, and the end of retention, are bounds on ids first, and are
checked on each row besides.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import orjson

from atlas.adapters.sqlite_queries import SCOPE, decode_events, event_object
from atlas.adapters.sqlite_schema import A_ROUTE, TERM
from atlas.adapters.sqlite_writes import id_time_prefix
from atlas.core.projection import EventState
from atlas.ports.read_model import EventQuery

#: Entries measured of a list; with so many in reach it is "long". Measuring takes up to 0.2 ms a list.
COUNT_MAX: Final = 1_024
#: Up to so many visible streams each get a walk of their own, merged; beyond, stream by stream is
#: slower than walking past what is invisible.
STREAM_WALKS_MAX: Final = 16

_OBJECT: Final = event_object(":workspace_id", ":environment", "json('[]')")
_JOIN: Final = "CROSS JOIN events AS e ON e.scope = d.scope AND e.id = "


class _List(NamedTuple):
    """Ids that satisfy one filter: `FROM source WHERE where`, ascending by `id`.

    `once` holds for one of several entries of the same id; `check` asks one event.
    """

    source: str
    where: str
    id: str = "d.id"
    check: str = "true"
    once: str = "true"

    @property
    def walk(self) -> str:
        return self.source if self.id == "e.id" else f"{self.source} {_JOIN}{self.id}"


_ALL: Final = _List("events AS e", f"e.scope = {SCOPE}", "e.id")
_BY_STATUS: Final = _List(
    "events AS d INDEXED BY events_by_status",
    f"d.scope = {SCOPE} AND d.status = :status",
    check="e.status = :status",
)


def _term(term: str) -> _List:
    return _List(
        "terms AS d",
        f"d.scope = {SCOPE} AND d.term = {term}",
        check=f"EXISTS (SELECT 1 FROM terms x WHERE x.scope = e.scope AND x.term = {term} AND x.id = e.id)",  # noqa: S608  # parameters stay parameters
    )


def _routes(query: EventQuery) -> _List:
    """Both filters on routes have to hold for one and the same route."""
    filters = [("target", "workflow_id", query.workflow_id), ("status", "route_status", query.route_status)]

    def matches(alias: str) -> str:
        wanted = [f"{alias}.{column} = :{name}" for column, name, value in filters if value is not None]
        return " AND ".join([*wanted, f"{alias}.{A_ROUTE}"])

    index = "routes_by_target" if query.workflow_id is not None else "routes_by_status"
    # An event can have several routes of one status, and is still listed once.
    once = f"""NOT EXISTS (SELECT 1 FROM routes AS y WHERE y.scope = d.scope AND y.event_id = d.event_id
        AND y.position < d.position AND {matches("y")})"""  # noqa: S608  # parameters stay parameters
    return _List(
        f"routes AS d INDEXED BY {index}",
        f"d.scope = {SCOPE} AND {matches('d')}",
        "d.event_id",
        f"EXISTS (SELECT 1 FROM routes x WHERE x.scope = e.scope AND x.event_id = e.id AND {matches('x')})",  # noqa: S608  # parameters stay parameters
        once,
    )


class Page:
    """One query, put into SQL.

    Args:
        query: what is asked; it can see at least one stream.
        timed_ids: whether ids may be relied on to carry `received_at_ms`.
    """

    def __init__(self, query: EventQuery, timed_ids: bool) -> None:
        self._query = query
        self._timed_ids = timed_ids
        workspace_id, environment = query.scope
        self.parameters: dict[str, str | int] = {
            "workspace_id": workspace_id,
            "environment": environment,
            "limit": query.limit,
            "low": self._low(min(query.visible_after_ms.values())),
        }
        self._bounds = self._time_bounds()
        self._filters = list(self._equal())
        self._streams = list(self._visible_streams())

    def _low(self, visible_after_ms: int) -> str:
        low = self._query.after_id or ""
        if not self._timed_ids:
            return low
        from_ms = self._query.received_from_ms
        return max(
            low, id_time_prefix(visible_after_ms if from_ms is None else max(from_ms, visible_after_ms))
        )

    def _time_bounds(self) -> list[str]:
        bounds = []
        if self._query.received_from_ms is not None:
            self.parameters["from_ms"] = self._query.received_from_ms
            bounds.append("e.received_at_ms >= :from_ms")
        if self._query.received_before_ms is not None:
            self.parameters["before_ms"] = self._query.received_before_ms
            bounds.append("e.received_at_ms < :before_ms")
        return bounds

    def _below(self, column: str) -> str:
        if self._query.received_before_ms is None or not self._timed_ids:
            return ""
        # A millisecond too far, for all times beyond what an id can hold share a prefix; rows are checked.
        self.parameters["high"] = id_time_prefix(self._query.received_before_ms) + "~"
        return f" AND {column} < :high"

    def _equal(self) -> Iterator[_List]:
        """The filters that are set, the one with usually the shortest list first."""
        query = self._query
        for kind in ("idempotency_key", "actor_id", "tenant_id"):
            if (value := getattr(query, kind)) is not None:
                self.parameters[kind] = value
                yield _term(TERM[kind].format(f":{kind}"))
        for number, (key, value) in enumerate(query.metadata.items()):
            self.parameters |= {f"key{number}": key, f"value{number}": value}
            yield _term(TERM["metadata"].format(f":key{number}", f":value{number}"))
        if query.workflow_id is not None or query.route_status is not None:
            for name in ("workflow_id", "route_status"):
                if (value := getattr(query, name)) is not None:
                    self.parameters[name] = value
            yield _routes(query)
        if query.type is not None:
            self.parameters["type"] = query.type
            yield _term(TERM["type"].format(":type"))
        if query.status is not None:
            self.parameters["status"] = query.status
            yield _BY_STATUS

    def _visible_streams(self) -> Iterator[_List]:
        if len(self._query.visible_after_ms) > STREAM_WALKS_MAX:
            return
        for number, (stream, after_ms) in enumerate(self._query.visible_after_ms.items()):
            self.parameters |= {
                f"stream{number}": stream,
                f"after{number}": after_ms,
                f"low{number}": self._low(after_ms),
            }
            yield _term(TERM["stream"].format(f":stream{number}"))

    def measures_sql(self) -> str | None:
        """SQL for the measures of every list, those of the streams last; None when there is no choice."""
        if len(self._filters) + bool(self._streams) < 2:
            return None
        measures = [self._measure(one, "low") for one in self._filters]
        measures += [self._measure(one, f"low{n}") for n, one in enumerate(self._streams)]
        return f"SELECT json_array({', '.join(measures)})"

    def _measure(self, one: _List, low: str) -> str:
        return f"""json((SELECT json_array(count(*), coalesce(max(id), '')) FROM (SELECT {one.id} AS id
            FROM {one.source} WHERE {one.where} AND {one.id} > :{low}{self._below(one.id)}
            ORDER BY {one.id} LIMIT {COUNT_MAX})))"""  # noqa: S608  # parameters stay parameters

    def sql(self, measures: Sequence[tuple[int, str]]) -> str:
        """SQL for the page as one JSON array, given what `measures_sql` found (empty without it)."""
        shortest = self._shortest(measures) if measures else 0
        if shortest < len(self._filters):
            page = self._walk(self._filters[shortest])
        elif self._streams:
            page = self._merged()
        else:
            page = self._walk(_ALL)
        return f"""WITH visible (stream, after_ms) AS MATERIALIZED
            (SELECT key, value FROM json_each(:visible)) SELECT json_group_array({_OBJECT}) FROM ({page}) AS e
            CROSS JOIN topics AS t ON t.n = e.topic"""  # noqa: S608  # parameters stay parameters

    def _shortest(self, measures: Sequence[tuple[int, str]]) -> int:
        """Place of the list to walk, all streams being one; the first of equals."""
        filters, streams = list(measures[: len(self._filters)]), measures[len(self._filters) :]
        if streams:  # together they are no sparser than the densest
            long = [reach for count, reach in streams if count == COUNT_MAX]
            filters.append((min(COUNT_MAX, sum(count for count, _ in streams)), min(long, default="")))
        least = min(count for count, _ in filters)
        farthest = max(reach for count, reach in filters if count == least)
        return filters.index((least, farthest))

    def _walk(self, walked: _List) -> str:
        if len(self._query.visible_after_ms) == 1:
            [(stream, after_ms)] = self._query.visible_after_ms.items()
            self.parameters |= {"stream": stream, "after_ms": after_ms}
            visible = "e.stream = :stream AND e.received_at_ms >= :after_ms"
        else:
            visible = "e.received_at_ms >= (SELECT after_ms FROM visible WHERE visible.stream = e.stream)"
        return self._arm(walked, "low", visible)

    def _merged(self) -> str:
        arms = [
            f"SELECT * FROM ({self._arm(one, f'low{n}', f'e.received_at_ms >= :after{n}')})"  # noqa: S608  # parameters stay parameters
            for n, one in enumerate(self._streams)
        ]
        return arms[0] if len(arms) == 1 else f"{' UNION ALL '.join(arms)} ORDER BY id LIMIT :limit"

    def _arm(self, walked: _List, low: str, visible: str) -> str:
        checks = [one.check for one in self._filters if one is not walked]
        conditions = " AND ".join((walked.where, walked.once, visible, *self._bounds, *checks))
        return f"""SELECT e.* FROM {walked.walk} WHERE {conditions}
            AND {walked.id} > :{low}{self._below(walked.id)} ORDER BY {walked.id} LIMIT :limit"""  # noqa: S608  # parameters stay parameters


def prepare(connection: sqlite3.Connection, query: EventQuery) -> tuple[str, dict[str, str | int]]:
    """SQL and parameters of a page; `query` can see at least one stream."""
    [timed_ids] = connection.execute("SELECT timed_ids FROM meta").fetchone()
    page = Page(query, bool(timed_ids))
    measures_sql = page.measures_sql()
    measures: list[tuple[int, str]] = []
    if measures_sql is not None:
        [found] = connection.execute(measures_sql, page.parameters).fetchone()
        measures = [(count, reach) for count, reach in orjson.loads(found)]
    sql = page.sql(measures)
    visible = orjson.dumps(dict(query.visible_after_ms)).decode()
    return sql, {**page.parameters, "visible": visible}


def page_of_events(connection: sqlite3.Connection, query: EventQuery) -> list[EventState]:
    """A page, ascending by id, without routes."""
    if not query.visible_after_ms or query.limit < 1:
        return []
    sql, parameters = prepare(connection, query)
    [found] = connection.execute(sql, parameters).fetchone()
    return decode_events(found)
