"""Each augmentation does what its field says, and nothing but what the generator says."""

import json

import numpy as np
import pytest
import soundfile

from depthup.config import AugmentConfig
from depthup.data import Augmenter
from depthup.errors import UserError

RATE = 16000
EVERYTHING = AugmentConfig(
    speed=[0.9, 1.1], gain_db=[-6, 6], tilt_db=6, noise="white", noise_prob=1.0, time_masks=2, freq_masks=2
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sine(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def decibels(power: float) -> float:
    return 10 * float(np.log10(power))


def test_all_off_by_default():
    augmenter, clip, logmel = Augmenter(AugmentConfig(), RATE), sine(440), rng().normal(size=(50, 80))
    assert np.array_equal(augmenter.waveform(clip, rng()), clip)
    assert np.array_equal(augmenter.features(logmel, rng()), logmel)


def test_the_generator_decides_everything():
    augmenter, clip, logmel = Augmenter(EVERYTHING, RATE), sine(440), rng().normal(size=(90, 80))
    before = clip.copy(), logmel.copy()
    first = augmenter.waveform(clip, rng(1))
    assert first.dtype == np.float32
    assert np.array_equal(first, augmenter.waveform(clip, rng(1)))
    assert not np.array_equal(first[:14000], augmenter.waveform(clip, rng(2))[:14000])
    assert np.array_equal(augmenter.features(logmel, rng(1)), augmenter.features(logmel, rng(1)))
    assert not np.array_equal(augmenter.features(logmel, rng(1)), augmenter.features(logmel, rng(2)))
    # What came in is left as it was.
    assert np.array_equal(clip, before[0]) and np.array_equal(logmel, before[1])


def test_speed_shortens_and_raises_the_pitch():
    fast = Augmenter(AugmentConfig(speed=[1.25, 1.25]), RATE).waveform(sine(400), rng())
    assert len(fast) == round(RATE / 1.25)
    peak = np.argmax(np.abs(np.fft.rfft(fast))) * RATE / len(fast)
    assert peak == pytest.approx(500, abs=2)


def test_gain_stays_within_its_bounds():
    augmenter, clip = Augmenter(AugmentConfig(gain_db=[-6, 3]), RATE), sine(440)
    gains = [decibels(np.mean(augmenter.waveform(clip, rng(i)) ** 2) / np.mean(clip**2)) for i in range(100)]
    assert -6.01 < min(gains) < -5 and 2 < max(gains) < 3.01


def test_tilt_moves_the_ends_and_keeps_the_middle():
    augmenter = Augmenter(AugmentConfig(tilt_db=6), RATE)
    low, middle, high = [], [], []
    for seed in range(60):
        for gains, hertz in ((low, 100), (middle, np.sqrt(100 * 8000)), (high, 7900)):
            clip = sine(hertz, 2.0)
            gains.append(decibels(np.mean(augmenter.waveform(clip, rng(seed)) ** 2) / np.mean(clip**2)))
    for gains in (low, high):
        assert -6.3 < min(gains) < -4 and 4 < max(gains) < 6.3
    assert np.abs(middle).max() < 0.3
    assert abs(np.corrcoef(low, high)[0, 1]) < 0.5


def test_white_noise_has_the_asked_level_and_share():
    clip = sine(440)
    augmenter = Augmenter(AugmentConfig(noise="white", noise_snr_db=[5, 15], noise_prob=0.25), RATE)
    added = [augmenter.waveform(clip, rng(seed)) - clip for seed in range(300)]
    noisy = [noise for noise in added if np.any(noise)]
    assert 0.17 < len(noisy) / 300 < 0.33
    ratios = [decibels(np.mean(clip**2) / np.mean(noise**2)) for noise in noisy]
    assert 4.9 < min(ratios) < 7 and 13 < max(ratios) < 15.1
    assert np.isfinite(augmenter.waveform(np.zeros(RATE, dtype=np.float32), rng(3))).all()


def test_recorded_noise_is_added_wherever_it_comes_from(tmp_path):
    """Long recordings give a random stretch, short ones repeat; no transcript is needed."""
    soundfile.write(tmp_path / "long.wav", np.repeat(sine(3000, 20.0)[:, None], 2, axis=1), RATE)
    soundfile.write(tmp_path / "short.wav", sine(5000, 0.25), RATE)
    manifest = tmp_path / "noise.jsonl"
    manifest.write_text("".join(json.dumps({"audio": name}) + "\n" for name in ("long.wav", "short.wav")))
    augmenter = Augmenter(AugmentConfig(noise=str(manifest), noise_snr_db=[10, 10], noise_prob=1.0), RATE)
    clip, heard = sine(440), set()
    for seed in range(12):
        noise = augmenter.waveform(clip, rng(seed)) - clip
        assert decibels(np.mean(clip**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.1)
        # As loud at the end as at the start.
        assert np.mean(noise[-4000:] ** 2) == pytest.approx(np.mean(noise[:4000] ** 2), rel=0.05)
        heard.add(round(np.argmax(np.abs(np.fft.rfft(noise))) / 1000) * 1000)
        assert np.array_equal(noise, augmenter.waveform(clip, rng(seed)) - clip)
    assert heard == {3000, 5000}
    soundfile.write(tmp_path / "long.wav", np.zeros(20 * RATE), RATE)
    soundfile.write(tmp_path / "short.wav", np.zeros(4000), RATE)
    assert np.array_equal(augmenter.waveform(clip, rng()), clip)
    with pytest.raises(UserError, match="nowhere.jsonl: no such file"):
        Augmenter(AugmentConfig(noise="nowhere.jsonl"), RATE)


def widths(masked: np.ndarray) -> int:
    return int(masked.sum())


@pytest.mark.parametrize(("frames", "longest"), [(400, 30), (50, 10), (3, 0)])
def test_time_masks_are_no_longer_than_asked_nor_than_a_fifth(frames, longest):
    augmenter = Augmenter(AugmentConfig(time_masks=1, time_mask_seconds=0.3), RATE)
    logmel = rng().normal(size=(frames, 80))
    hidden = [(augmenter.features(logmel, rng(seed)) == logmel.mean()).all(axis=1) for seed in range(300)]
    assert max(map(widths, hidden)) == longest and min(map(widths, hidden)) == 0
    # Masks are unbroken, and fall anywhere.
    assert all(np.abs(np.diff(rows.astype(int))).sum() <= 2 for rows in hidden)
    assert not longest or np.any(hidden, axis=0)[1:-1].all()


def test_frequency_masks_hide_bins_in_every_frame():
    augmenter = Augmenter(AugmentConfig(freq_masks=2, freq_mask_bins=15), RATE)
    logmel = rng().normal(size=(60, 80))
    hidden = []
    for seed in range(300):
        masked = augmenter.features(logmel, rng(seed)) == logmel.mean()
        assert np.array_equal(masked.any(axis=0), masked.all(axis=0))
        hidden.append(masked.all(axis=0))
    assert 15 < max(map(widths, hidden)) <= 30
    assert np.any(hidden, axis=0).all()
