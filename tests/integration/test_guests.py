"""Every guest of tests/guests and every function of examples/, through the real runtime: one behaviour, many languages.

Modules that are built on demand (Go) take part when `scripts/test --guests` has built them.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest

from atmo_farm import clock
from atmo_farm.errors import GuestFailed, GuestOutOfMemory, GuestTimedOut, GuestTrapped, HostError, RunnableError
from atmo_farm.runtime.engine import Engine
from atmo_farm.runtime.function import Function
from atmo_farm.runtime.modules import compile_module
from tests.guests import Guest, guest, manifest

ALL = "ATMO_FARM_TEST_ALL_GUESTS" in os.environ
MEMORY_LIMIT = 16 << 20
SUBORBITAL = "rust-suborbital"

META, BODY, HEADER, PARAMS, STATE, QUERY = range(6)
T = TypeVar("T")


@attrs.define
class Outside:
    """The outside of a run, as the guest sees it and with what the guest did to it (`runtime.services.Services`)."""

    fields: dict[tuple[int, str], bytes] = attrs.field(factory=dict)
    headers: dict[str, str] = attrs.field(factory=dict)
    lines: list[tuple[int, str]] = attrs.field(factory=list)
    output: list[str] = attrs.field(factory=list)
    cache: dict[str, bytes] = attrs.field(factory=dict)
    ttls: dict[str, int] = attrs.field(factory=dict)
    secrets: dict[str, bytes] = attrs.field(factory=dict)
    queries: list[tuple[int, str, list[bytes]]] = attrs.field(factory=list)
    rows: dict[str, bytes] = attrs.field(factory=dict)
    """What queries answer; else a select answers its variables."""

    def log_msg(self, level: int, message: str) -> None:
        self.lines.append((level, message))

    def guest_output(self, text: str) -> None:
        self.output.append(text)

    def request_get_field(self, field: int, key: str) -> bytes:
        return self.fields.get((field, key), b"")

    def request_set_field(self, field: int, key: str, value: bytes) -> None:
        self.fields[field, key] = value

    def resp_set_header(self, key: str, value: str) -> None:
        self.headers[key] = value

    def cache_get(self, key: str) -> bytes:
        if key not in self.cache:
            raise HostError("key not found")
        return self.cache[key]

    def cache_set(self, key: str, value: bytes, ttl: int) -> bytes:
        if key == "refused":
            raise HostError("no")
        self.cache[key], self.ttls[key] = value, ttl
        return b""

    def db_exec(self, kind: int, name: str, variables: list[tuple[str, bytes]]) -> bytes:
        if name == "missing":
            raise HostError("query not found: missing")
        self.queries.append((kind, name, [value for _, value in variables]))
        return self.rows.get(name, b"[%s]" % b"".join(value for _, value in variables) if kind == 1 else b"{}")

    def _not_called(self, *arguments: Any) -> bytes:
        raise AssertionError("no guest calls this")

    def get_secret_value(self, key: str) -> bytes:
        if key not in self.secrets:
            raise HostError(f"secret is not allowed: {key}")
        return self.secrets[key]

    fetch_url = graphql_query = get_static_file = _not_called


@attrs.define
class Called:
    """A function in use: `await called(b"…")` runs it once."""

    function: Function
    outside: Outside

    async def __call__(self, data: bytes, within_s: float = 10.0) -> bytes | None:
        return await self.function.call(data, self.outside, clock.monotonic() + within_s)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled modules, shared by the tests of this file."""
    return tmp_path_factory.mktemp("modules")


@pytest.fixture
def use(cache_dir: Path) -> Callable[..., Any]:
    """`use(guest, job, outside=None, isolation="pooled")`: the result of `await job(called)`."""

    def use(
        used: Guest, job: Callable[[Called], Awaitable[T]], outside: Outside | None = None, isolation: Any = "pooled"
    ) -> T:
        compiled = compile_module(used.wasm(), cache_dir, used.interface)  # type: ignore[arg-type]

        async def run() -> T:
            engine = Engine(MEMORY_LIMIT)
            function = Function(
                engine, compiled, memory_limit=MEMORY_LIMIT, isolation=isolation, pool_warm=1, pool_max=4
            )
            await function.warm()
            try:
                return await job(Called(function, outside or Outside()))
            finally:
                function.close()
                engine.close()

        return asyncio.run(run())

    return use


