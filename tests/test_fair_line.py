"""Who is next, and who gives way, in a line that hosts share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from k8strace.fair_line import FairLine

PEERS = ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1", "[::1]:5", "unix:"]


def line(*waiting: tuple[str, str]) -> FairLine[str]:
    made: FairLine[str] = FairLine()
    for peer, item in waiting:
        made.add(peer, item)
    return made


def test_hosts_take_turns_and_the_connections_of_each() -> None:
    many = [("10.0.0.1:1", f"a{number}") for number in range(5)]
    one = line(*many, ("10.0.0.1:2", "b0"), ("10.0.0.2:9", "c0"), ("10.0.0.2:9", "c1"))
    taken = [one.take() for _ in range(len(one))]
    assert taken == ["a0", "c0", "b0", "c1", "a1", "a2", "a3", "a4"]
    assert len(one) == 0


def test_who_has_the_most_gives_way_to_another_host() -> None:
    one = line(("10.0.0.1:1", "a0"), ("10.0.0.1:1", "a1"), ("10.0.0.2:1", "b0"))
    assert one.one_too_many("10.0.0.3:1") == "a1"
    assert one.one_too_many("10.0.0.2:1") is None  # it would have as many then
    assert one.one_too_many("10.0.0.1:1") is None
    one.add("10.0.0.1:1", "a2")
    assert one.one_too_many("10.0.0.2:1") == "a2"
    assert one.one_too_many("10.0.0.1:1") is None


def test_a_connection_gives_way_to_another_one_of_its_host() -> None:
    one = line(*[("10.0.0.1:1", f"a{number}") for number in range(3)])
    assert one.one_too_many("10.0.0.1:2") == "a2"
    one.add("10.0.0.2:1", "b0")
    assert one.one_too_many("10.0.0.1:2") == "a2"


def test_nobody_gives_way_where_all_have_one() -> None:
    one = line(("10.0.0.1:1", "a"), ("10.0.0.2:1", "b"))
    assert one.one_too_many("10.0.0.3:1") is None
    assert line().one_too_many("10.0.0.1:1") is None


@given(st.lists(st.tuples(st.sampled_from(PEERS), st.sampled_from("add take del"))))
def test_everything_is_taken_once(steps: list[tuple[str, str]]) -> None:
    one: FairLine[int] = FairLine()
    waiting: dict[int, str] = {}
    for number, (peer, step) in enumerate(steps):
        if step == "t" and waiting:
            del waiting[one.take()]
        elif step == "d" and waiting:
            item, of = next(iter(waiting.items()))
            one.remove(of, item)
            one.remove(of, item)
            del waiting[item]
        else:
            one.add(peer, number)
            waiting[number] = peer
        assert len(one) == len(waiting)
    assert sorted(one.take() for _ in range(len(one))) == sorted(waiting)
