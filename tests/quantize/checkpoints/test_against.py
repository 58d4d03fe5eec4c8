"""The check against an original, on a stand-in of ours: the released code was not run here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from spikeloom.quantize.checkpoints import CheckpointError, ImportedModel, ImportOptions, import_model
from spikeloom.quantize.checkpoints.against import compare_with_original
from spikeloom.quantize.checkpoints.original_runner import build
from spikeloom.quantize.models import SpikeVideoFormer, SpikeVideoFormerConfig
from spikeloom.quantize.relatives import ESpikeFormer, SpikeDrivenTransformerV1, V1Config, V3Config

STAND_IN = Path(__file__).parent / "stand_in"
SMALL = SpikeVideoFormerConfig(widths=(8, 8, 16, 16), heads=2, height=32, width=32, classes=5)


def lively(model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights with which neurons fire."""
    torch.manual_seed(3)
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert layer.running_mean is not None
            nn.init.uniform_(layer.weight, 1.0, 2.5)
            nn.init.normal_(layer.bias, 0.3, 0.5)
            nn.init.normal_(layer.running_mean, 0.0, 0.2)
    nn.init.normal_(model.get_parameter("head.weight"))
    return model.state_dict()


def imported(folder: Path, *, twins: bool = False, **fields: Any) -> ImportedModel:
    """A checkpoint of a small network, imported."""
    torch.manual_seed(3)
    state = lively(SpikeVideoFormer(replace(SMALL, **fields)))
    if twins:
        state |= {f"head_kd.{name}": torch.randn_like(state[f"head.{name}"]) for name in ("weight", "bias")}
    torch.save({"model": state}, folder / "small.pth")
    options = ImportOptions(heads=fields.get("heads", 2), design=fields.get("design", "joint"), size=(32, 32))
    return import_model(folder / "small.pth", options)


@pytest.mark.parametrize("fields", [
    {"heads": (4, 2)}, {"attention": "dot", "twins": True}, {"attention": "dot", "design": "neuron"}])
def test_agrees_stage_by_stage(tmp_path: Path, fields: dict[str, Any]) -> None:
    found = compare_with_original(imported(tmp_path, **fields), STAND_IN)
    names = [stage.name for stage in found.stages]
    assert names[0] == "downsample1_1"
    assert names[-2:] == ["block4.1", "logits"]
    assert len(names) == 18
    assert found.agrees, [str(stage) for stage in found.stages]
    assert all(stage.magnitude > 0.1 for stage in found.stages)  # something was computed


@pytest.mark.parametrize("model", [
    SpikeDrivenTransformerV1(V1Config(dim=16, depth=2, heads=4, height=32, width=32, classes=5)),
    ESpikeFormer(V3Config(widths=(8, 8, 16, 16), heads=2, height=32, width=32, classes=5))])
def test_relatives_agree(tmp_path: Path, model: SpikeDrivenTransformerV1 | ESpikeFormer) -> None:
    torch.save(lively(model), tmp_path / "relative.pth")
    options = ImportOptions(size=(32, 32), heads=model.config.heads)
    found = compare_with_original(import_model(tmp_path / "relative.pth", options), STAND_IN)
    assert found.agrees, [str(stage) for stage in found.stages]
    assert all(stage.magnitude > 0.1 for stage in found.stages)
    assert [stage.name for stage in found.stages] == [name for name, _ in model.stages()] + ["logits"]


@pytest.mark.parametrize(("builder", "first"), [("membrane_head", "logits"), ("other_threshold", "block4.1")])
def test_names_the_first_stage_that_differs(tmp_path: Path, builder: str, first: str) -> None:
    found = compare_with_original(imported(tmp_path), STAND_IN, builder=builder)
    differing = [stage.name for stage in found.stages if not stage.agrees]
    assert differing[0] == first
    assert not found.agrees
    assert "DIFFERS" in str(next(stage for stage in found.stages if stage.name == first))


def test_arguments_by_stage_only_where_the_class_takes_them() -> None:
    class ByStage:
        def __init__(self, num_heads: list[int], depths: list[int], att_mode: str) -> None:
            self.given = (num_heads, depths, att_mode)

    class Single:
        def __init__(self, num_heads: int, depths: int) -> None:
            self.given = (num_heads, depths)

    def built(maker: type, heads: int | list[int]) -> Any:
        task = {
            "module": "m.py", "builder": "", "classes": ["Other", "Network"], "per_stage": ["num_heads", "depths"],
            "arguments": {"num_heads": heads, "depths": 8, "att_mode": "2D", "kd": True}}
        return build(SimpleNamespace(Network=maker), task).given

    assert built(ByStage, 2) == ([2] * 4, [8] * 4, "2D")
    assert built(ByStage, [4, 2, 4, 2]) == ([4, 2, 4, 2], [8] * 4, "2D")
    assert built(Single, 2) == (2, 8)


def test_refuses_what_cannot_be_run(tmp_path: Path) -> None:
    small = imported(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no classification/models/metaspikformer.py or .*--module"):
        compare_with_original(small, tmp_path)
    with pytest.raises(CheckpointError, match="has none of nothing"):
        compare_with_original(small, STAND_IN, builder="nothing")
    with pytest.raises(CheckpointError, match="cannot be run: No such file"):
        compare_with_original(small, STAND_IN, python="/no/python")
    (tmp_path / "models.py").write_text("import a_module_that_is_not_there\n")
    with pytest.raises(CheckpointError, match=r"No module named 'a_module_that_is_not_there'.*--python"):
        compare_with_original(small, tmp_path)
    with pytest.raises(CheckpointError, match="no hamming attention of the design `neuron`"):
        compare_with_original(imported(tmp_path, design="neuron"), STAND_IN)
    short = imported(tmp_path, depths=(1, 1))
    with pytest.raises(CheckpointError, match=r"released class has depths \(6, 2\), this model \(1, 1\)"):
        compare_with_original(short, STAND_IN)