def each(*names: str) -> pytest.MarkDecorator:
    """The test runs once for every guest of these names, in whatever language."""
    chosen = [one for one in manifest() if one.name in names and (one.module or ALL)]
    return pytest.mark.parametrize("used", chosen, ids=[f"{one.language}/{one.name}" for one in chosen])


def calls(*inputs: bytes) -> Callable[[Called], Awaitable[list[bytes | Exception | None]]]:
    """A job: one call after the other; a failure stands in the list as its exception."""

    async def job(called: Called) -> list[bytes | Exception | None]:
        results: list[bytes | Exception | None] = []
        for data in inputs:
            try:
                results.append(await called(data))
            except (RunnableError, GuestFailed) as error:
                results.append(error)
        return results

    return job


def error_of(result: bytes | Exception | None) -> tuple[int, str]:
    """Code and message of a Runnable's own error."""
    assert isinstance(result, RunnableError), result
    return result.code, result.message


@each("hello", "hello-no-wasi")
def test_hello(used: Guest, use: Callable[..., Any]) -> None:
    """Input and output pass whole: empty, text, any bytes for those that do not make text of them, and 1 MB."""
    large = b"x" * 1_000_000
    results = use(used, calls(b"", "Zoë".encode(), large))
    assert results == [b"hello, ", "hello, Zoë".encode(), b"hello, " + large]


@each("hello", "hello-no-wasi")
def test_one_instance_serves_thousands_of_calls(used: Guest, use: Callable[..., Any]) -> None:
    """Whoever frees the input, guest or host: 3,000 inputs of 16 kB (48 MB) fit into 16 MiB, in one instance."""

    async def job(called: Called) -> int:
        data = b"y" * 16_000
        for _ in range(3_000):
            assert await called(data) == b"hello, " + data
        return called.function.instances

    assert use(used, job) == 1


@each("upper-case")
def test_upper_case(used: Guest, use: Callable[..., Any]) -> None:
    """ASCII letters change, all other bytes stay."""
    assert use(used, calls("aZ é 9".encode())) == ["AZ é 9".encode()]


@each("failing")
def test_failing(used: Guest, use: Callable[..., Any]) -> None:
    """The guest's code and message arrive as they are, and its instance goes on."""
    results = use(used, calls(b"404 not found", "77 ärger".encode(), b"no"))
    assert [error_of(result) for result in results] == [
        (404, "not found"),
        (77, "ärger"),
        (400, "the input has no code"),
    ]


def test_a_throw_of_assemblyscript_is_its_error(use: Callable[..., Any]) -> None:
    """return_abort names message and place, and the next call works."""
    results = use(guest("assemblyscript", "failing"), calls(b"throw it away", b"5 x"))
    code, message = error_of(results[0])
    assert code == -1
    assert message.startswith("runnable abort: it away; file: tests/guests/assemblyscript/failing.ts, line: ")
    assert error_of(results[1]) == (5, "x")


@pytest.mark.parametrize("how", [b"unreachable", b"divide", b"memory", b"call"])
@each("trapping")
def test_trapping(used: Guest, how: bytes, use: Callable[..., Any]) -> None:
    """A trap is a trap, whatever it is, and the next call gets an instance that works."""
    if used.language == "rust":
        how = b"unreachable"
    before, trap, after = use(used, calls(b"echo", how, b"again"))
    assert (before, after) == (b"echo", b"again")
    assert isinstance(trap, GuestTrapped)


@each("looping")
def test_looping(used: Guest, use: Callable[..., Any]) -> None:
    """A loop that ends gives its result; an endless one is ended at the deadline while others run."""

    async def job(called: Called) -> tuple[bytes | None, list[bytes | None]]:
        endless = asyncio.ensure_future(called(b"", within_s=0.3))
        others = [await called(b"1000") for _ in range(20)]
        with pytest.raises(GuestTimedOut):
            await endless
        return await called(b"5"), others

    assert use(used, job) == (b"5", [b"1000"] * 20)


@each("memory-eating")
def test_memory_eating(used: Guest, use: Callable[..., Any]) -> None:
    """It gets what the limit allows and is refused more; the next call starts anew."""
    first, refused, second = use(used, calls(b"3", b"", b"4"))
    assert (first, second) == (b"3 MiB", b"4 MiB")
    assert isinstance(refused, GuestOutOfMemory)


