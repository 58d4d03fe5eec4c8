"""Checkpoints made from our own networks: imported bit for bit, or refused by a message that says everything."""

from __future__ import annotations

import argparse
import json
import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spikeloom.quantize.checkpoints import (
    ARCHITECTURES,
    CheckpointError,
    ImportOptions,
    import_checkpoint,
    import_model,
    load_imported,
    read_checkpoint,
)
from spikeloom.quantize.convert import ModelError, load_model, quantize
from spikeloom.quantize.models import SpikeVideoFormer, build, named_config
from spikeloom.quantize.relatives import ESpikeFormer, SpikeDrivenTransformerV1, V1Config, V3Config

MICRO = ImportOptions(arch="micro")
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(1)
    model = build("micro")
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):  # lively neurons
            nn.init.uniform_(layer.weight, 1.0, 2.5)
            nn.init.normal_(layer.bias, 0.3, 0.5)
    nn.init.normal_(model.get_parameter("head.weight"))
    model(torch.randn(4, 2, 3, 16, 16))  # statistics of its own
    return model.state_dict()


@pytest.fixture(scope="module")
def logits(state: State) -> Tensor:
    model = build("micro").eval()
    model.load_state_dict(state)
    found = model(clip())
    assert found.std() > 0.1
    return found


def clip() -> Tensor:
    return torch.randn(4, 1, 3, 16, 16, generator=torch.Generator().manual_seed(7))


def write(folder: Path, content: Any, **options: Any) -> Path:
    torch.save(content, folder / "file.pth", **options)
    return folder / "file.pth"


