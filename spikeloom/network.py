"""The integer network: a graph of operators on integer tensors, its file format and its checks.

`network.json` holds the graph, `network.safetensors` the arrays; both together have a content hash that goes into the
program, the driver and every report. Needs NumPy and safetensors only.

Tensors (shapes are per clip; T frames):

    kind       shape                    values
    pixels     uint8[T, H, W, 3]        0..255
    spikes     bool[T, C, H, W]         0, 1
    integers   uint8[T, C, H, W]        0..levels (integer spikes)
    residual   int16[T, C, H, W]        steps of 2**-fraction_bits
    planes     int8[T, C, H, W]         steps of 2**-fraction_bits (two's complement bit-planes)
    keyvalue   int32[heads, D, E]       K^T V of the whole clip, D and E channels per head of K and V; of every frame:
                                        [T, heads, D, E]
    logits     int32[classes]           sums over frames

The output is `logits`, or a `residual` tensor: values of every frame (pose: 1x1) or of every pixel (segmentation).

Operators run in list order; each one makes its tensors out of earlier ones. All but `KeyValue` and `Upsample` produce
an accumulator `acc[T, C, H, W]` which goes through a `Neuron` stage; see `spikeloom.arithmetic` for its equations.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .network_operators import (
    OPERATORS,
    SPIKING,
    Accumulating,
    Attend,
    Conv,
    Depthwise,
    KeyValue,
    Lif,
    MaxConv,
    NetworkError,
    Neuron,
    Operator,
    TemporalAttend,
    Tensor,
    Upsample,
    inputs_of,
    operator_of,
    outputs_of,
)
from .network_rules import check_network

__all__ = [
    "SPIKING", "Accumulating", "Attend", "Conv", "Depthwise", "KeyValue", "Lif", "MaxConv", "Network", "NetworkError",
    "Neuron", "Operator", "TemporalAttend", "Tensor", "Upsample", "inputs_of", "outputs_of",
]  # fmt: skip

FORMAT_VERSION = 1


@dataclass(kw_only=True)
class Network:
    """An integer network.

    Attributes:
        frames: T, time steps of a clip.
        tensors: By name; exactly one of kind pixels (or a spikes tensor that no operator makes) is `input`.
        operators: In execution order.
        arrays: int8 weights and int32 per-channel arrays by name.
        input, output: Tensor names.
        metadata: Free JSON: class names, preprocessing, scale of the logits, how it was made.
        given: Further tensors that no operator makes; only parts of a network (`part`) have some.
    """

    frames: int
    tensors: dict[str, Tensor]
    operators: list[Operator]
    arrays: dict[str, NDArray[Any]]
    input: str
    output: str
    metadata: dict[str, Any] = field(default_factory=dict)
    given: tuple[str, ...] = ()

    def part(self, first: int, last: int) -> Network:
        """Operators [first, last) as a network of their own; what they read from others is `given`.

        Raises:
            NetworkError: No operators, none that reads spikes or pixels, or an attention without its K^T V.
        """
        operators = self.operators[max(0, first):last]
        if not operators:
            raise NetworkError(f"no operators in {first}:{last}, the network has {len(self.operators)}")
        made = {name for operator in operators for name in outputs_of(operator)}
        read = dict.fromkeys(name for operator in operators for name in inputs_of(operator) if name not in made)
        for name in read:
            if self.tensors[name].kind == "keyvalue":
                maker = self.producer(name)
                assert maker is not None
                raise NetworkError(f"{first}:{last} begins behind operator {maker.name}, whose K^T V it needs: begin "
                                   f"at {self.operators.index(maker)} or earlier")
        source = next((n for n in read if self.tensors[n].kind in ("pixels", *SPIKING)), None)
        if source is None:
            raise NetworkError(f"operators {first}:{last} read neither spikes nor pixels")
        tensors = {name: self.tensors[name] for name in (*read, *made)}
        return replace(
            self, operators=operators, tensors=tensors, input=source, output=outputs_of(operators[-1])[0],
            given=tuple(name for name in read if name != source))

    def description(self) -> dict[str, Any]:
        """The graph as JSON."""
        kinds = {cls: kind for kind, cls in OPERATORS.items()}
        return {
            "format": "spikeloom-network", "version": FORMAT_VERSION, "frames": self.frames, "input": self.input,
            "output": self.output, "tensors": [asdict(t) for t in self.tensors.values()],
            "operators": [{"type": kinds[type(o)], **asdict(o)} for o in self.operators], "metadata": self.metadata,
            **({"given": list(self.given)} if self.given else {})}

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the graph and of every array's name, shape and bytes."""
        digest = hashlib.sha256(json.dumps(self.description(), sort_keys=True).encode())
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            digest.update(f"{name}:{array.dtype}:{array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def producer(self, tensor: str) -> Operator | None:
        """The operator that makes `tensor`, None for the input."""
        for operator in self.operators:
            if tensor in outputs_of(operator):
                return operator
        return None

    def save(self, directory: str | Path) -> None:
        """Write `network.json` and `network.safetensors` into `directory`."""
        from safetensors.numpy import save_file

        self.check()
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        save_file({n: np.ascontiguousarray(a) for n, a in self.arrays.items()}, directory / "network.safetensors")
        text = json.dumps({**self.description(), "hash": self.hash}, indent=1)
        (directory / "network.json").write_text(text + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> Network:
        """Read and check a network.

        Raises:
            NetworkError: A file is missing, malformed, truncated or does not match the stored hash.
        """
        from safetensors.numpy import load_file

        directory = Path(directory)
        path = directory / "network.json"
        try:
            data = json.loads(path.read_text())
            arrays = load_file(directory / "network.safetensors")
        except FileNotFoundError as error:
            raise NetworkError(f"{error.filename}: no such file; is `{directory}` a network directory?") from error
        except Exception as error:  # safetensors raises its own error class
            raise NetworkError(f"{directory}: cannot read the network: {error}") from error
        network = cls.from_description(data, arrays, where=str(path))
        if network.hash != data.get("hash"):
            raise NetworkError(f"{path}: content hash is {network.hash[:16]}..., file says {data.get('hash')!s:.16}...")
        return network

    @classmethod
    def from_description(cls, data: Any, arrays: dict[str, NDArray[Any]], *, where: str = "network") -> Network:
        """Build a network from JSON data. Raises NetworkError."""
        if not isinstance(data, dict) or data.get("format") != "spikeloom-network":
            raise NetworkError(f"{where}: not a spikeloom network")
        if data.get("version") != FORMAT_VERSION:
            raise NetworkError(f"{where}: version must be {FORMAT_VERSION}, not `{data.get('version')!r}`")
        try:
            tensors = {t["name"]: Tensor(**t) for t in data["tensors"]}
            operators = [operator_of(o) for o in data["operators"]]
            network = cls(frames=data["frames"], tensors=tensors, operators=operators, arrays=arrays,
                          input=data["input"], output=data["output"], metadata=data.get("metadata", {}))
            network.check()
        except NetworkError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise NetworkError(f"{where}: malformed graph: {error!r}") from error
        return network

    def check(self) -> None:
        """Check that graph and arrays fit each other.

        Raises:
            NetworkError: naming the operator or tensor.
        """
        check_network(self)