@each("recursing")
def test_recursing(used: Guest, use: Callable[..., Any]) -> None:
    """Some depth is there; without an end the stack's end is a trap."""
    some, endless, after = use(used, calls(b"1000", b"", b"10"))
    assert (some, after) == (b"1000", b"10")
    assert isinstance(endless, GuestTrapped)


@each("request-reading")
def test_request_reading(used: Guest, use: Callable[..., Any]) -> None:
    """Every kind of field is read; one that is not there is empty."""
    outside = Outside(
        {
            (META, "method"): b"STREAM",
            (META, "url"): b"orders.new",
            (META, "id"): b'a "quoted"\nid',
            (BODY, "sku"): b"tea",
            (HEADER, "trace"): b"t-1",
            (PARAMS, "id"): b"17",
            (STATE, "user"): "Zoë".encode(),
            (QUERY, "page"): b"2",
        }
    )
    names = "body:sku header:trace params:id state:user query:page state:nobody"
    (answer,) = use(used, calls(names.encode()), outside)
    values = ["tea", "t-1", "17", "Zoë", "2", ""]
    assert json.loads(answer) == {
        "method": "STREAM",
        "url": "orders.new",
        "id": 'a "quoted"\nid',
        "fields": dict(zip(names.split(), values, strict=True)),
    }


@each("state-using")
def test_state_using(used: Guest, use: Callable[..., Any]) -> None:
    """State is read and set; what the host leaves pending after setting satisfies every language's library."""
    outside = Outside({(STATE, "user"): b"mara"})
    assert use(used, calls(b"user", b"greeting=good day", b"greeting", b"none"), outside) == [
        b"mara",
        b"good day",
        b"good day",
        b"",
    ]
    assert outside.fields[STATE, "greeting"] == b"good day"


@each("logging")
def test_logging(used: Guest, use: Callable[..., Any]) -> None:
    """Lines arrive in their order and with their levels."""
    outside = Outside()
    lines = "error broken\nwarn nearly\ninfo Zoë is here\ndebug x=1"
    assert use(used, calls(lines.encode()), outside) == [b"4"]
    assert outside.lines == [(1, "broken"), (2, "nearly"), (3, "Zoë is here"), (4, "x=1")]


@each("header-setting")
def test_header_setting(used: Guest, use: Callable[..., Any]) -> None:
    """Headers of the outgoing message are set by name and value."""
    outside = Outside()
    assert use(used, calls(b"Content-Type: text/plain\nX-Two:  2 "), outside) == [b"2"]
    assert outside.headers == {"Content-Type": "text/plain", "X-Two": "2"}


@each("querying")
def test_querying(used: Guest, use: Callable[..., Any]) -> None:
    """Kinds, names and variables arrive in their order, and results come back whole, small and large."""
    outside = Outside()
    large = b"x" * 300_000
    results = use(
        used,
        calls(
            b"insert put\nA-1\nZo\xc3\xab",
            b"update change\n1\n\nselect all\n\ndelete drop\n2\n\nselect one\n" + large,
            b"",
        ),
        outside,
    )
    assert results == [b"{}", b"{}\n[]\n{}\n[" + large + b"]", b""]
    assert outside.queries == [
        (0, "put", [b"A-1", "Zoë".encode()]),
        (2, "change", [b"1"]),
        (1, "all", []),
        (3, "drop", [b"2"]),
        (1, "one", [large]),
    ]


@each("querying")
def test_querying_that_goes_wrong(used: Guest, use: Callable[..., Any]) -> None:
    """The text of a query's error is the guest's to see; the ways to end badly come after the queries."""
    outside = Outside()

    async def job(called: Called) -> list[bytes | Exception | None]:
        ended = await calls(b"select missing\n\nselect all", b"select all\nfail", b"fail", b"select all\ntrap")(called)
        with pytest.raises(GuestTimedOut):
            await called(b"select all\nloop", within_s=0.3)
        assert await called(b"try select missing\n\ntry select all") == b"! query not found: missing\n[]"
        return ended

    *errors, trap = use(used, job, outside)
    assert [error_of(error) for error in errors] == [
        (500, "query not found: missing"),
        (422, "told to fail"),
        (422, "told to fail"),
    ]
    assert isinstance(trap, GuestTrapped)
    assert [name for _, name, _ in outside.queries] == ["all"] * 4


