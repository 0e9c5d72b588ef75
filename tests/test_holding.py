"""What is held of a matrix of the file, bit for bit and byte for byte, and way it is filled."""

import sys
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
from blocks import SMALL, TYPES, assert_same_bits, computing_with, cut_into_tiles, matrix, tensor

from llmcore.linear import Job
from llmcore.quants import FORMATS
from llmcore.speed import filling as filling_room
from llmcore.speed.filling import filling
from llmcore.speed.holding import WAYS, way_of
from llmcore.speed.mapped import FileRows


@pytest.fixture(autouse=True, params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    with computing_with(request.param):
        yield


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("tile", "outputs"), SMALL)
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_int8_loses_nothing(kind, tile, outputs, byte_order, monkeypatch):
    cut_into_tiles(monkeypatch, tile, outputs)
    one, weights = tensor(kind, 37, 512, byte_order)
    for part, tile_ in matrix([one], "int8").held.pieces:
        G, U, C = tile_.q_GUC.shape
        rebuilt = tile_.q_GUC * tile_.scale.product().reshape(G, 1, C)
        if tile_.offset is not None:
            rebuilt += tile_.offset.product().reshape(G, 1, C)
        assert_same_bits(rebuilt.reshape(G * U, C).T.copy(), weights[part])


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("way", WAYS)
def test_the_bytes_told_are_those_really_held(kind, way):
    one, _ = tensor(kind, 37, 512)
    held = matrix([one], way).held
    if way == "float32":
        arrays = [held.w_OI]
    else:
        arrays = []
        for _, piece in held.pieces:
            if isinstance(piece, FileRows):
                assert np.shares_memory(piece.data, one.data)
                continue
            arrays += [piece.q_GUC, *piece.scale, *(piece.offset or ())]
    assert way_of(way).bytes_for(one) == sum(array.nbytes for array in arrays if array is not None)


@pytest.mark.parametrize("kind", FORMATS)
def test_int8_takes_a_byte_and_a_little_for_each_weight(kind):
    one, weights = tensor(kind, 3, 512)
    assert 1 < way_of("int8").bytes_for(one) / weights.size <= 1.3


# Filling


def test_filling_runs_every_job_once_and_tells_their_bytes(monkeypatch):
    done, told, interval = [], [], sys.getswitchinterval()
    monkeypatch.setattr(filling_room, "_progress_bar", lambda *_: nullcontext(told.append))
    with filling([Job(lambda i=i: done.append(i), np.zeros(10 * i, np.uint8)) for i in range(50)], True):
        assert sys.getswitchinterval() < interval
    assert sorted(done) == list(range(50))
    assert sum(told) == 10 * sum(range(50))
    assert sys.getswitchinterval() == interval


def slow_jobs(done):
    """Seconds of work, unless somebody calls it off."""
    return [Job(lambda: (time.sleep(0.02), done.append(1)), np.zeros(1, np.uint8)) for _ in range(200)]


def test_a_job_that_fails_calls_off_the_rest():
    done, interval, here = [], sys.getswitchinterval(), threading.active_count()
    with pytest.raises(ZeroDivisionError), filling([Job(lambda: 1 / 0, np.zeros(1, np.uint8)), *slow_jobs(done)]):
        pass
    n_done = len(done)
    assert n_done < 200
    assert threading.active_count() == here  # nobody works on
    assert len(done) == n_done
    assert sys.getswitchinterval() == interval


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_while_jobs_run_calls_off_the_rest(error):
    done, interval = [], sys.getswitchinterval()
    with pytest.raises(error), filling(slow_jobs(done)):
        raise error
    assert len(done) < 200
    assert sys.getswitchinterval() == interval
