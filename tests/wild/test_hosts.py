"""The engine inside other programs: forked, threaded, asynchronous, and ended at any time."""

import asyncio
import copy
import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import child
from slant import Engine, SlantError
from slant.demo import FOLDER
from slant.runtime.resolved import choose_device

TEXTS = ["Rain.", "The bridge will be repaired. " * 9, "x " * 300, "Ñandú"]
LIMIT = 60  # seconds after which something hangs

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def engine(two_threads):
    """With more than one thread: OpenMP's second one is what a fork loses."""
    engine = Engine.load(FOLDER, device="cpu", weights="fp32", token_budget=256)
    engine.score(TEXTS)
    return engine


@pytest.fixture(scope="module")
def expected(engine):
    return engine.score(TEXTS).logits.tobytes()


def in_child(function):
    """What ``function`` returns in a forked process; one that hangs is killed."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        signal.alarm(LIMIT)
        try:
            answer = function()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, pickle.dumps(answer))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        answer = file.read()
    assert os.waitpid(process, 0)[1] == 0, "the forked process hung"
    return pickle.loads(answer)


def in_thread(function):
    """What ``function`` returns in a thread; one that hangs fails the test."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()), daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert found, "the thread hung or failed"
    return found[0]


def bits(engine):
    return engine.score(TEXTS).logits.tobytes()


def streamed(engine):
    return np.stack([score.logits for score in engine.stream(iter(TEXTS), window=len(TEXTS))]).tobytes()


# gunicorn --preload and its like: OpenMP's threads do not survive a fork (pytorch/pytorch#17199, #49555,
# benoitc/gunicorn#2478).
@pytest.mark.parametrize("use", [bits, streamed, lambda engine: (engine.warmup(), bits(engine))[1]])
def test_a_forked_process_scores_with_the_engine_it_inherits(engine, expected, use):
    assert in_child(lambda: use(engine)) == expected
    assert in_thread(lambda: in_child(lambda: use(engine))) == expected
    assert in_child(lambda: in_thread(lambda: use(engine))) == expected
    assert bits(engine) == expected


def test_a_fork_before_the_first_score(two_threads, expected):
    engine = Engine.load(FOLDER, device="cpu", weights="fp32", token_budget=256)
    assert in_child(lambda: bits(engine)) == expected


def test_a_fork_of_a_fork(engine, expected):
    assert in_child(lambda: (bits(engine), in_child(lambda: bits(engine)))) == (expected, expected)


def test_loading_after_the_parent_has_computed(engine, expected):
    torch.mm(torch.ones(600, 600), torch.ones(600, 600))
    load = {"device": "cpu", "weights": "fp32", "token_budget": 256}
    assert in_child(lambda: bits(Engine.load(FOLDER, **load))) == expected


def test_a_fork_while_another_thread_scores(engine, expected):
    """It waits for the batch, so that no lock of torch's is held in the copy."""
    stop = threading.Event()
    inside, forked_inside = [], []
    submit = engine.runner._eager.submit

    def watched(*arguments):
        inside.append(1)
        time.sleep(0.001)  # lets the forking thread in
        answer = submit(*arguments)
        inside.pop()
        return answer

    engine.runner._eager.submit = watched
    own = engine._thread
    own_after_fork, own.after_fork = own.after_fork, lambda: (forked_inside.extend(inside), own_after_fork())
    thread = threading.Thread(target=lambda: [engine.score(TEXTS) for _ in iter(stop.is_set, True)])
    thread.start()
    try:
        for _ in range(5):
            assert in_child(lambda: (inside.clear(), bits(engine), forked_inside)[1:]) == (expected, [])
    finally:
        stop.set()
        thread.join()
        del engine.runner._eager.submit, own.after_fork


