"""The autoscaling policy and its reading: what it wishes, and that no trouble reaches the controller."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.task import Depth
from deployments import queue_poll
from deployments.autoscaling import QueuePolicy
from deployments.queue_poll import POLL_S, STALE_S, QueuePoll
from tests.manual_clock import ManualClock


class Registry:
    """The registry's actor as Ray shows it: answers come when the test says so, and are of that moment."""

    def __init__(self) -> None:
        self.depths: dict[str, Depth] = {}
        self.asked: list[list[tuple[str, tuple[Any, ...]]]] = []
        self.answers = True
        self.trouble: Exception | None = None
        self.num_lookups = 0
        self.call_many = SimpleNamespace(remote=self._call_many)

    def _call_many(self, calls: list[tuple[str, tuple[Any, ...]]]) -> int:
        self.asked.append(calls)
        return len(self.asked)

    def get_actor(self, _name: str, _namespace: str) -> Registry:
        self.num_lookups += 1
        return self

    def wait(self, refs: list[int], timeout: float) -> tuple[list[int], list[int]]:
        assert timeout == 0
        return (refs, []) if self.answers else ([], refs)

    def get(self, _ref: int) -> list[Any]:
        if self.trouble is not None:
            raise self.trouble
        return [self.depths, None]

    @property
    def told(self) -> dict[str, int]:
        """What the registry heard of Serve's targets with the last question."""
        return dict(args for name, args in self.asked[-1] if name == "expect")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()
    monkeypatch.setattr(queue_poll, "ray", registry)
    return registry


@pytest.fixture
def poll(clock: ManualClock, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> QueuePoll:
    poll = QueuePoll(clock)
    monkeypatch.setattr(queue_poll, "queue_poll", lambda: poll)
    return poll


def context(target: int) -> SimpleNamespace:
    return SimpleNamespace(target_num_replicas=target)


def wish(policy: QueuePolicy, target: int) -> int:
    replicas, state = policy(context(target))
    assert state == {}
    return replicas


def settled_wish(policy: QueuePolicy, clock: ManualClock, target: int = 0) -> int:
    """The wish once the registry's present answer has been taken."""
    for _ in range(2):
        clock.advance(POLL_S)
        wish(policy, target)
    return wish(policy, target)


@pytest.mark.usefixtures("poll")
class TestWish:
    @pytest.mark.parametrize(
        ("runnable", "running", "slots", "wanted"),
        [(0, 0, 1, 0), (1, 0, 1, 1), (0, 1, 1, 1), (5, 2, 1, 7), (5, 2, 4, 2), (1, 0, 32, 1)],
        ids=["idle", "first task", "busy", "backlog", "backlog on slots", "one of many slots"],
    )
    def test_it_covers_what_runs_and_what_may_run(
        self, registry: Registry, clock: ManualClock, runnable: int, running: int, slots: int, wanted: int
    ) -> None:
        registry.depths = {"echo": Depth(runnable + 100, running, runnable)}
        assert settled_wish(QueuePolicy("echo", slots), clock, target=3) == wanted

    def test_a_service_that_the_registry_does_not_know_needs_nothing(self, clock: ManualClock) -> None:
        assert settled_wish(QueuePolicy("echo"), clock, target=2) == 0

    def test_the_target_is_held_before_the_first_answer(self, registry: Registry) -> None:
        registry.answers = False
        assert wish(QueuePolicy("echo"), 2) == 2

    def test_the_target_is_held_when_the_registry_falls_silent(
        self, registry: Registry, clock: ManualClock
    ) -> None:
        policy = QueuePolicy("echo")
        registry.depths = {"echo": Depth(9, 0, 9)}
        assert settled_wish(policy, clock) == 9
        registry.answers = False
        clock.advance(STALE_S)
        assert wish(policy, 4) == 9
        clock.advance(POLL_S)
        assert wish(policy, 4) == 4

    def test_no_error_reaches_the_controller_and_the_registry_is_looked_up_anew(
        self, registry: Registry, clock: ManualClock
    ) -> None:
        policy = QueuePolicy("echo")
        registry.depths = {"echo": Depth(9, 0, 9)}
        assert settled_wish(policy, clock) == 9
        registry.trouble = RuntimeError("the registry is gone")
        clock.advance(POLL_S)
        wish(policy, 4)
        assert wish(policy, 4) == 4
        registry.trouble = None
        assert settled_wish(policy, clock, target=4) == 9
        assert registry.num_lookups == 2


@pytest.mark.usefixtures("poll")
class TestQuestions:
    def test_one_question_serves_all_policies_and_tells_their_targets(
        self, registry: Registry, clock: ManualClock
    ) -> None:
        registry.depths = {"echo": Depth(1, 0, 1), "film": Depth(0, 2, 0)}
        policies = {name: QueuePolicy(name) for name in ("echo", "film")}
        for _ in range(3):
            clock.advance(POLL_S)
            wishes = {name: wish(policy, 5) for name, policy in policies.items()}
        assert wishes == {"echo": 1, "film": 2}
        assert len(registry.asked) == 3
        assert registry.told == {"echo": 5, "film": 5}

    def test_a_deleted_service_is_expected_no_more(self, registry: Registry, clock: ManualClock) -> None:
        deleted, kept = QueuePolicy("film"), QueuePolicy("echo")
        wish(deleted, 1)
        settled_wish(kept, clock)
        assert registry.told == {"echo": 0}

    def test_nothing_is_asked_while_an_answer_is_awaited(
        self, registry: Registry, clock: ManualClock
    ) -> None:
        registry.answers = False
        policy = QueuePolicy("echo")
        for _ in range(10):
            clock.advance(POLL_S)
            wish(policy, 1)
        assert len(registry.asked) == 1

    def test_an_answer_that_never_comes_is_given_up(self, registry: Registry, clock: ManualClock) -> None:
        registry.answers = False
        policy = QueuePolicy("echo")
        wish(policy, 1)
        clock.advance(STALE_S)
        wish(policy, 1)
        assert len(registry.asked) == 2
        assert registry.num_lookups == 2


def test_a_process_has_one_reading() -> None:
    assert queue_poll.queue_poll() is queue_poll.queue_poll()
