"""Writes the self-test that a board runs (`spikeloom.host.self_test`) from the integer reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeloom.host.self_test import SelfTest, tensor_checksum
from spikeloom.hw.program.layout import NETWORK_DTYPES
from spikeloom.hw.program.program import Program
from spikeloom.network import Network, outputs_of
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.reference import Reference

__all__ = ["make_self_test", "write_self_test"]


def make_self_test(network: Network, program: Program, clip: NDArray[Any] | None = None) -> SelfTest:
    """Self-test of `program`, which was compiled from `network`; `clip` is random if not given.

    Tensors that never leave the chip are not in it: a fault in one shows in the next that does.

    Raises:
        ValueError: `program` is of another network, or the clip does not fit.
    """
    if program.network_hash != network.hash:
        raise ValueError(f"`program` must be of network {network.hash:.12}, not `{program.network_hash:.12}`")
    clip = random_clip(network, 0) if clip is None else clip
    expected = Reference(network).run(clip)
    checksums = []
    for operator in network.operators:
        for name in outputs_of(operator):
            if not program.tensors[name].stored:
                continue
            tensor = np.asarray(expected[name].numpy(), NETWORK_DTYPES[program.tensors[name].kind])
            checksums.append((operator.name, name, tensor_checksum(tensor)))
    return SelfTest(network_hash=network.hash, config_hash=program.config.hash, input=program.pack_input(clip),
                    checksums=tuple(checksums))


def write_self_test(directory: str | Path, clip: NDArray[Any] | None = None) -> SelfTest:
    """Write the self-test beside the program of a build directory (`spikeloom.hw.build.build`).

    Raises:
        NetworkError, ProgramError: The network or the program in it is malformed.
        ValueError: As for `make_self_test`.
    """
    directory = Path(directory)
    program = Program.load(directory / "program")
    test = make_self_test(Network.load(directory / "network"), program, clip)
    test.save(directory / "program")
    return test