def test_tokenizers_threads_do_not_survive_either(engine, expected, monkeypatch):
    """With the variable set, tokenizers would use its pool in the child and wait for ever."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    bits(engine)
    assert in_child(lambda: bits(engine)) == expected
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


held = []


def score_held(text):
    return held[0].score([text]).logits.tobytes()


def test_a_pool_of_forked_processes(engine):
    held[:] = [engine]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(score_held, TEXTS).get(LIMIT)
    assert found == list(map(score_held, TEXTS))


class Scored(Dataset):
    def __init__(self, engine):
        self.engine = engine

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, index):
        return self.engine.score([TEXTS[index]]).logits


@pytest.mark.filterwarnings("ignore::UserWarning")  # more workers than this machine may have cores
def test_a_data_loader_with_workers(engine):
    """torch gives each of its workers one thread; the engine keeps its own number, and so the same bits."""
    loader = DataLoader(Scored(engine), num_workers=2, batch_size=None, timeout=LIMIT, multiprocessing_context="fork")
    assert b"".join(x.numpy().tobytes() for x in loader) == b"".join(engine.score([x]).logits.tobytes() for x in TEXTS)


def test_an_engine_on_a_gpu_says_what_to_do_after_a_fork(engine, monkeypatch):
    """As in IDEA-Research/GroundingDINO#276."""
    monkeypatch.setattr(engine._thread, "forkable", False)
    message = in_child(lambda: bits(engine))
    assert message.startswith("SlantError: the engine is on a GPU, which a forked process cannot use; load it after")
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(SlantError, match=r'a forked process cannot use a GPU .* "spawn"'):
        choose_device("cuda")


