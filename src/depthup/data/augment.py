"""Random changes to training audio and features, each a pure function of the random generator it is given."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import soxr

from depthup.config import AugmentConfig, DataConfig
from depthup.data.audio import BadAudio, read_audio, say_once
from depthup.data.cuts import load_sources

FRAMES_PER_SECOND = 100
# A time mask never hides more than this share of a clip.
MOST_MASKED = 0.2
# The tilt filter turns about the middle of the octaves between this frequency (Hz) and the highest.
LOWEST_TILT = 100.0


class Augmenter:
    """Speed, tilt, noise and gain on waveforms, SpecAugment on features, as far as the recipe asks for them.

    Raises `UserError` where `augment.noise` is no readable manifest.
    """

    def __init__(self, config: AugmentConfig, sampling_rate: int) -> None:
        self.config = config
        self.sampling_rate = sampling_rate
        recorded = config.noise is not None and config.noise != "white"
        self.source = load_sources(str(config.noise), DataConfig(), texts="unchecked") if recorded else None
        self.noises = list(self.source or ())

    def waveform(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Changes mono float32 [samples]; the result is 1 / speed times as long. Levels may exceed 1."""
        config = self.config
        if config.speed:
            factor = _uniform(config.speed, rng)
            samples = soxr.resample(samples, self.sampling_rate * factor, self.sampling_rate)
        if config.tilt_db:
            samples = self._tilt(samples, rng)
        if config.noise and config.noise_snr_db and rng.random() < config.noise_prob:
            samples = self._add_noise(samples, rng)
        if config.gain_db:
            samples = samples * 10 ** (_uniform(config.gain_db, rng) / 20)
        return samples.astype(np.float32, copy=False)

    def features(self, logmel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """SpecAugment: log-mel features [frames, bins], 100 frames a second, with masks set to the clip's mean."""
        config = self.config
        if not config.time_masks and not config.freq_masks:
            return logmel
        masked, mean = logmel.copy(), logmel.mean()
        frames, bins = logmel.shape
        longest = min(round(config.time_mask_seconds * FRAMES_PER_SECOND), int(MOST_MASKED * frames))
        for _ in range(config.time_masks):
            start, end = _random_span(frames, longest, rng)
            masked[start:end] = mean
        for _ in range(config.freq_masks):
            start, end = _random_span(bins, min(config.freq_mask_bins, bins), rng)
            masked[:, start:end] = mean
        return masked

    def _tilt(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Filters by a parabola over octaves: 0 dB in the middle, up to ±tilt_db at either end."""
        low, high = rng.uniform(-self.config.tilt_db, self.config.tilt_db, size=2)
        octaves = math.log2(self.sampling_rate / 2 / LOWEST_TILT)

        def gain(frequencies: np.ndarray) -> np.ndarray:
            x = 2 * np.log2((frequencies * self.sampling_rate).clip(min=LOWEST_TILT) / LOWEST_TILT) / octaves - 1
            return 10 ** ((low * x * (x - 1) / 2 + high * x * (x + 1) / 2) / 20)

        return _filtered(samples, gain)

    def _add_noise(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        try:
            noise = self._recorded_noise(len(samples), rng) if self.noises else _coloured_noise(len(samples), rng)
        except BadAudio as error:
            say_once(f"left out a recording of augment.noise: {error}")
            return samples
        snr_db = _uniform(self.config.noise_snr_db, rng)
        noise_power = np.mean(np.square(noise))
        if not noise_power:
            return samples
        wanted_power = np.mean(np.square(samples)) / 10 ** (snr_db / 10)
        return samples + noise * math.sqrt(wanted_power / noise_power)

    def _recorded_noise(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """A random stretch of a random recording, repeated where the recording is shorter."""
        cut = self.noises[rng.integers(len(self.noises))]
        seconds = length / self.sampling_rate
        if cut.duration > seconds:
            cut = cut.truncate(offset=rng.uniform(0, cut.duration - seconds), duration=seconds)
        return np.resize(read_audio(cut, self.sampling_rate), length)


def _coloured_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of a random colour between white (power even over frequency) and pink (power 1 / frequency)."""
    noise, slope = rng.standard_normal(length, dtype=np.float32), rng.random() / 2
    return _filtered(noise, lambda frequencies: frequencies.clip(min=1 / length) ** -slope)


def _filtered(samples: np.ndarray, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Samples with each frequency, in cycles per sample, multiplied by its gain."""
    # A transform whose length has large prime factors takes ten times as long.
    power = 1 << (len(samples) - 1).bit_length()
    length = min(n for n in (power * 5 // 8, power * 3 // 4, power) if n >= len(samples))
    gains = gain(np.fft.rfftfreq(length)).astype(np.float32)
    return np.fft.irfft(np.fft.rfft(samples, length) * gains, length)[: len(samples)]


def _uniform(bounds: list[float], rng: np.random.Generator) -> float:
    low, high = bounds
    return rng.uniform(low, high)


def _random_span(size: int, longest: int, rng: np.random.Generator) -> tuple[int, int]:
    width = int(rng.integers(longest + 1))
    start = int(rng.integers(size - width + 1))
    return start, start + width
