"""Random networks with realistic firing rates."""

import numpy as np
import pytest

from spikeloom.quantize.models import named_config
from spikeloom.quantize.quantizer import quantize
from spikeloom.quantize.reference import Reference
from spikeloom.quantize.untrained import untrained


def clip_for(frames: int, height: int, width: int) -> np.ndarray:
    rows = np.arange(height)[:, None, None] + 3 * np.arange(width)[:, None]
    return ((rows * (1 + np.arange(frames)[:, None, None, None])) % 256).repeat(3, -1).astype(np.uint8)


def test_neurons_fire_and_repeat():
    config = named_config("micro")
    clip = clip_for(config.frames, config.height, config.width)
    networks = [quantize(untrained(config, clip, seed=3), clip[None])[0] for _ in range(2)]
    assert networks[0].hash == networks[1].hash
    values = Reference(networks[0]).run(clip)
    rates = [float(value.float().mean()) for name, value in values.items()
             if networks[0].tensors[name].kind == "spikes"]
    assert 0.02 < float(np.mean(rates)) < 0.6


def test_refuses_another_size():
    with pytest.raises(ValueError, match="`clip` must have the shape"):
        untrained(named_config("micro"), np.zeros((1, 2, 2, 3), np.uint8))