@pytest.mark.parametrize("move", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_engine_is_not_copied(engine, move):
    with pytest.raises(TypeError, match=r"Engine objects are not copied or pickled.*must call Engine\.load itself"):
        move(engine)


def test_scores_are_copied(engine):
    scores = engine.score(TEXTS)
    assert pickle.loads(pickle.dumps(scores)) == copy.deepcopy(scores) == scores


def test_threads_get_what_one_thread_gets(engine, expected):
    """Each its own texts, in calls and in streams at once."""
    texts = [[f"{text} {i}" for text in TEXTS] for i in range(6)]
    alone = [engine.score(some).logits.tobytes() for some in texts]
    found = {}

    def work(i):
        for _ in range(2):
            scores = engine.stream(texts[i], window=3, overlap=i % 3 == 2) if i % 2 else engine.score(texts[i])
            found.setdefault(i, set()).add(np.stack([score.logits for score in scores]).tobytes())

    def all_of_them():
        threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    windowed = [np.stack([s.logits for s in engine.stream(some, window=3)]).tobytes() for some in texts]
    assert in_thread(all_of_them) == {i: {windowed[i] if i % 2 else alone[i]} for i in range(6)}
    assert bits(engine) == expected


def tasks():
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_threads_of_the_program_get_no_threads_of_their_own(engine):
    """A pool of threads that each multiplied matrices would have the machine's cores many times over."""
    before, most = tasks(), []

    async def all_at_once():
        await asyncio.gather(*(asyncio.to_thread(lambda: most.append((bits(engine), tasks()))) for _ in range(8)))

    asyncio.run(all_at_once())
    assert len({answer for answer, _ in most}) == 1
    assert max(count for _, count in most) <= before + 8 + 1


def test_a_long_stream_lets_others_in(engine):
    """Batch by batch: a score waits for the batch that runs, not for the window."""
    done, answered_after = [], []
    started = threading.Event()

    def long():
        for _ in engine.stream(["x " * 100] * 60, window=60, progress=lambda *_: (done.append(1), started.set())):
            pass
        return True

    thread = threading.Thread(target=long, daemon=True)
    thread.start()
    assert started.wait(LIMIT)
    engine.score("Rain.")
    answered_after.append(len(done))
    thread.join(LIMIT)
    assert answered_after[0] < len(done)
    assert len(done) >= 20


def test_what_is_called_back_may_score(engine, expected):
    def texts():
        for text in TEXTS:
            engine.score(text)
            yield text

    def nested():
        scores = list(engine.stream(texts(), window=len(TEXTS), progress=lambda *_: engine.score("Rain.")))
        return np.stack([score.logits for score in scores]).tobytes()

    assert in_thread(nested) == streamed(engine)


def test_an_offloaded_engine_called_back_from_its_own_thread(two_threads):
    engine = Engine.offloaded(FOLDER, device="cpu", weights="fp32")
    other = Engine.load(FOLDER, device="cpu", weights="fp32")
    engine.runner.progress = lambda done, total: other.score("Rain.")
    assert in_thread(lambda: engine.score("Rain.")).label == other.score("Rain.").label


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_an_interrupted_call_leaves_the_engine_as_it_was(engine, expected, error):
    def interrupt(*_):
        raise error

    for overlap in (False, True):
        with pytest.raises(error):
            list(engine.stream(TEXTS * 4, window=4, progress=interrupt, overlap=overlap))
    assert bits(engine) == expected


def test_an_interrupt_while_it_computes(engine, expected):
    """Ctrl-C is seen at once, not after the batch."""
    submit, slow = engine.runner._eager.submit, threading.Event()

    def late(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        slow.wait(LIMIT)
        return submit(*arguments)

    engine.runner._eager.submit = late
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.score(TEXTS)
        assert time.monotonic() - start < LIMIT / 2
    finally:
        signal.signal(signal.SIGINT, before)
        slow.set()
        del engine.runner._eager.submit
    assert bits(engine) == expected


def test_loading_that_is_interrupted_stops_at_the_next_block(two_threads):
    seen = []

    def interrupt(done, total):
        seen.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Engine.load(FOLDER, device="cpu", progress=interrupt)
    assert seen == [1]


def test_a_stream_that_is_closed_early(engine, expected):
    for overlap in (False, True):
        stream = engine.stream(iter(TEXTS * 3), window=2, overlap=overlap)
        next(stream)
        stream.close()
        left = engine.stream(iter(TEXTS * 3), window=2, overlap=overlap)
        next(left)
        del left
    assert bits(engine) == expected


def test_the_thread_ends_with_its_engine(two_threads):
    engine = Engine.load(FOLDER, device="cpu", weights="fp32")
    thread = engine._thread._thread
    assert thread.is_alive()
    del engine
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_torch_threads_of_the_program_are_left_alone(engine, expected):
    """Set after loading they change neither bits nor, by scoring, themselves."""
    torch.set_num_threads(1)
    try:
        assert bits(engine) == expected
        assert in_child(lambda: (bits(engine), torch.get_num_threads(), in_thread(torch.get_num_threads))) == (
            expected, 1, 1,
        )  # fmt: skip
        assert torch.get_num_threads() == in_thread(torch.get_num_threads) == 1
    finally:
        torch.set_num_threads(2)


ENDS = """
import atexit, sys, threading, time
def at_last():
    try:
        engine.score("Rain.")
        print("scored")
    except SlantError as error:
        print(error)
atexit.register(at_last)  # called after slant's own handler
from slant import Engine, SlantError
from slant.demo import FOLDER
atexit.register(at_last)
engine = Engine.load(FOLDER, device="cpu")
def score():
    while True:
        engine.score(["x " * 300] * 4)
threading.Thread(target=score, daemon=True).start()
time.sleep(0.3)
"""


def test_the_end_of_the_program():
    """A thread that computes, or a handler that wants to, while the interpreter is taken down."""
    ended = child.python("-c", ENDS)
    assert ended.stdout == "scored\nthe program is at its end, where nothing can be scored any more.\n"
    assert ended.stderr == ""


@pytest.mark.parametrize("load", [Engine.load, Engine.offloaded])
def test_a_load_that_is_refused_leaves_no_thread(tmp_path, load):
    """A program that tries again and again: the exceptions' circles are collected late."""
    gc.collect()
    gc.disable()
    try:
        before, kept = set(threading.enumerate()), []
        for _ in range(3):
            with pytest.raises(SlantError) as refused:
                load(tmp_path)
            kept.append(refused)
        left = set(threading.enumerate()) - before
        for thread in left:
            thread.join(5)
        assert not any(thread.is_alive() for thread in left)
    finally:
        gc.enable()
