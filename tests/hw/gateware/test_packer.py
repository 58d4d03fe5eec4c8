"""Pixel packer without a simulator: cycles, and its model against the interpreter's. Bench: `test_dma`."""

import random

import numpy as np
import pytest

from spikeloom.config import MachineConfig, preset
from spikeloom.hw.gateware.packer import PixelPacker
from spikeloom.hw.program.packer_model import packed_words

CONFIGS = {"tiny": preset("tiny"), "small": preset("small"), "flagship": preset("zcu104")}


def instruction(rng: random.Random, config: MachineConfig) -> dict[str, int]:
    """A LOAD_PIXELS of which no two words go to the same place."""
    rows, cols, height, row_bytes = rng.randint(1, 3), rng.randint(1, 6), rng.randint(1, 5), rng.randint(1, 40)
    fold = 1 << rng.randrange(config.banks.bit_length())
    return {
        "pitch": 48, "frame_stride": 48 * height, "frames": rng.randint(1, config.lanes),
        "row": rng.randint(-2, height), "rows": rows, "height": height, "row_bytes": row_bytes,
        "start": rng.randint(-9, 9), "step": rng.randint(0, 12), "cols": cols, "words": rng.randint(1, 15),
        "fold": fold, "pad0": rng.getrandbits(8), "pad1": rng.getrandbits(8), "pad2": rng.getrandbits(8),
        "address": rng.getrandbits(9), "plane_stride": 15 * rows * cols, "word_stride": rows * cols}


def written_by_gateware(config: MachineConfig, body: dict[str, int], memory: bytes) -> dict[tuple[int, int], int]:
    """(bank, address) -> word."""
    content = {}
    for write in PixelPacker(config).model(memory, 0, body):
        for bank in (b for b in range(config.banks) if write.mask >> b & 1):
            place = (bank, write.address)
            assert place not in content
            content[place] = write.data >> bank * config.beat_bits & (1 << config.beat_bits) - 1
    return content


@pytest.mark.parametrize("name", list(CONFIGS))
def test_models_agree(name):
    config, rng = CONFIGS[name], random.Random(f"packer {name}")
    for _ in range(8):
        body = instruction(rng, config)
        memory = rng.randbytes(body["frames"] * body["frame_stride"])
        picture = np.frombuffer(memory, dtype=np.uint8).reshape(body["frames"], body["height"], 48)
        content = {(bank, int(address)): int.from_bytes(word.tobytes(), "little")
                   for banks, addresses, words in packed_words(body, picture, config) for bank in banks
                   for address, word in zip(addresses, words, strict=True)}
        assert written_by_gateware(config, body, memory) == content


@pytest.mark.parametrize(("words", "fold", "windows"), [
    (1, 1, 1), (2, 1, 2), (1, 2, 1), (2, 2, 1), (3, 2, 2), (4, 8, 2),
])
def test_windows(words, fold, windows):
    packer = PixelPacker(preset("zcu104"))
    assert packer.windows(words, fold) == windows
    assert packer.cycles(1, 101, words, fold) - packer.cycles(1, 100, words, fold) == 8 * windows


def test_row_of_a_stem():
    """Stem of SpikeVideoFormer: 7 x 7 taps of RGB, 112 columns: 21 bytes, two words."""
    packer = PixelPacker(preset("zcu104"))
    assert packer.cycles(2, 112, 2, 2) - packer.cycles(1, 112, 2, 2) == 897
