"""Steps, groups, state, with, onErr and response, with functions written in Python in place of guests."""

import asyncio

import pytest

from atmo_farm.capabilities.request import FieldType, Request
from atmo_farm.capabilities.rules import Rules
from atmo_farm.capabilities.services import Capabilities
from atmo_farm.consumer.sequence import CallFailed, Result, Sequence
from atmo_farm.directive.model import OnErr, Step
from atmo_farm.errors import GuestTimedOut, GuestTrapped, RunnableError
from atmo_farm.runtime.services import Services
from tests.unit.consumer.functions import Python, Silent, call, fails, returns, step


def shows(*keys: str) -> Python:
    """Answers with the state's values of these keys."""

    async def body(data: bytes, services: Services) -> bytes | None:
        return b"|".join(services.request_get_field(FieldType.STATE, key) for key in keys)

    return Python(body)


def run(steps: list[Step], functions: dict[str, Python], response: str = "", body: bytes = b"in") -> Result:
    named = {f"default::{name}": function for name, function in functions.items()}
    sequence = Sequence(tuple(steps), response, named, Capabilities(Rules(), Silent()))
    return asyncio.run(sequence.run(Request("STREAM", "s", "id", body), deadline=0.0))


def test_the_last_output_is_the_result() -> None:
    """And the state holds what ran before, under `as` or the function's name."""
    result = run(
        [step(call("a")), step(call("b", "bee")), step(call("show"))],
        {"a": returns(b"1"), "b": returns(b"2"), "show": shows("a", "bee", "b")},
    )
    assert result.data == b"1|2|"


def test_response_names_the_result() -> None:
    """Also when it is not the last one."""
    assert run([step(call("a")), step(call("b"))], {"a": returns(b"1"), "b": returns(b"2")}, "a").data == b"1"


def test_a_group_runs_at_the_same_time_and_sees_the_state_before_it() -> None:
    """Two members that wait for each other both end; neither sees the other's result."""
    arrived: list[str] = []
    both = asyncio.Event()

    def meets(name: str) -> Python:
        async def body(data: bytes, services: Services) -> bytes | None:
            arrived.append(name)
            if len(arrived) == 2:
                both.set()
            await both.wait()
            return name.encode() + services.request_get_field(FieldType.STATE, "y" if name == "x" else "x")

        return Python(body)

    result = run(
        [step(call("x"), call("y")), step(call("show"))], {"x": meets("x"), "y": meets("y"), "show": shows("x", "y")}
    )
    assert result.data == b"x|y"


def test_with_gives_an_alias_and_hides_the_original() -> None:
    """Keys that are not named stay visible under their own name."""
    result = run(
        [step(call("a")), step(call("b")), step(call("show", with_={"alias": "a"}))],
        {"a": returns(b"1"), "b": returns(b"2"), "show": shows("alias", "a", "b")},
    )
    assert result.data == b"1||2"


def test_with_can_swap_two_keys() -> None:
    """Aliases are taken from the state before any of them is set."""
    result = run(
        [step(call("a")), step(call("b")), step(call("show", with_={"a": "b", "b": "a"}))],
        {"a": returns(b"1"), "b": returns(b"2"), "show": shows("a", "b")},
    )
    assert result.data == b"2|1"


def test_an_error_returns_by_default() -> None:
    """The failure names the function; nothing after it runs."""
    with pytest.raises(CallFailed) as failed:
        run([step(call("bad")), step(call("a"))], {"bad": fails(RunnableError(404, "gone")), "a": returns(b"1")})
    assert failed.value.function == "bad"
    assert isinstance(failed.value.error, RunnableError)


@pytest.mark.parametrize(
    ("on_err", "code", "goes_on"),
    [
        (OnErr(other="continue"), 404, True),
        (OnErr({404: "continue"}), 404, True),
        (OnErr({404: "continue"}), 500, False),
        (OnErr({404: "return"}, other="continue"), 404, False),
        (OnErr({404: "return"}, other="continue"), 500, True),
    ],
)
def test_on_err(on_err: OnErr, code: int, goes_on: bool) -> None:
    """On continue the state holds the error as JSON."""
    steps = [step(call("bad", on_err=on_err)), step(call("show"))]
    functions = {"bad": fails(RunnableError(code, 'é"')), "show": shows("bad")}
    if goes_on:
        assert run(steps, functions).data == f'{{"code":{code},"message":"é\\""}}'.encode()
    else:
        with pytest.raises(CallFailed):
            run(steps, functions)


def test_a_trap_is_an_error_500_and_a_timeout_is_none() -> None:
    """onErr may go on after a trap; after a timeout there is no time left."""
    steps = [step(call("bad", on_err=OnErr(other="continue"))), step(call("show"))]
    assert run(steps, {"bad": fails(GuestTrapped("wasm trap")), "show": shows("bad")}).data == (
        b'{"code":500,"message":"wasm trap"}'
    )
    with pytest.raises(CallFailed):
        run(steps, {"bad": fails(GuestTimedOut("killed")), "show": shows("bad")})


def test_a_function_that_returns_nothing_publishes_nothing() -> None:
    """None is a filter's answer, an empty result is an empty message."""
    assert run([step(call("a"))], {"a": returns(None)}).data is None
    assert run([step(call("a"))], {"a": returns(b"")}).data == b""


def test_fields_and_headers_that_a_function_sets() -> None:
    """The next step sees the fields; the headers go out with the result, the last one wins."""

    async def sets(data: bytes, services: Services) -> bytes | None:
        services.request_set_field(FieldType.STATE, "k", b"v")
        services.resp_set_header("X-A", "1")
        services.resp_set_header("X-B", "1")
        assert services.request_get_field(FieldType.STATE, "k") == b"v"
        return b""

    async def overrides(data: bytes, services: Services) -> bytes | None:
        services.resp_set_header("X-A", "2")
        return services.request_get_field(FieldType.STATE, "k")

    result = run([step(call("sets")), step(call("o"))], {"sets": Python(sets), "o": Python(overrides)})
    assert result.data == b"v"
    assert result.headers == {"X-A": "2", "X-B": "1"}


def test_what_a_failed_function_set_is_gone() -> None:
    """A function that fails leaves nothing but its error."""

    async def sets_and_fails(data: bytes, services: Services) -> bytes | None:
        services.request_set_field(FieldType.STATE, "k", b"v")
        services.resp_set_header("X-A", "1")
        raise RunnableError(1, "no")

    result = run(
        [step(call("bad", on_err=OnErr(other="continue"))), step(call("show"))],
        {"bad": Python(sets_and_fails), "show": shows("k")},
    )
    assert result.data == b"" and result.headers == {}


def test_a_group_that_fails_ends_when_all_of_it_has_ended() -> None:
    """No function of it runs on behind the back of the message's next attempt, or of a drain."""
    ended: list[str] = []

    async def slow(data: bytes, services: Services) -> bytes | None:
        await asyncio.sleep(0.01)
        ended.append("slow")
        return b""

    with pytest.raises(CallFailed) as failed:
        run([step(call("bad"), call("slow"))], {"bad": fails(RunnableError(404, "gone")), "slow": Python(slow)})
    assert failed.value.function == "bad"
    assert ended == ["slow"]
