"""The thread in which an engine computes, whichever thread calls it.

Several threads share an engine by taking turns, a batch each. What the program around it has set for its own threads
(autocast, inference mode, a default device, modes) does not reach this one. And a forked process gets a new one:
OpenMP's threads do not survive a fork, and whoever had some before it waits for them for ever.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import torch

from slant.errors import SlantError
from slant.runtime.settings import own_settings

T = TypeVar("T")
TURN = 0.1  # seconds
Tasks = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
Progress = Callable[[int, int], None]


class OwnThread:
    """Runs tasks in the order they are given, in one thread with a fixed number of CPU threads.

    threads: by default torch's number in the thread that makes this. The thread is started when a task needs it, and
    ends with this object. A fork waits for the running task, and so does the end of the program.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.forkable, self._forked, self._closed = True, False, False
        self._threads = threads or torch.get_num_threads()
        self._begin()
        with _changing:
            _all.add(self)

    def _begin(self) -> None:
        self._tasks: Tasks = SimpleQueue()
        self._turn, self._starting = threading.RLock(), threading.Lock()
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], T]) -> T:
        """The function's result, or what it raises; within the thread it is run at once.

        Raises SlantError at the end of the program, and in a forked process if not ``forkable``: of what is on a GPU.
        """
        future = self._submit(function)
        try:
            return _answer(future)
        finally:
            future.cancel()  # where this thread was interrupted before the task's turn

    def report(self, function: Callable[[Progress], T], progress: Progress) -> T:
        """As ``call``; what the function reports goes to ``progress`` in the calling thread.

        If that raises, or the calling thread is interrupted, the function is stopped at its next report.
        """
        reports: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        stopped = threading.Event()

        def pass_on(done: int, total: int) -> None:
            if stopped.is_set():
                raise InterruptedError
            reports.put((done, total))

        future = self._submit(lambda: function(pass_on))
        future.add_done_callback(lambda _: reports.put(None))
        try:
            while (counts := _first(reports)) is not None:
                progress(*counts)
            return _answer(future)
        finally:
            stopped.set()
            future.cancel()

    @contextmanager
    def ended_by_failure(self) -> Iterator[OwnThread]:
        """The thread ends if the block raises; else it would live until Python collects the exception's references."""
        try:
            yield self
        except BaseException:
            self._tasks.put(None)
            raise

    def iterate(self, items: Iterator[T]) -> Iterator[T]:
        """The items, each made in the thread when it is asked for; tasks of others may come between two."""
        end = object()
        while (item := self.call(lambda: next(items, end))) is not end:
            yield item  # type: ignore[misc]

    def _submit(self, function: Callable[[], T]) -> Future[T]:
        if not self.forkable and self._forked:
            raise SlantError(
                "the engine is on a GPU, which a forked process cannot use; load it after the fork, in each process,"
                ' or start processes with the method "spawn".'
            )
        if self._closed and threading.current_thread() is threading.main_thread():  # others wait and end unnoticed
            raise SlantError("the program is at its end, where nothing can be scored any more.")
        future: Future[T] = Future()
        if self._thread is threading.current_thread():
            _run(future, function)
            return future
        with self._starting:
            if self._thread is None:
                self._start()
        self._tasks.put((future, function))
        return future

    def _start(self) -> None:
        callers = torch.get_num_threads()
        ready = threading.Event()
        arguments = self._tasks, self._turn, self._threads, ready
        self._thread = threading.Thread(target=_work, args=arguments, name="slant", daemon=True)
        self._thread.start()
        ready.wait()
        if callers != self._threads:
            torch.set_num_threads(callers)  # what further threads begin with, which the new one has just set
        weakref.finalize(self, self._tasks.put, None).atexit = False

    def pause(self) -> None:
        """Wait for the running task, and begin no other."""
        self._turn.acquire()

    def go_on(self) -> None:
        self._turn.release()

    def after_fork(self) -> None:
        """Of a process that was forked off, in which only the forking thread runs."""
        self._forked = True
        self._begin()

    def close(self) -> None:
        """At the end of the program: a thread that computes while the interpreter is taken down would crash."""
        self.pause()
        self._closed = True


def _work(tasks: Tasks, turn: Any, threads: int, ready: threading.Event) -> None:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(False)  # a thread begins with the setting of the one that started it
    ready.set()
    while (task := tasks.get()) is not None:
        with turn, own_settings():
            _run(*task)
        del task  # it holds texts, answers, perhaps the engine


def _run(future: Future[T], function: Callable[[], T]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)


def _answer(future: Future[T]) -> T:
    """The future's result, waited for in short turns: a signal that comes just before a wait begins does not end it."""
    while True:
        try:
            return future.result(TURN)
        except TimeoutError:
            if future.done():  # the task's own
                raise


def _first(queue: SimpleQueue[T]) -> T:
    """The first of a queue, waited for likewise."""
    while True:
        with suppress(Empty):
            return queue.get(timeout=TURN)


_all: weakref.WeakSet[OwnThread] = weakref.WeakSet()
_changing = threading.RLock()  # held throughout a fork
_paused: list[OwnThread] = []


def _before_fork() -> None:
    _changing.acquire()
    _paused[:] = _all
    for own in _paused:
        own.pause()


def _in_parent() -> None:
    for own in _paused:
        own.go_on()
    _paused.clear()
    _changing.release()


def _in_child() -> None:
    _paused.clear()
    _changing.release()
    for own in list(_all):
        own.after_fork()
    if os.environ.get("TOKENIZERS_PARALLELISM"):  # it would wait for its own lost threads
        os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _at_exit() -> None:
    for own in list(_all):
        own.close()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
atexit.register(_at_exit)
