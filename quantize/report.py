"""How an integer network compares with the float network it was made of: layer by layer, on given clips."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikeloom.arithmetic import PLANE_BITS, RESIDUAL_BITS, saturate
from spikeloom.network import SPIKING, Network

from .calibration import batches, run_float
from .folding import FloatStage
from .reference import Reference

FILE_NAME = "quantize_report.json"


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One tensor that an operator makes.

    Attributes:
        operator, tensor, kind: What it is.
        steps: Smallest and largest floor(log2(steps per 1.0)) of the operator's channels; None for attention.
        fraction_bits: Of residual and planes.
        agreement: Part of the spikes that are equal in both networks.
        local: The same for this operator alone, fed with what the float network feeds it.
        rate, float_rate: Firing rate of the integer and of the float network; of integer spikes their mean over levels.
        clipped: Part of the values at the end of the integer range.
        error: RMS error over RMS value.
    """

    operator: str
    tensor: str
    kind: str
    steps: tuple[int, int] | None = None
    fraction_bits: int = 0
    agreement: float | None = None
    local: float | None = None
    rate: float | None = None
    float_rate: float | None = None
    clipped: float | None = None
    error: float | None = None


@dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """Layers in execution order, and the output: logits, or what is said of every frame.

    Attributes:
        layers: Spikes, residual and planes.
        logits_error: RMS error of the output over its RMS value.
        same_class: Task name -> part of the clips that both networks put into the same class; of outputs with a value
            per pixel, "pixel" -> part of the pixels with the same largest channel; empty for poses.
        clips: Number of clips compared.
        network_hash: Content hash of the integer network.
        weight_bits: Bits of its weights.
        unfused: RepConvs that are three convolutions in it, by name.
    """

    layers: tuple[LayerReport, ...]
    logits_error: float
    same_class: Mapping[str, float]
    clips: int
    network_hash: str
    weight_bits: int
    unfused: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def save(self, directory: str | Path) -> Path:
        """Write `quantize_report.json` into `directory`; returns its path."""
        path = Path(directory) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n")
        return path

    def table(self) -> str:
        """The report as text, one line per tensor."""
        names = ("agree", "local", "rate", "float", "clip", "error")
        head = f"{'tensor':<44} {'k':>7} {'frac':>4} " + " ".join(f"{name:>7}" for name in names)
        lines = [head, "-" * len(head), *(_line(layer) for layer in self.layers)]
        same = ", ".join(f"{name} {100 * part:.1f} %" for name, part in self.same_class.items())
        error = f"output error {100 * self.logits_error:.1f} %" + f", same class: {same}" * bool(same)
        if self.unfused:
            lines.append(f"RepConvs left as three convolutions: {', '.join(self.unfused)}")
        lines.append(f"{self.weight_bits}-bit weights, {self.clips} clips: {error}")
        return "\n".join(lines)


@dataclass
class _Tally:
    """Sums over clips for one tensor."""

    count: int = 0
    equal: int = 0
    locally_equal: int = 0
    fired: int = 0
    float_fired: int = 0
    clipped: int = 0
    error: float = 0.0
    power: float = 0.0
    outputs: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, kind: str, real: Tensor, integer: Tensor, scale: float) -> None:
        self.count += integer.numel()
        if kind in SPIKING:
            self.equal += int((real == integer).sum())
            self.fired += int(integer.sum())
            self.float_fired += int(real.sum())
            return
        if kind != "logits":
            limit = 1 << ((RESIDUAL_BITS if kind == "residual" else PLANE_BITS) - 1)
            self.clipped += int(((integer == limit - 1) | (integer == -limit)).sum())
        value = integer.double() * scale
        self.error += float((value - real).square().sum())
        self.power += float(real.double().square().sum())

    @property
    def relative_error(self) -> float:
        return (self.error / self.power) ** 0.5 if self.power else 0.0


