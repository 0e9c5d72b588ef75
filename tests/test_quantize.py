"""scripts/quantize.py against the gguf package and llama.cpp's own quantizers, and on files that are odd or
broken.
"""

import subprocess
import sys

import gguf
import numpy as np
import pytest
import quantize
from conftest import ROOT, real_model
from gguf import quants as gguf_quants
from make_tiny_model import make
from quantization import kquants  # conftest.py puts scripts/ on the path
from record_quantizers import RECORD, TYPES, random_weights, real_weights, relative_error
from rewrite import rewrite

import llmcore
from llmcore.errors import ModelFileError
from llmcore.loader import read_gguf
from llmcore.quants import dequantize

with np.load(RECORD) as record:
    ERRORS = dict(zip(record["names"].tolist(), record["errors"].tolist(), strict=True))
    WEIGHTS = random_weights() | real_weights(record)
WIDE = {"width": 256, "ff": 256, "heads": 4, "kv_heads": 1, "layers": 1}


def run(*arguments):
    command = [sys.executable, ROOT / "scripts" / "quantize.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture
def model(tmp_path):
    """A float32 model whose rows divide into blocks of 256."""
    make("llama", tmp_path / "model.gguf", **WIDE)
    return tmp_path / "model.gguf"


def by_gguf(raw, type):
    return gguf_quants.dequantize(raw, gguf.GGMLQuantizationType[type])


# The search for scales


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("name", WEIGHTS)
def test_errors_are_no_larger_than_those_of_llama_cpp(name, type):
    back = by_gguf(kquants.quantize(WEIGHTS[name], type), type).reshape(WEIGHTS[name].shape)
    assert relative_error(WEIGHTS[name], back) < ERRORS[f"{type} {name}"]


@pytest.mark.parametrize("type", TYPES)
def test_all_read_the_same_numbers(type):
    raw = kquants.quantize(WEIGHTS["heavy"], type)
    np.testing.assert_array_equal(dequantize(raw, type), by_gguf(raw, type))


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize(
    ("size", "rtol"), [(1e-3, 1e-2), (1, 2e-3), (1e4, 2e-3)]
)  # float16 has few digits below 6e-5
def test_constant_blocks(type, size, rtol):
    for value in (size, -size):
        back = by_gguf(kquants.quantize(np.full((3, 256), value, np.float32), type), type)
        np.testing.assert_allclose(back, value, rtol=rtol)


@pytest.mark.parametrize("type", TYPES)
def test_zeros_stay_zeros(type):
    weights = np.zeros((2, 512), np.float32)
    weights[0, :64] = np.linspace(-1, 1, 64)
    back = by_gguf(kquants.quantize(weights, type), type)
    assert not back[0, 256:].any()
    assert not back[1].any()
    np.testing.assert_allclose(back[0, :64], weights[0, :64], atol=0.07)


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.filterwarnings("error")
def test_tiny_and_subnormal_weights_become_small_or_zero(type):
    normal = WEIGHTS["normal"][:2, :256]
    for size in (1e-38, 1e-42, 1e-20):
        assert not by_gguf(kquants.quantize(normal * np.float32(size), type), type).any()
    mixed = normal.copy()
    mixed[:, 128:] *= np.float32(1e-40)
    assert np.abs(by_gguf(kquants.quantize(mixed, type), type)[:, 128:]).max() < 0.2


@pytest.mark.parametrize("type", TYPES)
def test_a_block_does_not_depend_on_its_neighbours_or_its_size(type):
    weights = WEIGHTS["normal"][:4]
    whole = kquants.quantize(weights, type)
    alone = [kquants.quantize(block, type) for block in weights.reshape(-1, 256)]
    np.testing.assert_array_equal(whole.ravel(), np.concatenate(alone))
    doubled = by_gguf(kquants.quantize(weights * 1024, type), type)
    np.testing.assert_array_equal(doubled, by_gguf(whole, type) * 1024)


def test_weights_on_the_grid_of_q6_k_come_back():
    """Scales 1 to 16 over d = 1/1024; each group reaches -32, so that its scale can be told."""
    q = np.random.RandomState(0).randint(-32, 32, (16, 16))
    q[:, 0] = -32
    weights = (q * (8 * np.arange(1, 17)[:, None]) / 1024).astype(np.float32).reshape(1, 256)
    np.testing.assert_allclose(by_gguf(kquants.quantize(weights, "Q6_K"), "Q6_K"), weights, atol=1e-3)


# The file


@pytest.mark.parametrize("type", quantize.FILE_TYPES)
def test_tensors_of_the_file(model, type, tmp_path):
    out = tmp_path / "out.gguf"
    rows = quantize.quantize_file(model, out, type)
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
    after = gguf.GGUFReader(out).tensors
    assert [tensor.name for tensor in after] == list(before)
    for tensor, row in zip(after, rows, strict=True):
        weights = before[tensor.name].data
        matrix = weights.ndim == 2
        assert tensor.tensor_type.name == (type if matrix else "F32")
        assert tensor.shape.tolist() == before[tensor.name].shape.tolist()
        if matrix and type not in TYPES:
            wanted = gguf_quants.quantize(weights, gguf.GGMLQuantizationType[type])
            np.testing.assert_array_equal(tensor.data.view(np.uint8), wanted.view(np.uint8))
        back = gguf_quants.dequantize(tensor.data, tensor.tensor_type)
        assert row.error == pytest.approx(relative_error(weights, back), rel=1e-6)
    assert llmcore.load(out).logits([1, 5, 9]).std() > 0


def test_metadata_is_copied_and_says_what_was_done(model, tmp_path):
    quantize.quantize_file(model, tmp_path / "out.gguf", "Q4_K")
    before, after = (
        {k: f.contents() for k, f in gguf.GGUFReader(p).fields.items()}
        for p in (model, tmp_path / "out.gguf")
    )
    assert after["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_K_S
    assert after["general.quantization_version"] == 2
    ours = {"general.file_type", "general.quantization_version", "GGUF.kv_count"}
    assert {k: v for k, v in after.items() if k not in ours} == {
        k: v for k, v in before.items() if k not in ours
    }


def test_rows_that_do_not_divide_fall_back(tmp_path):
    make("llama", tmp_path / "model.gguf", width=96, heads=3, kv_heads=3, ff=40, layers=1)
    for type, fallback in (("Q4_K", "Q5_0"), ("Q6_K", "Q8_0"), ("Q4_0", "Q4_0")):
        rows = quantize.quantize_file(tmp_path / "model.gguf", tmp_path / f"{type}.gguf", type)
        types = {row.name: row.type for row in rows}
        assert types["blk.0.ffn_up.weight"] == fallback  # rows of 96
        assert types["blk.0.ffn_down.weight"] == "F16"  # rows of 40
        assert types["blk.0.attn_norm.weight"] == "F32"
        assert (
            any("40" not in line and fallback in line for line in quantize.notes(rows, type))
            or type == fallback
        )
        assert llmcore.load(tmp_path / f"{type}.gguf").logits([1, 2]).shape[0] == 2


@pytest.mark.parametrize(
    ("family", "kept"), [("llama-moe", "blk.0.ffn_gate_inp.weight"), ("gpt2", "position_embd.weight")]
)
def test_routers_and_positions_stay_floats(family, kept, tmp_path):
    make(family, tmp_path / "model.gguf")
    rows = quantize.quantize_file(tmp_path / "model.gguf", tmp_path / "out.gguf", "Q8_0")
    assert {row.name: row.type for row in rows}[kept] == "F32"
    assert llmcore.load(tmp_path / "out.gguf").logits([1, 2]).shape[0] == 2


def test_a_quantized_file_is_quantized_anew_and_that_is_said(tmp_path):
    make("llama", tmp_path / "model.gguf", type="Q4_1")
    rows = quantize.quantize_file(tmp_path / "model.gguf", tmp_path / "out.gguf", "Q4_0")
    assert any("was Q4_1 before" in line for line in quantize.notes(rows, "Q4_0"))
    same = quantize.quantize_file(tmp_path / "model.gguf", tmp_path / "same.gguf", "Q4_1")
    assert not any(row.error for row in same)
    for name, tensor in read_gguf(tmp_path / "same.gguf").tensors.items():
        np.testing.assert_array_equal(tensor.data, read_gguf(tmp_path / "model.gguf").tensors[name].data)


def test_split_and_big_endian_models(model, tmp_path):
    quantize.quantize_file(model, tmp_path / "plain.gguf", "Q4_K")
    wanted = (tmp_path / "plain.gguf").read_bytes()
    rewrite(model, tmp_path / "split.gguf", split_max_tensors=4)
    rewrite(model, tmp_path / "big.gguf", endianess=gguf.GGUFEndian.BIG)
    for source in (next(tmp_path.glob("split-00001-of-*.gguf")), tmp_path / "big.gguf"):
        quantize.quantize_file(source, tmp_path / "out.gguf", "Q4_K", force=True)
        assert (tmp_path / "out.gguf").read_bytes() == wanted


def test_alignment_and_bytes_that_are_no_text_are_kept(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "none")
    writer.add_custom_alignment(128)
    writer.add_key_value("broken", b"\xff\xfe", gguf.GGUFValueType.STRING)
    for name in ("a.weight", "b.weight"):
        writer.add_tensor(name, np.full((1, 32), 127, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    quantize.quantize_file(tmp_path / "model.gguf", tmp_path / "out.gguf", "Q8_0")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    assert bytes(reader.fields["broken"].parts[-1]) == b"\xff\xfe"
    assert [tensor.data_offset % 128 for tensor in reader.tensors] == [0, 0]
    assert [by_gguf(tensor.data, "Q8_0").tolist() for tensor in reader.tensors] == [[[127.0] * 32]] * 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("type", ["Q4_K", "Q8_0", "F16"])
def test_weights_that_are_no_numbers_are_refused(model, value, type, tmp_path):
    name = "blk.0.ffn_up.weight"
    weights = dequantize(read_gguf(model).tensors[name].data, "F32").copy()
    weights[3, 7] = value
    rewrite(model, tmp_path / "bad.gguf", tensors={name: weights})
    with pytest.raises(ModelFileError, match=rf"bad.gguf: tensor '{name}': weight {3 * 256 + 7} is {value}"):
        quantize.quantize_file(tmp_path / "bad.gguf", tmp_path / "out.gguf", type)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("type", ["Q4_K", "Q6_K", "Q8_0", "Q4_0", "Q4_1", "F16"])
def test_weights_out_of_range_are_refused(model, type, tmp_path):
    name = "blk.0.ffn_up.weight"
    weights = dequantize(read_gguf(model).tensors[name].data, "F32") * np.float32(1e30)
    rewrite(model, tmp_path / "bad.gguf", tensors={name: weights})
    with pytest.raises(ModelFileError, match=f"'{name}' has weights up to .*e.*, too large for {type}"):
        quantize.quantize_file(tmp_path / "bad.gguf", tmp_path / "out.gguf", type)


# The command


def test_the_command_prints_a_table_and_never_overwrites(model, tmp_path):
    out = tmp_path / "out.gguf"
    done = run(model, out, "--type", "Q6_K")
    assert done.returncode == 0, done.stderr
    assert "blk.0.ffn_up.weight" in done.stdout
    assert "bits per weight" in done.stdout
    assert [path.name for path in tmp_path.glob("out*")] == ["out.gguf"]
    out.write_bytes(b"mine")
    again = run(model, out, "--type", "Q6_K")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == f"error: {out} is there already; --force replaces it\n"
    assert out.read_bytes() == b"mine"
    assert run(model, out, "--type", "Q6_K", "--force").returncode == 0
    assert run(model, model, "--type", "Q6_K", "--force").returncode == 1


def test_wrong_arguments_and_files_are_told_in_a_line(tmp_path):
    assert run(tmp_path / "no.gguf", tmp_path / "out.gguf", "--type", "Q3_K").returncode == 2
    done = run(tmp_path / "no.gguf", tmp_path / "out.gguf", "--type", "Q8_0")
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path / 'no.gguf'}: no such file\n")


def test_real_weights_of_a_whole_matrix():
    """All of a down matrix of SmolLM2, in tiles and threads: as good as its recorded rows let expect."""
    llm_path = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    real_model(llm_path.name)
    tensor = read_gguf(llm_path).tensors["blk.14.ffn_down.weight"]
    for type in TYPES:
        raw, error = quantize.quantize_tensor(tensor, type)
        assert error < ERRORS[f"{type} down"]
        weights = dequantize(tensor.data, tensor.type)
        assert error == pytest.approx(
            relative_error(weights, by_gguf(raw, type).reshape(weights.shape)), rel=1e-6
        )
