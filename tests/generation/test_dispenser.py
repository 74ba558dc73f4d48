"""Numbers handed to actors that work, die, fall silent and fail: each is done or set aside."""

import random

from hypothesis import given
from hypothesis import strategies as st

from fastdistill_ray.generation.dispenser import (
    DEATHS_AT_START,
    RESTARTS_PER_HOUR,
    SEAT_LOST_SECONDS,
    SHORT_OF_MEMORY,
    SILENT_SECONDS,
    Dispenser,
)


def take(dispenser: Dispenser, *arguments) -> tuple[list[int], list[int]]:
    counts, numbers, is_abandoned = dispenser.take(*arguments)
    assert not is_abandoned
    return counts, numbers


def start(dispenser: Dispenser, actor: str, was_short_of_memory: bool = False) -> None:
    """An engine is started, the actor's first or after the death of one, and becomes ready."""
    dispenser.begin(actor, was_short_of_memory)
    dispenser.enter(actor)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(total: int, most_aside: int = 100) -> tuple[Dispenser, Clock]:
    clock = Clock()
    return Dispenser(total, 2, most_aside, clock), clock


def test_every_number_is_handed_out_once_and_done():
    dispenser, _ = make(7)
    start(dispenser, "a")
    start(dispenser, "b")
    assert take(dispenser, "a", [], {}, 3) == ([], [0, 1, 2])
    assert take(dispenser, "b", [], {}, 3) == ([], [3, 4, 5])
    assert take(dispenser, "a", [1], {}, 3) == ([1], [6])
    assert take(dispenser, "b", [3, 4, 5], {}, 3) == ([3, 4, 5], [])
    assert not dispenser.is_over()
    assert take(dispenser, "a", [0, 2, 6], {}, 3) == ([0, 2, 6], [])
    assert dispenser.is_over()
    assert dispenser.status().num_done == 7


def test_numbers_from_the_allowed_on_wait_without_a_seat_and_without_being_called_silence():
    dispenser, clock = make(6)
    dispenser.allow(2)
    start(dispenser, "a")
    assert dispenser.wants_seat()
    dispenser.take_seat("a")
    assert take(dispenser, "a", [], {}, 5) == ([], [0, 1])
    assert take(dispenser, "a", [0], {1: "it failed"}, 5) == ([0], [1]), "what fails is asked again"
    assert take(dispenser, "a", [1], {}, 5) == ([1], [])
    dispenser.leave_seat("a")
    clock.now += 1000
    assert not dispenser.wants_seat() and not dispenser.is_over()
    assert dispenser.status().seconds_quiet == 0, "nobody is to say anything"
    dispenser.allow(99)
    assert dispenser.wants_seat()
    assert take(dispenser, "a", [], {}, 9) == ([], [2, 3, 4, 5])
    clock.now += 50
    assert dispenser.status().seconds_quiet == 50
    assert take(dispenser, "a", [2, 3, 4, 5], {}, 9)[1] == []
    assert dispenser.is_over()


def test_request_that_kills_its_engine_is_asked_again_then_alone_then_set_aside():
    dispenser, _ = make(4)
    poison = 2
    start(dispenser, "a")
    for _ in range(100):
        _, numbers = take(dispenser, "a", [], {}, 4)
        if not numbers:
            break
        if poison in numbers:
            dispenser.last_words("a", "illegal memory access")
            start(dispenser, "a")  # it died and was started again
            continue
        take(dispenser, "a", numbers, {}, 0)
    status = dispenser.status()
    assert dispenser.is_over() and not status.stopped
    assert status.aside == {poison: "illegal memory access"}
    assert (status.num_done, status.num_deaths) == (3, 3)


def test_engine_whose_memory_is_short_is_asked_half_as_much_and_no_request_is_blamed():
    dispenser, _ = make(20)
    start(dispenser, "a")
    start(dispenser, "b")
    assert len(take(dispenser, "a", [], {}, 8)[1]) == 8
    start(dispenser, "a", was_short_of_memory=True)
    assert dispenser.status().shares == {"a": 2}
    assert take(dispenser, "a", [], {}, 8)[1] == [0, 1, 2, 3]
    assert take(dispenser, "a", [1], {}, 5) == ([1], [4]), "three are out, so there is room for one"
    assert len(take(dispenser, "b", [], {}, 8)[1]) == 8, "another has its memory"
    for share in (4, 8):
        start(dispenser, "a", was_short_of_memory=True)
        assert dispenser.status().shares == {"a": share}
        numbers = take(dispenser, "a", [], {}, 8)[1]
        assert len(numbers) == 8 // share
    assert (dispenser.status().num_failures, dispenser.status().num_deaths) == (0, 3)