def compare(
    stages: list[FloatStage], network: Network, clips: Tensor, *, steps: Mapping[str, tuple[int, int]], batch: int = 8
) -> QuantizationReport:
    """Run both networks on `clips` uint8[N, T, H, W, 3]; tensors of the same name are compared."""
    reference = Reference(network)
    compared = (*SPIKING, "residual", "planes", "logits")
    kinds = {name: tensor.kind for name, tensor in network.tensors.items() if tensor.kind in compared}
    scales = {name: 2.0 ** -network.tensors[name].fraction_bits for name in kinds}
    if kinds[network.output] == "logits":
        scales[network.output] = 2.0 ** -network.metadata["logits"]["fraction_bits"]
    tallies = {name: _Tally() for name in kinds}
    for part in batches(clips, batch):
        real, integer = run_float(stages, part), reference.values(part)
        for name, kind in kinds.items():
            tallies[name].add(kind, real[name], integer[name], scales[name])
        tallies[network.output].outputs.append((real[network.output], integer[network.output]))
        for name, spikes in _fed(reference, real):
            tallies[name].locally_equal += int((real[name] == spikes).sum())
    layers = [
        _layer(network, stage.name, tensor, tallies[tensor], steps.get(stage.name))
        for stage in stages for kind, tensor in stage.outputs.items() if kind in ("spikes", "residual", "planes")]
    output = tallies[network.output]
    return QuantizationReport(
        layers=tuple(layers), logits_error=output.relative_error, same_class=_same_class(network, output),
        clips=len(clips), network_hash=network.hash, weight_bits=network.metadata["weight_bits"])


def _fed(reference: Reference, real: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Spikes of every operator of the integer network, made of the float network's tensors `real`."""
    network, values = reference.network, dict(real)
    for name, tensor in network.tensors.items():
        if tensor.kind in ("residual", "planes"):
            bits = RESIDUAL_BITS if tensor.kind == "residual" else PLANE_BITS
            values[name] = saturate((real[name].double() * 2.0 ** tensor.fraction_bits).round().long(), bits)
        elif tensor.kind == "keyvalue":
            values[name] = real[name].round().long()
    for operator in network.operators:
        for name, made in reference.operate(operator, values).items():
            if network.tensors[name].kind in SPIKING:
                yield name, made


def _layer(
    network: Network, operator: str, tensor: str, tally: _Tally, steps: tuple[int, int] | None
) -> LayerReport:
    declared = network.tensors[tensor]
    common: dict[str, Any] = {"operator": operator, "tensor": tensor, "kind": declared.kind, "steps": steps}
    if declared.kind in SPIKING:
        most = tally.count * declared.levels
        return LayerReport(
            **common, agreement=tally.equal / tally.count, local=tally.locally_equal / tally.count,
            rate=tally.fired / most, float_rate=tally.float_fired / most)
    return LayerReport(
        **common, fraction_bits=declared.fraction_bits, clipped=tally.clipped / tally.count,
        error=tally.relative_error)


def _same_class(network: Network, tally: _Tally) -> dict[str, float]:
    output = network.tensors[network.output]
    if output.kind != "logits":
        same = torch.cat([(real.argmax(2) == integer.argmax(2)).flatten() for real, integer in tally.outputs])
        return {"pixel": float(same.double().mean())} if output.height * output.width > 1 else {}
    real, integer = (torch.cat(parts) for parts in zip(*tally.outputs, strict=True))
    return {
        name: float((real[:, a:b].argmax(1) == integer[:, a:b].argmax(1)).double().mean())
        for name, a, b in network.metadata["tasks"]}


def _line(layer: LayerReport) -> str:
    def part(value: float | None, form: str) -> str:
        return f"{'' if value is None else format(value, form):>7}"

    steps = "" if layer.steps is None else f"{layer.steps[0]}..{layer.steps[1]}"
    bits = "" if layer.kind in SPIKING else str(layer.fraction_bits)
    parts = (
        part(layer.agreement, ".2%"), part(layer.local, ".2%"), part(layer.rate, ".3f"),
        part(layer.float_rate, ".3f"), part(layer.clipped, ".3%"), part(layer.error, ".2%"))
    return f"{layer.tensor:<44} {steps:>7} {bits:>4} " + " ".join(parts)
