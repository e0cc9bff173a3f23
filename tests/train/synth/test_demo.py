from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import OutputError
from train.synth import demo
from train.synth.render import Renderer


@pytest.fixture
def short_clip(renderer: Renderer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A clip of six frames, its cache under tmp_path."""
    monkeypatch.setattr(demo, "FRAMES", 6)
    monkeypatch.setattr(demo, "Renderer", lambda _: renderer)
    monkeypatch.setenv("AUSTREAM_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_a_frame_is_the_same_whenever_it_is_asked_for(renderer: Renderer) -> None:
    first, other = demo.frame_at(renderer, 40), demo.frame_at(renderer, 41)
    assert first.shape == (480, 640, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, demo.frame_at(renderer, 40))
    assert not np.array_equal(first, other)


def test_noise_is_gentle_centred_and_free_of_pattern() -> None:
    noisy = np.full((200, 300, 3), 128, np.uint8)
    demo.add_noise(noisy, 1.6, np.uint32(5))
    noise = noisy[..., 1].astype(float) - 128
    assert abs(noise.mean()) < 0.05
    assert 1.4 < noise.std() < 1.9
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.02
    assert noise.mean(axis=0).std() < 0.2
    again = np.full_like(noisy, 128)
    demo.add_noise(again, 1.6, np.uint32(6))
    other = again[..., 1].astype(float) - 128
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.02


def test_the_clip_is_rendered_once_and_then_reused(short_clip: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = demo.ensure_clip(lambda done, total: seen.append((done, total)))
    assert path.parent == short_clip / "demo"
    assert seen == [(k, 6) for k in range(1, 7)]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert demo.ensure_clip(lambda done, total: seen.append((done, total))) == path
    assert len(seen) == 6


def test_the_clip_plays_at_exactly_25_frames_a_second(short_clip: Path, renderer: Renderer) -> None:  # noqa: ARG001
    with av.open(str(demo.ensure_clip())) as container:
        stream = container.streams.video[0]
        decoded = list(container.decode(stream))
    assert stream.codec_context.name == "h264"
    assert stream.average_rate == 25
    assert [frame.pts * frame.time_base for frame in decoded] == [k * demo.Fraction(1, 25) for k in range(6)]
    picture = decoded[3].to_ndarray(format="bgr24").astype(int)
    assert np.abs(picture - demo.frame_at(renderer, 3)).mean() < 3


def test_a_rendering_cut_short_leaves_no_clip(short_clip: Path) -> None:
    def stop(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.ensure_clip(stop)
    assert not list((short_clip / "demo").iterdir())


def test_a_cache_that_cannot_be_written_is_an_output_error(
    short_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = short_clip / "file"
    blocked.write_text("")
    monkeypatch.setenv("AUSTREAM_CACHE_DIR", str(blocked))
    with pytest.raises(OutputError, match="AUSTREAM_CACHE_DIR"):
        demo.ensure_clip()


def test_changed_sources_give_a_new_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = demo.fingerprint()
    assert demo.fingerprint() == before
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "demo.py"))
    assert demo.fingerprint() != before
