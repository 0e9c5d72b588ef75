"""quants: every format against the gguf package, some blocks worked out by hand, and the errors."""

import ast
import tracemalloc

import numpy as np
import pytest
from blocks import WORDS, assert_same_bits, big_endian, by_gguf, random_blocks
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf import quants as gguf_quants

from llmcore import quants
from llmcore.errors import UnsupportedModel
from llmcore.quants import FORMATS, dequantize, unpack

pytestmark = pytest.mark.filterwarnings(
    "ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning"
)

FOREIGN = ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "NVFP4"]


def put_together(q, scale, offset):
    """The weights that unpacked integers stand for."""
    weights = q * scale.product()[..., None]
    return weights if offset is None else weights + offset.product()[..., None]


def half(value):
    """The two bytes of a float16 in a little-endian file."""
    return list(np.array(value, "<f2").tobytes())


def block(*values):
    return np.array(values, np.uint8)


# By hand


def test_q4_0_by_hand():
    """Byte i = i + 16 (15 - i): weight i is (i - 8) / 2 and weight 16 + i is (15 - i - 8) / 2."""
    raw = block(*half(0.5), *(i | (15 - i) << 4 for i in range(16)))
    rising = [-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    assert quants.dequantize(raw, "Q4_0").tolist() == rising + rising[::-1]


def test_q4_1_by_hand():
    """Byte 0x2F: weight 0 is 15 * 2 - 3 = 27, weight 16 is 2 * 2 - 3 = 1; all others are 0 * 2 - 3 = -3."""
    raw = block(*half(2), *half(-3), 0x2F, *[0] * 15)
    assert quants.dequantize(raw, "Q4_1").tolist() == [27] + [-3] * 15 + [1] + [-3] * 15


def test_q8_0_by_hand():
    raw = block(*half(0.25), 0x80, 0xFF, 0x00, 0x01, 0x7F, *[4] * 27)
    assert quants.dequantize(raw, "Q8_0").tolist() == [-32, -0.25, 0, 0.25, 31.75] + [1] * 27


def test_q4_k_by_hand():
    """Group 0: scale 5, offset 3. Group 4: scale 0b11_0010 = 50, offset 0b01_1001 = 25, in three bytes."""
    scales = [0b11_000101, 0, 0, 0, 0b01_000011, 0, 0, 0, 0b1001_0010, 0, 0, 0]
    raw = block(*half(2), *half(0.5), *scales, *[0x07] * 32, *[0] * 32, *[0x03] * 32, *[0] * 32)
    groups = quants.dequantize(raw, "Q4_K").reshape(8, 32)
    assert (groups[0] == 2 * 5 * 7 - 0.5 * 3).all()
    assert (groups[4] == 2 * 50 * 3 - 0.5 * 25).all()
    assert (groups[[1, 2, 3, 5, 6, 7]] == 0).all()


def test_q6_k_by_hand():
    """Low byte 0xF1 and high byte 0b00_10_00_11: weight 0 is 0b11_0001 - 32 = 17, weight 64 is 0b10_1111 - 32
    = 15.
    """
    scales = [3, 0, 0, 0, 256 - 2, *[0] * 11]
    raw = block(0xF1, *[0] * 127, 0b00_10_00_11, *[0] * 63, *scales, *half(0.5))
    weights = quants.dequantize(raw, "Q6_K")
    assert weights[:16].tolist() == [0.5 * 3 * 17] + [0.5 * 3 * -32] * 15
    assert weights[64:80].tolist() == [0.5 * -2 * 15] + [0.5 * -2 * -32] * 15
    assert not weights[16:64].any()
    assert not weights[80:].any()


def test_integers_of_q2_k_by_hand():
    raw = block(*[0x21] * 16, 0b11_10_01_00, *[0] * 63, *half(1), *half(4))
    q, scale, offset = quants.unpack(raw, "Q2_K")
    assert q.shape == (1, 16, 16)
    assert q[0, ::2, 0].tolist() == [0, 1, 2, 3, 0, 0, 0, 0]  # weights 0, 32, 64, 96 share the first byte
    assert (scale.unit.tolist(), scale.steps.tolist()) == ([[1]], [[1] * 16])
    assert (offset.unit.tolist(), offset.steps.tolist()) == ([[-4]], [[2] * 16])
    assert scale.product().tolist() == [[1] * 16]
    assert offset.product().tolist() == [[-8] * 16]


# Against the gguf package


@pytest.mark.parametrize("name", WORDS)
def test_equals_gguf_bit_for_bit(name):
    blocks = random_blocks(name, 10_000)
    expected = by_gguf(blocks, name)
    assert_same_bits(quants.dequantize(blocks, name), expected)
    assert_same_bits(quants.dequantize(big_endian(blocks, name), name, ">"), expected)


@pytest.mark.parametrize("name", WORDS)
def test_infinite_and_nan_scales_stay_so(name):
    blocks = random_blocks(name, 10_000, finite=False)
    np.testing.assert_array_equal(quants.dequantize(blocks, name), by_gguf(blocks, name))


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_unpacked_integers_give_back_the_weights(name, byte_order):
    blocks = random_blocks(name, 1200)
    raw = blocks if byte_order == "<" else big_endian(blocks, name)
    q, scale, offset = quants.unpack(raw.reshape(3, 4, -1), name, byte_order)
    weights, group = quants.FORMATS[name].weights, quants.FORMATS[name].group
    assert q.dtype == np.int8
    assert q.shape == (3, 4, 100, weights // group, group)
    for scales in (scale, offset or scale):
        assert scales.unit.dtype == np.float32
        assert scales.unit.shape == (3, 4, 100, 1)
        assert (scales.steps is None) == (weights == group)
        if scales.steps is not None:
            assert scales.steps.dtype == np.int8
            assert scales.steps.shape == q.shape[:4]
    assert_same_bits(put_together(q, scale, offset).reshape(1200, weights), by_gguf(blocks, name))
    assert (offset is not None) == quants.FORMATS[name].has_offset


@pytest.mark.parametrize("name", FOREIGN)
def test_types_left_to_gguf(name):
    raw = random_blocks(name, 1300).reshape(130, -1)
    expected = by_gguf(raw, name)
    np.testing.assert_array_equal(quants.dequantize(raw, name), expected)


def test_sizes_are_those_of_gguf():
    ours = {name: (f.weights, f.dtype.itemsize) for name, f in quants.FORMATS.items()}
    ours |= {name: (weights, size) for name, (size, weights) in quants.FOREIGN.items()}
    assert ours == {name: GGML_QUANT_SIZES[GGMLQuantizationType[name]] for name in ours}
    assert set(ours) == {*WORDS, *FOREIGN}


# Plain numbers


@pytest.mark.parametrize("byte_order", "<>")
def test_every_float16_and_bfloat16(byte_order):
    raw = np.arange(1 << 16, dtype=byte_order + "u2").view(np.uint8).reshape(256, -1)
    native = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(256, -1)
    for name in ("F16", "BF16"):
        expected = by_gguf(native, name)
        assert_same_bits(quants.dequantize(raw, name, byte_order), expected)


@pytest.mark.parametrize("byte_order", "<>")
@pytest.mark.parametrize(("name", "code"), [("F32", "f4"), ("F64", "f8")])
def test_float32_and_float64(byte_order, name, code):
    values = np.random.default_rng(0).standard_normal((130, 70)).astype(byte_order + code)
    raw = values.view(np.uint8)
    expected = np.array([[float(v) for v in row] for row in values], np.float32)
    assert_same_bits(quants.dequantize(raw, name, byte_order), expected)


def test_float32_is_not_copied_unless_asked():
    raw = np.zeros((2, 8), np.uint8)
    assert np.shares_memory(quants.dequantize(raw, "F32"), raw)
    out = np.ones((2, 2), np.float32)
    assert quants.dequantize(raw, "F32", out=out) is out
    assert not out.any()


# Shapes, tiles and memory


@pytest.mark.parametrize("shape", [(24,), (4, 6), (2, 3, 4), (0, 4)])
def test_leading_axes(shape):
    n = int(np.prod(shape))
    blocks = random_blocks("Q4_1", n)
    raw = blocks.reshape(*shape[:-1], -1) if n else np.empty((0, 80), np.uint8)
    expected = by_gguf(blocks, "Q4_1") if n else np.empty(0, np.float32)  # gguf cannot do without blocks
    expected = expected.reshape(*shape[:-1], shape[-1] * 32)
    assert_same_bits(quants.dequantize(raw, "Q4_1"), expected)
    q, scale, offset = quants.unpack(raw, "Q4_1")
    assert (q.shape, scale.unit.shape, offset.unit.shape) == ((*shape, 1, 32), (*shape, 1), (*shape, 1))


@pytest.mark.parametrize("name", ["Q8_0", "Q6_K"])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_edges_of_tiles(name, extra):
    """One block less than two tiles, exactly two, one more: in one long row, and row by row."""
    n = 2 * quants.TILE // quants.FORMATS[name].weights + extra
    blocks = random_blocks(name, n)
    expected = by_gguf(blocks, name)
    assert_same_bits(quants.dequantize(blocks.reshape(-1), name), expected.reshape(-1))
    assert_same_bits(quants.dequantize(blocks, name), expected)
    assert_same_bits(put_together(*quants.unpack(blocks, name)).reshape(expected.shape), expected)


def test_fills_out():
    raw = random_blocks("Q4_K", 600).reshape(200, -1)
    expected = by_gguf(raw, "Q4_K")
    out = np.full((3, 200, 768), 7, np.float32)
    quants.dequantize(raw, "Q4_K", out=out[1])
    assert_same_bits(out[1], expected)
    assert (out[[0, 2]] == 7).all()
    with pytest.raises(ValueError, match="contiguous"):
        quants.dequantize(raw, "Q4_K", out=np.empty((200, 1000), np.float32)[:, :768])
    with pytest.raises(ValueError, match=r"\(200, 768\)"):
        quants.dequantize(raw, "Q4_K", out=np.empty((200, 1000), np.float32))


def test_read_only_and_scattered_bytes():
    raw = random_blocks("Q5_1", 400).reshape(40, -1)
    raw.flags.writeable = False
    expected = by_gguf(raw, "Q5_1")
    assert_same_bits(quants.dequantize(raw[::3, 24:-24], "Q5_1"), np.ascontiguousarray(expected[::3, 32:-32]))


@pytest.mark.parametrize("name", ["Q4_1", "Q6_K", "IQ4_NL", "F16", "IQ3_XXS"])
def test_extra_memory_does_not_grow_with_the_tensor(name):
    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    raw = np.zeros((1024, 4096 // weights * size), np.uint8)
    out = np.empty((1024, 4096), np.float32)
    tracemalloc.start()
    quants.dequantize(raw, name, out=out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6  # out has 17e6


# Errors


@pytest.mark.parametrize("name", ["Q8_1", "Q8_K", "I8", "I32", "Q9_Z"])
def test_unknown_types_are_named_and_the_known_listed(name):
    with pytest.raises(UnsupportedModel, match=rf"{name}.*F32.*Q4_K.*IQ2_XXS"):
        quants.dequantize(np.zeros((1, 1024), np.uint8), name)
    assert name not in quants.SUPPORTED


@pytest.mark.parametrize("name", ["F16", "IQ2_XXS", "Q8_1"])
def test_unpack_is_for_own_block_formats(name):
    with pytest.raises(UnsupportedModel, match=rf"{name}.*Q4_0.*TQ2_0"):
        quants.unpack(np.zeros((1, 66), np.uint8), name)


def test_big_endian_types_left_to_gguf_are_refused():
    with pytest.raises(UnsupportedModel, match=r"IQ2_XXS is not supported in big-endian files.*Q4_K"):
        quants.dequantize(np.zeros((1, 66), np.uint8), "IQ2_XXS", ">")


def test_a_gguf_package_too_old_for_a_type(monkeypatch):
    def dequantize(raw, type):
        raise NotImplementedError

    monkeypatch.setattr(gguf_quants, "dequantize", dequantize)
    with pytest.raises(UnsupportedModel, match="NVFP4 needs a newer gguf"):
        quants.dequantize(np.zeros((1, 36), np.uint8), "NVFP4")


def test_expanding_reads_no_source(monkeypatch):
    """NumPy reads "16u1" by `ast`, in which threads of Python 3.11 disturb each other."""

    def refuse(*_, **__):
        raise SystemError("AST constructor recursion depth mismatch")

    monkeypatch.setattr(ast, "literal_eval", refuse)
    with pytest.raises(SystemError):
        np.dtype([("q", "16u1")])
    for kind in FORMATS:
        raw = random_blocks(kind, 3)
        assert_same_bits(dequantize(raw, kind), by_gguf(raw, kind))
        unpack(raw, kind)
