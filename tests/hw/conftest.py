"""Fixtures: a builder of small hand-made networks with random weights; a check of their programs; one torch thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from spikeloom.config import MachineConfig
from spikeloom.hw.program.compiler import compile_network
from spikeloom.hw.program.interpreter import Interpreter
from spikeloom.hw.program.program import Program
from spikeloom.network import (
    Attend,
    Conv,
    Depthwise,
    KeyValue,
    Lif,
    MaxConv,
    Network,
    Neuron,
    Operator,
    Tensor,
    Upsample,
)
from spikeloom.quantize.random_clips import random_clip
from spikeloom.quantize.reference import Reference


class Builder:
    """Appends operators to a network; every method returns the name of the tensor made."""

    def __init__(self, kind: str, channels: int, height: int, width: int, frames: int = 4, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.network = Network(
            frames=frames, tensors={"input": Tensor(name="input", kind=kind, channels=channels, height=height,
                                                    width=width)}, operators=[], arrays={}, input="input",
            output="input")

    def conv(self, source: str = "input", channels: int = 8, kernel: int = 1, stride: int = 1, padding: int = 0,
             kind: str = "spikes", **neuron: object) -> str:
        name, given = f"conv{len(self.network.operators)}", self.network.tensors[source]
        self._weights(name, (channels, given.channels, kernel, kernel))
        height, width = ((n + 2 * padding - kernel) // stride + 1 for n in (given.height, given.width))
        stage = self._stage(name, kind, channels, height, width, neuron)
        return self._add(Conv(name=name, input=source, weight=f"{name}.weight", stride=stride, padding=padding,
                              neuron=stage))

    def maximum(self, source: str = "input", channels: int = 8, kernel: int = 3, padding: int = 1, stride: int = 1,
                window: int = 3, window_stride: int = 2, window_padding: int = 1) -> tuple[str, str]:
        """Spikes and residual."""
        name, given = f"maximum{len(self.network.operators)}", self.network.tensors[source]
        self._weights(name, (channels, given.channels, kernel, kernel))
        operator = MaxConv(
            name=name, input=source, weight=f"{name}.weight", stride=stride, padding=padding, window=window,
            window_stride=window_stride, window_padding=window_padding, neuron=Neuron(mode="residual", bias=""))
        height, width = (operator.pooled((n + 2 * padding - kernel) // stride + 1)
                         for n in (given.height, given.width))
        stage = self._stage(name, "spikes", channels, height, width, {"mode": "residual", "residual": f"{name}.r"})
        self._declare(f"{name}.r", "residual", channels, height, width)
        return self._add(replace(operator, neuron=stage)), f"{name}.r"

    def depthwise(self, source: str = "input", kernel: int = 3, padding: int = 1, kind: str = "spikes") -> str:
        name, given = f"depthwise{len(self.network.operators)}", self.network.tensors[source]
        self._weights(name, (given.channels, 1, kernel, kernel))
        height, width = (n + 2 * padding - kernel + 1 for n in (given.height, given.width))
        stage = self._stage(name, kind, given.channels, height, width, {})
        return self._add(Depthwise(name=name, input=source, weight=f"{name}.weight", padding=padding, neuron=stage))

    def keyvalue(self, key: str = "input", value: str = "input", heads: int = 1, bipolar: bool = True) -> str:
        name = f"keyvalue{len(self.network.operators)}"
        self._declare(f"{name}.out", "keyvalue", self.network.tensors[value].channels, 1, 1)
        return self._add(KeyValue(name=name, key=key, value=value, heads=heads, bipolar=bipolar,
                                  output=f"{name}.out"))

    def attend(self, query: str, keyvalue: str, bipolar: bool = True) -> str:
        name, given = f"attend{len(self.network.operators)}", self.network.tensors[query]
        channels = self.network.tensors[keyvalue].channels
        stage = self._stage(name, "spikes", channels, given.height, given.width, {})
        return self._add(Attend(name=name, query=query, keyvalue=keyvalue, bipolar=bipolar, neuron=stage))

    def upsample(self, source: str) -> str:
        name, given = f"upsample{len(self.network.operators)}", self.network.tensors[source]
        self._declare(f"{name}.out", "residual", given.channels, 2 * given.height, 2 * given.width)
        return self._add(Upsample(name=name, input=source, output=f"{name}.out"))

    def _weights(self, name: str, shape: tuple[int, ...]) -> None:
        self.network.arrays[f"{name}.weight"] = self.rng.integers(-9, 10, shape, dtype=np.int8)

    def _stage(self, name: str, kind: str, channels: int, height: int, width: int, more: dict) -> Neuron:
        mode = more.pop("mode", {"spikes": "direct", "logits": "direct"}.get(kind, kind))
        arrays, levels = {"bias": self.rng.integers(-20, 20, channels)}, more.get("levels", 1)
        if mode != "direct":
            arrays["shift"] = self.rng.integers(0, 3, channels)
        if kind == "spikes":
            arrays["threshold"] = self.rng.integers(1, 20, channels)
            more["lif"] = Lif()
        if levels > 1:
            arrays["threshold"] = np.sort(self.rng.integers(1, 60, (levels, channels)), axis=0)
            more["lif"] = Lif(leak="memoryless")
        for key, array in arrays.items():
            self.network.arrays[f"{name}.{key}"] = array.astype(np.int32)
        size = (1, 1) if more.get("pool") else (height, width)
        self._declare(f"{name}.out", "integers" if levels > 1 else kind, channels, *size, levels)
        return Neuron(mode=mode, **{key: f"{name}.{key}" for key in arrays}, **{kind: f"{name}.out"}, **more)

    def stream(self, name: str, **options: Any) -> str:
        """A convolution that writes the residual tensor `name`, and spikes; returns the spikes."""
        spikes = self.conv(mode="residual", residual=name, **options)
        place = self.network.tensors[spikes]
        self._declare(name, "residual", place.channels, place.height, place.width)
        return spikes

    def _declare(self, name: str, kind: str, channels: int, height: int, width: int, levels: int = 1) -> None:
        self.network.tensors[name] = Tensor(
            name=name, kind=kind, channels=channels, height=height, width=width, levels=levels)

    def _add(self, operator: Operator) -> str:
        self.network.operators.append(operator)
        self.network.output = f"{operator.name}.out"
        return self.network.output


@pytest.fixture(scope="session")
def builder() -> type[Builder]:
    return Builder


@pytest.fixture(scope="session")
def check() -> Callable[..., Program]:
    return _check


def _check(network: Network, config: MachineConfig, seed: int, interleavings: int = 1) -> Program:
    """Compile, run in program order and with engines interleaved at random, compare every tensor that is stored: as
    it is, and with everything stored."""
    clip = random_clip(network, seed)
    expected = Reference(network).run(clip)
    program, observed = compile_network(network, config), compile_network(network, config, observe=True)
    made = {o.output for o in network.operators if isinstance(o, Upsample)}  # nobody makes these
    assert all(place.stored != (name in made) for name, place in observed.tensors.items())
    for index in range(-1, interleavings + 1):
        rng = np.random.default_rng([seed, index]) if index > 0 else None
        run = observed if index < 0 else program
        machine = Interpreter(run, clip, rng).run()
        for name, tensor in expected.items():
            if run.tensors[name].stored:
                assert np.array_equal(machine.tensor(name), tensor.numpy()), (seed, index, name)
    return program


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