def refusal(path: Path, options: ImportOptions = MICRO) -> str:
    with pytest.raises(CheckpointError) as caught:
        import_model(path, options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


WRAPPERS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: OrderedDict(state),
    "model": lambda state: {"model": state, "optimizer": {"state": {}}, "epoch": 7, "scaler": {"scale": 2.0},
                            "args": argparse.Namespace(lr=1e-3)},
    "data parallel": lambda state: {"state_dict": prefixed(state, "module.")},
    "compiled": lambda state: {"model": {"state_dict": prefixed(state, "module._orig_mod.")}},
    "lightning": lambda state: {"state_dict": prefixed(state, "model."), "loss": torch.tensor(1.0)},
    "moving average alone": lambda state: {"model_ema": prefixed(state, "module."), "epoch": 1},
    "averaged": lambda state: {"state_dict": {"n_averaged": torch.tensor(3), **prefixed(state, "module.")}},
    "parameters": lambda state: {name: nn.Parameter(value, requires_grad=False) for name, value in state.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_weights_give_the_same_bits(tmp_path: Path, state: State, logits: Tensor, wrapper: str) -> None:
    imported = import_model(write(tmp_path, WRAPPERS[wrapper](state)), MICRO)
    assert torch.equal(imported.model(clip()), logits)
    assert imported.name == "micro"


def test_safetensors_old_torch_files_and_no_suffix(tmp_path: Path, state: State, logits: Tensor) -> None:
    save_file(state, str(tmp_path / "a.safetensors"))
    old = write(tmp_path, {"model": state}, _use_new_zipfile_serialization=False)
    (tmp_path / "no_suffix").write_bytes((tmp_path / "a.safetensors").read_bytes())
    for path in (tmp_path / "a.safetensors", old, tmp_path / "no_suffix"):
        assert torch.equal(import_model(path, MICRO).model(clip()), logits)


def test_moving_average_is_a_choice(tmp_path: Path, state: State, logits: Tensor) -> None:
    other = {name: value + 1 if name == "head.bias" else value for name, value in state.items()}
    path = write(tmp_path, {"model": other, "model_ema": state})
    plain = import_model(path, MICRO)
    assert any("--ema takes it" in notice for notice in plain.notices)
    torch.testing.assert_close(plain.model(clip()), logits + 1)
    averaged = import_model(path, ImportOptions(arch="micro", ema=True))
    assert torch.equal(averaged.model(clip()), logits)
    assert averaged.checkpoint.entry == "model_ema"
    assert "has no moving average" in refusal(write(tmp_path, {"model": state}), ImportOptions(ema=True))


def test_two_heads(tmp_path: Path, state: State, logits: Tensor) -> None:
    twins = {"head_kd.weight": torch.randn_like(state["head.weight"]), "head_kd.bias": torch.ones(14)}
    path = write(tmp_path, {"model": state | twins})
    heads = ("average", "head", "head_kd")
    found = {head: import_model(path, ImportOptions(arch="micro", distilled=head)) for head in heads}
    outputs = {head: model.model(clip()) for head, model in found.items()}
    assert torch.equal(outputs["head"], logits)
    torch.testing.assert_close(outputs["average"], (outputs["head"] + outputs["head_kd"]) / 2)
    assert not torch.equal(outputs["head_kd"], logits)
    assert any("averaged" in notice for notice in found["average"].notices)
    misshaped = write(tmp_path, {"model": state | {"head_kd.weight": torch.zeros(3, 16)}})
    assert "`head.weight` and `head_kd.weight` differ in shape" in refusal(misshaped)
    with pytest.raises(CheckpointError, match="has no second head"):
        import_model(write(tmp_path, state), ImportOptions(distilled="head_kd"))


def test_types_are_converted_with_a_notice(tmp_path: Path, state: State) -> None:
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    halves["head.bias"] = torch.arange(14)
    del halves["downsample2.encode_bn.num_batches_tracked"]  # older than torch 0.4.1
    imported = import_model(write(tmp_path, halves), MICRO)
    assert any(re.search(r"converted to float32: \d+ of float16, 1 of int64", notice) for notice in imported.notices)
    assert all(value.dtype in (torch.float32, torch.int64) for value in imported.model.state_dict().values())


BROKEN: dict[str, tuple[Callable[[State], State], str]] = {
    "renamed": (
        lambda state: {name.replace("conv1.w", "conv_1.w"): value for name, value in state.items()},
        r"does not fit micro: 8 missing: ConvBlock1_1.0.Conv.pwconv1.weight.*; 8 unexpected: ConvBlock1_1"),
    "misshaped": (
        lambda state: state | {"block3.0.attn.attn_bn.weight": torch.zeros(17)},
        r"1 of another shape: block3.0.attn.attn_bn.weight is \[17\], must be \[16\]"),
    "NaN": (
        lambda state: state | {"head.bias": torch.tensor([float("nan")] * 3 + [0.0] * 11)},
        r"NaN or infinite values in 1 tensors: head.bias \(3 of 14\)"),
    "too large for float32": (
        lambda state: state | {"head.bias": torch.full((14,), 1e300, dtype=torch.float64)}, r"head.bias \(14 of 14\)"),
    "complex": (
        lambda state: state | {"head.bias": torch.zeros(14, dtype=torch.complex64)}, r"head.bias is complex64"),
    "negative variance": (
        lambda state: state | {"downsample2.encode_bn.running_var": torch.full((8,), -1.0)},
        "negative variances in downsample2.encode_bn.running_var"),
    "parametric LIF": (
        lambda state: state | {"lif.w": torch.tensor(0.3)}, r"1 unexpected: lif.w; `lif.w` is the learnt leak"),
    "many": (
        lambda state: {name: value for name, value in state.items() if "block3" not in name},
        r"\d+ missing: .* and \d+ more"),
    "wider": (
        lambda state: state | {"downsample2.encode_conv.weight": torch.zeros(9, 8, 3, 3)},
        "is not `micro`: it has widths 8-9-16-16, not 8-8-16-16"),
    "colours": (
        lambda state: state | {"downsample1_1.encode_conv.weight": torch.zeros(4, 2, 7, 7)},
        "it has in_channels 2, not 3"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_weights_are_named(tmp_path: Path, state: State, what: str) -> None:
    change, message = BROKEN[what]
    assert re.search(message, refusal(write(tmp_path, {"model": change(dict(state))})))


def test_without_a_name_the_missing_ones_are_said(tmp_path: Path, state: State) -> None:
    less = {name: value for name, value in state.items() if not name.startswith(("head.", "downsample3"))}
    message = refusal(write(tmp_path, less), ImportOptions())
    assert "2 tensors are missing: downsample3.encode_conv.weight, head.weight" in message


class Code:
    """Would run when it is unpickled."""

    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pickle_was_run",)


def test_nothing_in_a_pickle_is_run(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for new in (True, False):
        path = write(tmp_path, {"model": state, "x": Code()}, _use_new_zipfile_serialization=new)
        message = refusal(path)
        assert f"holds `{os.name}.mkdir` beside plain tensors" in message
        assert "re-save its weights as .safetensors" in message
        assert "weights_only" not in message
    whole = refusal(write(tmp_path, build("micro")))
    assert "holds `spikeloom.quantize.models.SpikeVideoFormer`" in whole
    assert not (tmp_path / "pickle_was_run").exists()


def test_foreign_and_damaged_files(tmp_path: Path, state: State) -> None:
    path = tmp_path / "file.pth"
    for content, message in [
            (b"", "neither a .safetensors file nor one that torch.save wrote"),
            (b"\n<!doctype html><title>Google Drive", "a web page"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"\x1f\x8b\x08", "a gzip archive"), (b"PK\x03\x04 and nothing", "damaged or truncated"),
            (b"\x80\x02 and nothing", "holds more than plain tensors, or is damaged"),
            ((200).to_bytes(8, "little") + b"{}", "no .safetensors file")]:
        path.write_bytes(content)
        assert message in refusal(path)
    whole = write(tmp_path, {"model": state}).read_bytes()
    for length in (len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:length])
        assert "damaged or truncated" in refusal(path)
    save_file(state, str(tmp_path / "half.safetensors"))
    half = (tmp_path / "half.safetensors").read_bytes()[:5000]
    (tmp_path / "half.safetensors").write_bytes(half)
    assert "damaged, truncated" in refusal(tmp_path / "half.safetensors")
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.pth")


def test_small_files_do_not_become_large(tmp_path: Path, state: State) -> None:
    path = tmp_path / "file.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10_000_000))
    assert "a compressed zip archive" in refusal(path)
    one = torch.zeros(1).expand(10_000_000)  # one stored value
    message = refusal(write(tmp_path, state | {"head.weight": one}))
    assert "`head.weight` claims 10,000,000 values" in message


def test_no_weights(tmp_path: Path, state: State) -> None:
    assert "holds no weights: a list" in refusal(write(tmp_path, [1, 2]))
    assert "with the entries epoch, best" in refusal(write(tmp_path, {"epoch": 1, "best": 0.5}))
    assert "of no known architecture" in refusal(write(tmp_path, {"conv.weight": torch.zeros(1)}), ImportOptions())
    both = state | prefixed({"head.bias": state["head.bias"]}, "module.")
    assert "two tensors are called `head.bias`" in refusal(write(tmp_path, both))


@pytest.mark.parametrize("name", ["15M", "31M", "55M", "v2-55M", "v3-5M", "v3-19M", "v1-8-384", "v1-10-512"])
def test_published_sizes_are_recognised(tmp_path: Path, name: str) -> None:
    """Shapes only: tensors on the device `meta`, without a file."""
    from spikeloom.quantize.checkpoints.architectures import infer

    architecture = ARCHITECTURES[name]
    with torch.device("meta"):
        tensors = architecture.family.model(architecture.config).state_dict()
    for given in (name, None):
        found, family, config = infer(tmp_path, tensors, given)
        assert found == name
        assert family is architecture.family
        assert config == architecture.config
    for other in set(ARCHITECTURES) - {name, name.removeprefix("v2-")}:  # 55M without `attn_bn` is its dot product
        with pytest.raises(CheckpointError, match=rf"is not `{other}`|its tensors are those of {family.name}"):
            infer(tmp_path, tensors, other)


def test_designs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = replace(named_config("micro"), attention="dot")
    path = write(tmp_path, SpikeVideoFormer(replace(config, design="hierarchical")).state_dict())
    assert "unexpected: block3.0.attn_time" in refusal(path)
    found = import_model(path, ImportOptions(arch="micro", design="hierarchical"))
    assert (found.config.design, found.config.attention) == ("hierarchical", "dot")
    path = write(tmp_path, SpikeVideoFormer(config).state_dict())
    assert any("over all tokens of the clip" in notice for notice in import_model(path, MICRO).notices)
    within = import_model(path, ImportOptions(arch="micro", design="neuron"))
    assert within.config.design == "neuron"
    assert not any("--design" in notice for notice in within.notices)
    assert "`design` must be one of joint" in refusal(path, ImportOptions(arch="micro", design="other"))
    assert ARCHITECTURES["v2-55M"].config.design == "neuron"


def test_what_leaves_no_trace_is_an_option(tmp_path: Path, state: State, logits: Tensor) -> None:
    path = write(tmp_path, state)
    changed = import_model(path, ImportOptions(
        arch="micro", heads=(2, 4), frames=2, size=(8, 16), mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 2.0),
        neuron={"leak": "half", "strict": "true", "threshold": "0.75"}))
    assert not torch.equal(changed.model(clip()), logits)
    config = changed.config
    assert (config.heads, config.frames, config.height, config.width) == ((2, 4), 2, 8, 16)
    assert (config.pixel_mean, config.pixel_std) == ((0.1, 0.2, 0.3), (1.0, 1.0, 2.0))
    assert (config.neuron.leak, config.neuron.strict, config.neuron.threshold) == ("half", True, 0.75)
    assert config.neuron.surrogate == "atan"
    assert not any("attention heads" in notice for notice in changed.notices)
    for neuron, message in [
            ({"tau": "2"}, "a neuron has leak, reset, .*, not `tau`"), ({"leak": "x"}, "`leak` must be one of none"),
            ({"strict": "maybe"}, "`strict` of a neuron must be a bool, not `maybe`"),
            ({"threshold": "high"}, "`threshold` of a neuron must be a float, not `high`")]:
        assert re.search(message, refusal(path, ImportOptions(arch="micro", neuron=neuron)))
    assert "`pixel_mean` must have 3 values" in refusal(path, ImportOptions(arch="micro", mean=(0.5,)))


def test_names_of_no_architecture(tmp_path: Path, state: State) -> None:
    with pytest.raises(CheckpointError, match="no architecture `16M`: name one of 15M, 31M"):
        import_model(write(tmp_path, state), ImportOptions(arch="16M"))
    with pytest.raises(CheckpointError, match="`heads` must divide"):
        import_model(write(tmp_path, state), ImportOptions(arch="micro", heads=3))
    with pytest.raises(ValueError, match="`distilled` must be one of average"):
        ImportOptions(distilled="both")


def test_written_model_quantises(tmp_path: Path, state: State, logits: Tensor) -> None:
    path = write(tmp_path, {"model": state, "epoch": 3})
    imported = import_checkpoint(path, tmp_path / "models" / "mine", arch="micro")
    written = tmp_path / "models" / "mine.safetensors"
    assert load_file(str(written)).keys() == state.keys()
    source = json.loads((tmp_path / "models" / "mine.json").read_text())["source"]
    assert source["file"] == "file.pth"
    assert source["sha256"] == imported.checkpoint.sha256
    assert source["entry"] == "model"
    for model in (load_model(written), load_imported(written)):
        assert torch.equal(model(clip()), logits)
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="must have no dot"):
        imported.save(tmp_path / "v1.2")
    report = quantize(written, tmp_path / "network", clips=clips)
    assert len(report.network_hash) == 64
    assert (tmp_path / "network" / "network.json").is_file()


@pytest.mark.parametrize("config", [
    V3Config(widths=(8, 8, 16, 16), depths=(1, 1), heads=2, height=32, width=32, classes=5),
    V1Config(dim=16, depth=1, heads=2, height=32, width=32, classes=5)])
def test_relatives_run_in_torch(tmp_path: Path, config: Any) -> None:
    torch.manual_seed(0)
    model = ESpikeFormer(config) if isinstance(config, V3Config) else SpikeDrivenTransformerV1(config)
    model.eval()
    path = write(tmp_path, {"model": model.state_dict()})
    imported = import_checkpoint(path, tmp_path / "relative", size=(32, 32))
    clips = torch.randn(2, 1, 3, 32, 32)
    assert torch.equal(imported.model(clips), model(clips))
    assert torch.equal(load_imported(tmp_path / "relative")(clips), model(clips))
    assert not any("a float model only" in notice for notice in imported.notices)
    with pytest.raises(ModelError, match=r"must be a SpikeVideoFormer, not `(ESpikeFormer|SpikeDrivenTransformerV1)`"):
        load_model(tmp_path / "relative.safetensors")