@each("caching")
def test_caching(used: Guest, use: Callable[..., Any]) -> None:
    """Keys, values and times to live arrive; a missing key is a text, a refused value a failure without one."""
    outside = Outside()
    lines = b"get a\nset a 60 one two\nget a\nset b 0 Zo\xc3\xab\nget b"
    assert use(used, calls(lines), outside) == ["! key not found\nok\none two\nok\nZoë".encode()]
    assert outside.ttls == {"a": 60, "b": 0}
    if used.language != SUBORBITAL:
        assert use(used, calls(b"set refused 1 x"), outside) == [b"! the host failed"]


@each("secret-reading")
def test_secret_reading(used: Guest, use: Callable[..., Any]) -> None:
    """Values arrive as they are, of several lines too; what is not allowed is a text."""
    outside = Outside(secrets={"KEY": "Zoë\n2".encode()})
    assert use(used, calls(b"KEY\nother\nlog KEY"), outside) == [
        "Zoë\n2\n! secret is not allowed: other\nZoë\n2".encode()
    ]
    assert outside.lines == [(3, "Zoë\n2")]


@each("filtering")
def test_filtering(used: Guest, use: Callable[..., Any]) -> None:
    """Neither result nor error is no output at all, which is not the same as an empty one."""
    assert use(used, calls(b"drop it", b"", b"keep it")) == [None, b"", b"keep it"]


@pytest.mark.parametrize(("isolation", "second"), [("pooled", b"secret"), ("fresh", b"")])
@each("remembering")
def test_remembering(used: Guest, isolation: str, second: bytes, use: Callable[..., Any]) -> None:
    """What a guest keeps in its memory is there for the next message when pooled, and never when fresh."""
    assert use(used, calls(b"secret", b"curious"), isolation=isolation) == [b"", second]


@each("blowing-up")
def test_blowing_up(used: Guest, use: Callable[..., Any]) -> None:
    """Results larger than their input by far, and empty ones."""
    assert use(used, calls(b"5000000", b"0", b"3")) == [b"x" * 5_000_000, b"", b"xxx"]


@each("stdin-to-stdout")
def test_stdin_to_stdout(used: Guest, use: Callable[..., Any]) -> None:
    """A WASI command's stdout is the result, binary and larger than any pipe; one that writes nothing has no output."""
    large = bytes(range(256)) * 1_000
    assert use(used, calls(b"", b"\0\xff", large, b"end")) == [None, b"\0\xff", large, b"end"]


def test_exiting(use: Callable[..., Any]) -> None:
    """A WASI command's exit status is a failure, 0 is none; stderr is guest output."""
    outside = Outside()
    well, badly, again = use(guest("c-wasi", "exiting"), calls(b"0", b"3", b"0"), outside)
    assert (well, again) == (None, None)
    assert isinstance(badly, (RunnableError, GuestTrapped))
    assert "3" in str(badly)
    assert "asked to exit with 3\n" in "".join(outside.output)


def test_printing(use: Callable[..., Any]) -> None:
    """A reactor's stdout and stderr are guest output, not its result."""
    outside = Outside()
    assert use(guest("c-wasi", "printing"), calls(b"one\n!two\nthree"), outside) == [b"printed"]
    assert sorted("".join(outside.output).splitlines()) == ["one", "three", "two"]


# The examples' functions


def order(**fields: str) -> Outside:
    """A request whose body has these fields."""
    return Outside({(BODY, name): value.encode() for name, value in fields.items()})


def test_price(use: Callable[..., Any]) -> None:
    """Cents for what is sold, 404 for what is not, 400 without a count."""

    def price(outside: Outside) -> Any:
        return use(guest("examples/orders", "price"), calls(b""), outside)[0]

    assert json.loads(price(order(sku="tea", count="3"))) == {"each": 350, "total": 1050, "currency": "EUR"}
    assert error_of(price(order(sku="anvil", count="1"))) == (404, "no such article: anvil")
    assert error_of(price(order(sku="tea", count="many"))) == (400, "count must be a number above 0")