def test_request_for_which_alone_memory_is_short_is_set_aside():
    dispenser, _ = make(1)
    start(dispenser, "a")
    for _ in range(3):
        assert take(dispenser, "a", [], {}, 8) == ([], [0])
        start(dispenser, "a", was_short_of_memory=True)
    assert dispenser.status().aside == {0: SHORT_OF_MEMORY}
    assert dispenser.status().shares == {}


def test_suspect_is_asked_with_nothing_beside_it():
    dispenser, _ = make(6)
    start(dispenser, "a")
    for _ in range(2):
        assert take(dispenser, "a", [], {}, 2) == ([], [0, 1])
        start(dispenser, "a")
    assert take(dispenser, "a", [], {}, 9) == ([], [2, 3, 4, 5]), "suspects come last"
    assert take(dispenser, "a", [2, 3, 4], {}, 9) == ([2, 3, 4], []), "not beside another"
    assert take(dispenser, "a", [5], {}, 9) == ([5], [0])
    assert take(dispenser, "a", [], {}, 9) == ([], []), "and none beside it"
    start(dispenser, "b")
    assert take(dispenser, "b", [], {}, 9) == ([], [1])
    assert take(dispenser, "a", [0], {}, 9) == ([0], [])
    assert not dispenser.is_over()


def test_request_that_fails_three_times_is_set_aside_and_too_many_end_it():
    dispenser, _ = make(5, most_aside=1)
    start(dispenser, "a")
    for attempt in range(3):
        _, numbers = take(dispenser, "a", [], {}, 5)
        good = [number for number in numbers if number != 4]
        take(dispenser, "a", good, {4: f"HTTP 500, attempt {attempt}"}, 0)
    assert dispenser.is_over() and not dispenser.status().stopped
    assert dispenser.status().aside == {4: "HTTP 500, attempt 2"}
    dispenser, _ = make(5, most_aside=1)
    start(dispenser, "a")
    while not dispenser.is_over():
        _, numbers = take(dispenser, "a", [], {}, 5)
        take(dispenser, "a", [], dict.fromkeys(numbers, "HTTP 500"), 0)
    assert dispenser.status().stopped == "2 requests failed 3 times each; HTTP 500"


def test_engine_that_dies_too_often_in_an_hour_ends_it_and_rarely_does_not():
    dispenser, clock = make(5)
    for _ in range(RESTARTS_PER_HOUR * 3):
        start(dispenser, "a")
        clock.now += 600
    assert not dispenser.status().stopped
    for _ in range(RESTARTS_PER_HOUR + 1):
        dispenser.last_words("a", "CUDA error")
        start(dispenser, "a")
    stopped = dispenser.status().stopped
    assert "within an hour" in stopped and "CUDA error" in stopped


def test_engine_that_dies_three_times_as_it_starts_ends_it_and_twice_does_not():
    dispenser, _ = make(5)
    for _ in range(2):
        assert [dispenser.begin("a") for _ in range(DEATHS_AT_START)] == [True] * DEATHS_AT_START
        assert dispenser.status().num_actors == 0
        dispenser.enter("a")
        assert dispenser.status().num_actors == 1
    assert [dispenser.begin("a") for _ in range(DEATHS_AT_START)] == [True] * DEATHS_AT_START
    assert not dispenser.begin("a", was_short_of_memory=True)
    assert dispenser.status().stopped == (
        f"an engine died 3 times as it started; the last: {SHORT_OF_MEMORY}"
    )


def test_last_words_of_a_death_are_not_those_of_the_next():
    dispenser, _ = make(1)
    start(dispenser, "a")
    take(dispenser, "a", [], {}, 1)
    dispenser.last_words("a", "CUDA error")
    for _ in range(3):
        start(dispenser, "a")
        take(dispenser, "a", [], {}, 1)
    assert dispenser.status().aside == {0: "the engine's process ended without a word"}


def test_what_a_dead_engine_asked_is_handed_out_before_the_next_is_ready():
    dispenser, _ = make(2)
    start(dispenser, "a")
    start(dispenser, "b")
    take(dispenser, "a", [], {}, 2)
    dispenser.begin("a")
    assert take(dispenser, "b", [], {}, 2) == ([], [0, 1])


def test_answers_of_an_actor_that_was_taken_for_gone_do_not_count_twice():
    dispenser, clock = make(2)
    start(dispenser, "a")
    start(dispenser, "b")
    take(dispenser, "a", [], {}, 2)
    clock.now += SILENT_SECONDS + 1
    assert not dispenser.is_over()
    assert take(dispenser, "b", [], {}, 2) == ([], [0, 1])
    assert take(dispenser, "a", [0, 1], {}, 0) == ([], [])
    assert take(dispenser, "b", [0, 1], {}, 0) == ([0, 1], [])
    assert dispenser.is_over()


def test_seats_are_made_as_they_are_taken():
    dispenser, _ = make(1)
    assert [dispenser.wants_seat() for _ in range(3)] == [True, True, False]
    dispenser.take_seat("a")
    assert [dispenser.wants_seat() for _ in range(2)] == [True, False]


