"""Layer by layer, bit by bit: what the simulated machine wrote against what the integer reference computed.

The comparison knows neither torch nor the simulator: it sees arrays by tensor name. It is exact, and counts every
element of every tensor compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeloom.network import Network, outputs_of

__all__ = ["Comparison"]

Cycle = Callable[[str, tuple[int, ...]], "int | None"]


class Comparison:
    """Collects the comparison of any number of clips.

    Args:
        network: Gives the order of layers; a layer is an operator, compared in all tensors it makes.
        every_layer: Compare every tensor, otherwise only the network's output.
        on_chip: Tensors that the machine does not put into DDR. They are not compared; what is made of them is.
    """

    def __init__(self, network: Network, *, every_layer: bool = True, on_chip: Collection[str] = ()) -> None:
        self._tensors = [(operator.name, name) for operator in network.operators for name in outputs_of(operator)
                         if (every_layer or name == network.output) and name not in on_chip]
        self._on_chip = sorted(on_chip)
        self._output = network.output
        self._counts = {layer: [0, 0] for layer, _ in self._tensors}
        self._classifies = network.tensors[network.output].kind == "logits"
        self._clips = 0
        self._logits: tuple[list[int], list[int]] = [], []
        self.first_divergence: dict[str, Any] | None = None

    @property
    def tensors(self) -> list[str]:
        """Names of the tensors compared, in network order."""
        return [name for _, name in self._tensors]

    @property
    def compared(self) -> int:
        """Elements compared."""
        return sum(compared for compared, _ in self._counts.values())

    @property
    def mismatches(self) -> int:
        """Elements that differ."""
        return sum(mismatches for _, mismatches in self._counts.values())

    def add(self, expected: Mapping[str, Any], got: Mapping[str, Any], cycle: Cycle | None = None) -> int:
        """Compare one clip.

        Args:
            expected: Tensors of the reference (arrays, or what `numpy.asarray` takes) by name.
            got: Tensors of the machine by name, of the same shapes.
            cycle: `(tensor, index)` -> clock cycle at which the machine wrote that element, None if unknown.

        Returns:
            Mismatches of this clip.

        Raises:
            ValueError: A tensor is missing or has another shape.
        """
        before = self.mismatches
        clip, self._clips = self._clips, self._clips + 1
        for layer, name in self._tensors:
            want, have = _pair(expected, got, name)
            wrong = want != have
            self._counts[layer][0] += want.size
            self._counts[layer][1] += int(wrong.sum())
            if self.first_divergence is None and wrong.any():
                index = tuple(int(i) for i in np.argwhere(wrong)[0])
                self.first_divergence = {
                    "layer": layer, "index": list(index), "expected": int(want[index]), "got": int(have[index]),
                    "cycle": None if cycle is None else cycle(name, index), "tensor": name, "clip": clip}
        if self._classifies and clip == 0:
            want, have = _pair(expected, got, self._output)
            self._logits = want.ravel().astype(int).tolist(), have.ravel().astype(int).tolist()
        return self.mismatches - before

    def report(self) -> dict[str, Any]:
        """Content of `bit_exact.json`, but for hashes and frames. Logits, if any, are those of the first clip."""
        reference, rtl = self._logits
        return {
            "layers": [{"name": layer, "compared": compared, "mismatches": mismatches}
                       for layer, (compared, mismatches) in self._counts.items()],
            "compared": self.compared, "mismatches": self.mismatches, "first_divergence": self.first_divergence,
            "on_chip": self._on_chip,
            "logits_reference": reference, "logits_rtl": rtl,
        }

    def summary(self) -> str:
        """One line for people."""
        if self.first_divergence is None:
            rest = f"; {len(self._on_chip)} tensors stay on chip" if self._on_chip else ""
            return f"bit-exact: {self.compared:,} values of {len(self._counts)} layers compared, 0 differ{rest}"
        first = self.first_divergence
        cycle = "" if first["cycle"] is None else f" (written in cycle {first['cycle']:,})"
        return (f"{self.mismatches:,} of {self.compared:,} values differ; first in layer {first['layer']}, "
                f"{first['tensor']}{first['index']}: expected {first['expected']}, got {first['got']}{cycle}")


def _pair(expected: Mapping[str, Any], got: Mapping[str, Any], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    pair = []
    for side, tensors in (("reference", expected), ("machine", got)):
        if name not in tensors:
            raise ValueError(f"tensor {name}: the {side} has none of this name")
        pair.append(np.asarray(tensors[name]).astype(np.int64))
    if pair[0].shape != pair[1].shape:
        raise ValueError(f"tensor {name}: reference has shape {list(pair[0].shape)}, machine {list(pair[1].shape)}")
    return pair[0], pair[1]
