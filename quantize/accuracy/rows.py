"""Which networks are measured at which precision, and where their weights come from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..convert import ZOO
from ..models import named_config
from ..training import MODEL, RunConfig, load_config
from ..training.config import parse

__all__ = ["ABLATION", "CLIPS", "NETWORKS", "PRECISIONS", "QUESTIONS", "ROWS", "SEEDS", "SPIKES", "VARIANTS", "Row"]

PRECISIONS = ("float", "int8", "int4", "int8 QAT", "int4 QAT")
SPIKES = "spikes"
NETWORKS = ("digits", "walkers", "masks")
CLIPS = 1000

SEEDS = (1, 2, 3)
ABLATION = {
    "model": {"config": "digits", "height": 16, "width": 16, "frames": 4},
    "schedule": {"steps": 400, "batch": 16, "drive": 1.0},
    "evaluation": {"watch": 0, "clips": 1},
}
"""Run of the ablation: the demo network on small clips, which learns a good part of one question within a minute."""

QUESTIONS = {"digit": 0.0, "direction": 20.0}
"""Question that a network of the ablation is trained for -> weight of the direction's loss; the digit's is 1."""

VARIANTS: dict[str, dict[str, str]] = {
    "joint": {},
    "dot": {"attention": "dot"},
    "spatial": {"design": "spatial"},
    "neuron": {"design": "neuron"},
    "hierarchical": {"design": "hierarchical"},
    "factorised": {"design": "factorised"},
    "scale2c": {"attention": "hamming/2C"},
    "scale8": {"attention": "hamming/8"},
}
"""Networks of the ablation: name -> what differs from the model above."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network at a precision. `network` is a name in the zoo, or `QUESTION-VARIANT-SEED` of the ablation."""

    network: str
    precision: str = "float"

    @property
    def key(self) -> str:
        """Name of the row and of its file."""
        return f"{self.network}-{self.precision.replace(' ', '-').lower()}"

    @property
    def bits(self) -> int | None:
        """Bits of a weight, None for float."""
        if self.precision == SPIKES:
            return 8
        return None if self.precision == "float" else int(self.precision.removesuffix(" QAT")[3:])

    @property
    def tuned(self) -> bool:
        """Whether the network was fine-tuned quantisation-aware."""
        return self.precision.endswith("QAT")

    def run(self) -> RunConfig | None:
        """The training run that the row's weights come from; None for those of the zoo."""
        if self.tuned:
            name = f"{self.network}-qat{self.bits}"
            config = load_config(f"digits-qat{self.bits}")
            return replace(config, name=name, model=named_config(self.network), start=self.network)
        if self.network in NETWORKS:
            return None
        question, variant, seed = self.network.split("-")
        return parse({
            **ABLATION, "model": {**ABLATION["model"], **VARIANTS[variant]}, "task": {"direction": QUESTIONS[question]},
            "schedule": {**ABLATION["schedule"], "seed": int(seed)}}, name=self.network)

    def weights(self, directory: Path) -> Path:
        """Where they are, or will be; without suffix."""
        if not self.tuned and self.network in NETWORKS:
            return ZOO / self.network
        name = f"{self.network}-qat{self.bits}" if self.tuned else self.network
        return directory / "models" / name / MODEL


ROWS = (
    *(Row(network=network, precision=precision) for network in NETWORKS for precision in (*PRECISIONS, SPIKES)),
    # All variants with one seed before the next seed: what is interrupted still compares like with like.
    *(Row(network=f"{question}-{variant}-{seed}") for seed in SEEDS for variant in VARIANTS for question in QUESTIONS))