def test_actor_whose_answers_were_not_taken_over_gets_another_seat_before_all_is_over():
    dispenser, _ = make(2)
    start(dispenser, "a")
    assert dispenser.wants_seat()
    dispenser.take_seat("a")
    take(dispenser, "a", [], {}, 2)
    dispenser.lose_seat("a")
    assert dispenser.wants_seat(), "nothing is to be handed out, but two answers will come"
    dispenser.take_seat("a")
    assert take(dispenser, "a", [0, 1], {}, 2) == ([0, 1], [])
    dispenser.lose_seat("a")  # while it gave both
    assert not dispenser.is_over() and dispenser.wants_seat()
    dispenser.take_seat("a")
    dispenser.leave_seat("a")
    assert dispenser.is_over() and not dispenser.wants_seat()


def test_actor_that_lost_its_seat_and_falls_silent_is_not_waited_for():
    dispenser, clock = make(1)
    start(dispenser, "a")
    dispenser.take_seat("a")
    take(dispenser, "a", [], {}, 1)
    assert take(dispenser, "a", [0], {}, 1) == ([0], [])
    dispenser.lose_seat("a")
    clock.now += SILENT_SECONDS + 1
    assert dispenser.is_over()


def test_engine_that_gets_no_seat_is_given_another():
    """Two seats wait for an actor that died and never comes back."""
    dispenser, clock = make(4)
    assert [dispenser.wants_seat() for _ in range(2)] == [True, True]
    start(dispenser, "a")
    dispenser.take_seat("a")
    assert take(dispenser, "a", [], {}, 2) == ([], [0, 1])
    assert [dispenser.wants_seat() for _ in range(2)] == [True, False]
    clock.now += SEAT_LOST_SECONDS
    dispenser.beat("a")
    assert not dispenser.wants_seat(), "it has one"
    assert take(dispenser, "a", [0, 1], {}, 0) == ([0, 1], [])
    dispenser.leave_seat("a")
    assert [dispenser.wants_seat() for _ in range(2)] == [True, False], "not one after another"
    clock.now += SEAT_LOST_SECONDS
    assert not dispenser.wants_seat(), "nothing was heard of it"
    dispenser.beat("a")
    assert dispenser.wants_seat()


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 4))
def test_whatever_happens_each_number_is_done_once_or_set_aside(seed, total, num_actors):
    draw = random.Random(seed)
    clock = Clock()
    dispenser = Dispenser(total, num_actors, total, clock)
    held: dict[str, list[int]] = {f"a{i}": [] for i in range(num_actors)}
    done: list[int] = []
    for actor in held:
        start(dispenser, actor)
    for _ in range(5000):
        if dispenser.is_over():
            break
        actor = draw.choice(list(held))
        clock.now += draw.choice([0.1, 1.0, 600.0])
        if draw.random() < 0.1:
            held[actor] = []
            start(dispenser, actor)
            continue
        finished = [number for number in held[actor] if draw.random() < 0.5]
        failed = {number: "no" for number in finished if draw.random() < 0.2}
        answered = [number for number in finished if number not in failed]
        counts, new = take(dispenser, actor, answered, failed, draw.randint(0, 5))
        done += counts
        left = [number for number in held[actor] if number not in finished]
        held[actor] = [*left, *(number for number in new if number not in left)]
    status = dispenser.status()
    assert dispenser.is_over()
    if not status.stopped:
        assert sorted([*done, *status.aside]) == list(range(total))
    assert len(set(done)) == len(done)


def test_numbers_are_not_held_in_memory_before_they_are_handed_out():
    dispenser = Dispenser(10**12, 1, 0)
    assert take(dispenser, "a", [], {}, 2) == ([], [0, 1])
    assert dispenser.status().num_waiting == 10**12 - 2


def test_answers_of_which_several_make_one_of_ours_are_no_silence():
    dispenser, clock = make(3)
    start(dispenser, "a")
    take(dispenser, "a", [], {}, 2)
    clock.now += 100
    dispenser.beat("a", 0)
    assert dispenser.status().seconds_quiet == 100
    dispenser.beat("a", 1)
    clock.now += 10
    dispenser.beat("a", 1)
    assert dispenser.status().seconds_quiet == 10


def test_what_hangs_is_waited_for_until_it_is_abandoned():
    dispenser, _ = make(3)
    start(dispenser, "a")
    take(dispenser, "a", [], {}, 2)
    dispenser.stop("enough")
    assert dispenser.take("a", [0], {}, 2) == ([0], [], False), "it is paid for"
    dispenser.abandon("it hangs")
    assert dispenser.take("a", [], {}, 2) == ([], [], True)
    assert dispenser.status().stopped == "enough"
