"""The story: what it measures, and that it comes to its end."""

import math
from argparse import Namespace

import numpy as np
import pytest

story = pytest.importorskip("story", reason="the story draws with matplotlib")


def test_perplexity_and_kl_by_hand():
    """Two places, two tokens: the base says 1/2 1/2 and 1/4 3/4, the model 1/4 3/4 both times. Token 1 comes
    twice.
    """
    base, log_p = (
        np.log(np.float32([[0.5, 0.5], [0.25, 0.75]])),
        np.log(np.float32([[0.25, 0.75], [0.25, 0.75]])),
    )
    found = story.compare(log_p, base, [[7, 1], [7, 1]])
    assert found["perplexity"] == pytest.approx(4 / 3, rel=1e-6)
    assert found["kl"] == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2, rel=1e-6)
    assert found["same"] == 0.5  # of equal logits the first is taken


def test_the_whole_chain_in_a_few_steps(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(story, "SAMPLES", 2)
    monkeypatch.setattr(story, "HELD_OUT", 20)
    story.tell(Namespace(out=tmp_path, steps=8, seed=0))
    out = capsys.readouterr().out
    for part in ("TRAINING", "INFERENCE", "QUANTIZATION", "m_1", "m_final", "Q8_0", "Q4_0", "Q4_K", "floor"):
        assert part in out
    assert (tmp_path / "story.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "story.html").read_text(encoding="utf-8")
    assert '"model":"m_final"' in page
    assert f"wrote {tmp_path / 'story.html'}" in out
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("m_*.gguf")}
    assert len({sizes[f"m_{i}.gguf"] for i in (1, 2, 3, 4, "final")}) == 1
    assert sizes["m_final-Q4_K.gguf"] < sizes["m_final-Q8_0.gguf"] < sizes["m_final.gguf"]
