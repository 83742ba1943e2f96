"""The pool of threads for plain functions."""

import threading

from stepfold.threads import ThreadPool

WAIT_S = 30
ROUNDS = 500


def test_there_are_no_more_threads_than_work_at_the_same_time() -> None:
    pool, done, names = ThreadPool(1_000, "pool"), threading.Semaphore(0), set[str]()

    def work() -> None:
        names.add(threading.current_thread().name)
        done.release()

    for _ in range(ROUNDS):
        for _ in range(4):
            pool.submit(work)
        for _ in range(4):
            assert done.acquire(timeout=WAIT_S)
    pool.close()
    # A thread that is about to be free may not count as free yet.
    assert len(names) < ROUNDS / 10


def test_work_in_line_does_not_wait_for_a_thread_that_was_given_up() -> None:
    pool, go_on = ThreadPool(1, "pool"), threading.Event()
    begun, second, third = threading.Event(), threading.Event(), threading.Event()
    threads: list[int] = []

    def hang() -> None:
        threads.append(threading.get_ident())
        begun.set()
        go_on.wait(WAIT_S)

    pool.submit(hang)
    assert begun.wait(WAIT_S)
    pool.submit(second.set)
    pool.give_up(threads[0])
    assert second.wait(WAIT_S)
    go_on.set()
    pool.submit(third.set)
    assert third.wait(WAIT_S)
    pool.close()
