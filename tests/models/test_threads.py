"""The limit on BLAS threads holds for as long as a fit needs it, whatever other fits do."""

from __future__ import annotations

import threading

from threadpoolctl import threadpool_info

from factorlake.models.threads import single_threaded_blas


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_one_of_two_threads_is_inside_at_a_time_and_has_one_blas_thread() -> None:
    first_is_in, first_may_go = threading.Event(), threading.Event()
    told: list[tuple[str, set[int]]] = []

    def first() -> None:
        with single_threaded_blas(), single_threaded_blas():
            first_is_in.set()
            first_may_go.wait(10)
            told.append(("first", blas_threads()))

    def second() -> None:
        first_is_in.wait(10)
        first_may_go.set()
        with single_threaded_blas():
            told.append(("second", blas_threads()))

    before = blas_threads()
    both = [threading.Thread(target=work) for work in (first, second)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert told == [("first", {1}), ("second", {1})]
    assert blas_threads() == before