def test_stock(use: Callable[..., Any]) -> None:
    """A reservation, or 409."""
    stock = guest("examples/orders", "stock")
    (reserved,) = use(stock, calls(b""), order(sku="cup", count="2"))
    assert json.loads(reserved) == {"reserved": 2, "left": 10}
    (too_few,) = use(stock, calls(b""), order(sku="kettle", count="9"))
    assert error_of(too_few) == (409, "only 2 of kettle left")


@pytest.mark.parametrize(
    ("shelf", "status"), [('{"reserved":1,"left":2}', "accepted"), ('{"code":409,"message":"no"}', "back-ordered")]
)
def test_receipt(shelf: str, status: str, use: Callable[..., Any]) -> None:
    """What the steps before found out, in one JSON, and a header that says how it went."""
    outside = order(id='A"1', customer="mara")
    outside.fields |= {(STATE, "cost"): b'{"total":7}', (STATE, "shelf"): shelf.encode()}
    (receipt,) = use(guest("examples/orders", "receipt"), calls(b""), outside)
    assert json.loads(receipt) == {
        "order": 'A"1',
        "customer": "mara",
        "status": status,
        "price": {"total": 7},
        "stock": json.loads(shelf),
    }
    assert outside.headers == {"Content-Type": "application/json", "Order-Status": status}


def test_small_examples(use: Callable[..., Any]) -> None:
    """label reads the subject, audit logs and returns nothing, count-words is a whole program, greet wants a name."""
    outside = Outside({(META, "url"): b"labels.berlin", (HEADER, "order-status"): b"accepted"})
    assert use(guest("examples/orders", "label"), calls(b"Mara"), outside) == [b"[ Mara | BERLIN ]"]
    assert use(guest("examples/orders", "audit"), calls(b"12345"), outside) == [None]
    assert outside.lines == [(3, "receipt of 5 bytes, status accepted")]
    (counted, nothing) = use(guest("examples/orders", "count-words"), calls(b" one  two\nthree ", b""))
    assert json.loads(counted) == {"words": 3, "bytes": 16}
    assert isinstance(nothing, (RunnableError, GuestTrapped))
    greeted, nobody = use(guest("examples/hello", "greet"), calls(b"world", b""))
    assert greeted == b"hello, world"
    assert error_of(nobody) == (400, "whom shall I greet? send a name")


def test_keep(use: Callable[..., Any]) -> None:
    """Two inserts, or one for an order that has come before; a query's error is the function's."""
    keep = guest("examples/orders", "keep")
    outside = order(order="A-1", customer="mara")
    assert use(keep, calls(b"{receipt}"), outside) == [None]
    first = (0, "keep-order", [b"A-1", b"mara", b"{receipt}"])
    assert outside.queries == [first, (0, "count-order", [b"mara"])]
    outside.rows["keep-order"] = b'{"lastInsertID":7,"rowsAffected":0}'
    assert use(keep, calls(b"{receipt}"), outside) == [None]
    assert outside.queries[2:] == [first]


def test_remember_and_last(use: Callable[..., Any]) -> None:
    """What the one has cached the other finds; it asks the database for what is not there, and says who knew."""
    outside = order(customer="mara")
    assert use(guest("examples/orders", "remember"), calls(b"{receipt}"), outside) == [None]
    assert (outside.cache, outside.ttls) == ({"last order of mara": b"[mara]"}, {"last order of mara": 3600})
    last = guest("examples/orders", "last")
    outside.fields[META, "url"] = b"last.mara"
    assert use(last, calls(b""), outside) == [b"[mara]"]
    assert outside.headers == {"Found-In": "cache"} and len(outside.queries) == 1
    outside.fields[META, "url"] = b"last.edvard"
    assert use(last, calls(b""), outside) == [b"[edvard]"]
    assert outside.headers == {"Found-In": "database"}
    outside.rows["last-order"] = b"[]"
    assert error_of(use(last, calls(b""), outside)[0]) == (404, "this customer has ordered nothing")


def test_history(use: Callable[..., Any]) -> None:
    """The rows as they are."""
    outside = Outside({(META, "url"): b"history.mara"})
    assert use(guest("examples/orders", "history"), calls(b""), outside) == [b"[mara]"]
    assert outside.queries == [(1, "orders-of", [b"mara"])]


def test_every_guest_has_its_test() -> None:
    """A guest that no test names would prove nothing."""
    named: Iterable[str] = Path(__file__).read_text().split('"')
    assert {one.name for one in manifest()} <= set(named)
