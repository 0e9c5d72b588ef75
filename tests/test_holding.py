"""What is held of a matrix of the file, bit for bit and byte for byte, and the filling of it."""

import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
from blocks import HELD, SMALL, TYPES, assert_same_bits, computing_with, cut_into_tiles, matrix, tensor

from llmcore.linear import Job
from llmcore.quants import FORMATS
from llmcore.speed import filling, panels
from llmcore.speed.filling import fill
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
@pytest.mark.parametrize(("tile", "outputs"), SMALL)
def test_panels_are_the_matrix_bit_for_bit(kind, tile, outputs, monkeypatch):
    """Tensors that begin and end within a panel, or fill several."""
    cut_into_tiles(monkeypatch, tile, outputs)
    tensors, weights = zip(*(tensor(kind, n_out, 256) for n_out in (37, 100, 3, 1, 19)), strict=True)
    held = matrix(list(tensors), "panels").held
    assert held.w_PIC.shape == (5, 256, 32)
    assert_same_bits(held.w_OI, np.concatenate(weights))
    assert not held.w_PIC.swapaxes(1, 2).reshape(160, 256)[160:].any()  # the rest is zeros


@pytest.mark.parametrize(
    ("n_rows", "n_in", "product"),
    [
        (1, 576, (1, 1)),
        (16, 1536, (16, 1)),  # 786,432 multiply-adds
        (48, 576, (48, 1)),
        (512, 576, (48, 1)),
        (512, 1024, (24, 1)),  # 36 rows would be 1.2 million
        (512, 2048, (12, 1)),
        (8, 4096, (8, 2)),  # 1,048,576
        (512, 4096, (24, 4)),  # 3.1 million
    ],
)
def test_products_with_panels_are_small(n_rows, n_in, product):
    assert panels.small_product(n_rows, n_in) == product
    rows, runs = product
    assert rows * -(-n_in // runs) * panels.WIDTH <= 10**6


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("way", HELD)
def test_the_bytes_told_are_those_really_held(kind, way):
    one, _ = tensor(kind, 37, 512)
    held = matrix([one], way).held
    if way in ("rows", "panels"):
        arrays = [held.w_OI if way == "rows" else held.w_PIC]
    else:
        arrays = []
        for _, piece in held.pieces:
            if isinstance(piece, FileRows):
                assert np.shares_memory(piece.data, one.data)
                continue
            arrays += [piece.q_GUC, *piece.scale, *(piece.offset or ())]
    assert HELD[way].bytes_for(one) == sum(array.nbytes for array in arrays if array is not None)


@pytest.mark.parametrize("kind", FORMATS)
def test_int8_takes_a_byte_and_a_little_for_each_weight(kind):
    one, weights = tensor(kind, 3, 512)
    assert 1 < HELD["int8"].bytes_for(one) / weights.size <= 1.3


# Filling


def test_every_job_runs_once_and_its_bytes_are_told(monkeypatch):
    done, told = [], []
    monkeypatch.setattr(filling, "_progress_bar", lambda *_: nullcontext(told.append))
    fill([Job(lambda i=i: done.append(i), np.zeros(10 * i, np.uint8)) for i in range(50)], True)
    assert sorted(done) == list(range(50))
    assert sum(told) == 10 * sum(range(50))


def test_a_bar_adds_up_to_the_bytes_of_the_file(monkeypatch):
    bars = []
    monkeypatch.setattr("tqdm.tqdm", lambda **options: bars.append(Bar(**options)) or bars[-1])
    fill([Job(lambda: None, np.zeros(10 * i, np.uint8)) for i in range(50)], True)
    (bar,) = bars
    assert (bar.n, bar.options["total"], bar.options["disable"]) == (
        10 * sum(range(50)),
        10 * sum(range(50)),
        None,
    )
    fill([], False)
    assert len(bars) == 1


class Bar:
    """Stands in for tqdm's."""

    def __init__(self, **options):
        self.options, self.n = options, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, n):
        self.n += n


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_job_that_fails_calls_off_the_rest(error):
    def fail():
        raise error

    done, here = [], threading.active_count()
    slow = [Job(lambda: (time.sleep(0.02), done.append(1)), np.zeros(1, np.uint8)) for _ in range(200)]
    with pytest.raises(error):
        fill([Job(fail, np.zeros(1, np.uint8)), *slow])
    n_done = len(done)
    assert n_done < 200
    time.sleep(0.1)
    assert len(done) == n_done  # nobody works on
    assert threading.active_count() <= here + 1  # the helper of two threads may have been started
