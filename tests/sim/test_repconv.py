"""The choice between fused and unfused RepConvs is the cycle model's, and reaches the integer network."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from spikeloom import api, cli
from spikeloom.hw.estimate.times import DDR
from spikeloom.network import Network
from spikeloom.quantize.convert import load_model, quantize
from spikeloom.quantize.folding import repconvs
from spikeloom.quantize.models import named_config
from spikeloom.quantize.repconv import unfused_repconvs
from spikeloom.sim import demo, repconv
from spikeloom.sim.estimate import estimate
from spikeloom.sim.repconv import RepConvChoice, Trial, choose_repconv

SMALL_MAPS = replace(named_config("micro"), widths=(8, 8, 32, 32), strides=(2, 2, 2, 2, 1), depths=(2, 1))
SLOW = replace(DDR, total_bandwidth=DDR.total_bandwidth / 30)
"""Memory that makes the bytes of weights the bound."""

CHOICE = RepConvChoice(
    unfused=("block3.0.attn.q_conv",), cycles=(20, 18), title="digits, small",
    trials=(Trial(name="block3.0.attn.q_conv", fused=10, unfused=8),
            Trial(name="block3.0.attn.k_conv", fused=8, unfused=9),
            Trial(name="block3.0.attn.v_conv", fused=8, unfused=None)))


def test_fused_where_the_array_is_the_bound():
    choice = choose_repconv(replace(SMALL_MAPS, depths=(1, 1)), preset="tiny")
    assert choice.unfused == ()
    assert choice.cycles is None
    assert [trial.name for trial in choice.trials] == [n for n in repconvs(SMALL_MAPS) if ".0." in n]
    assert all(trial.unfused is not None and trial.unfused > trial.fused for trial in choice.trials)
    assert choice.table().splitlines()[-1] == "network, 4 frames of 16 x 16, tiny: 0 RepConvs unfused"


def test_unfused_where_weights_are_the_bound():
    """Every block of the stage is as its first; one decision is the basis of the next."""
    choice = choose_repconv(SMALL_MAPS, preset="tiny", memory=SLOW)
    assert choice.unfused == repconvs(SMALL_MAPS)
    assert choice.cycles is not None
    assert choice.cycles[1] < choice.cycles[0]
    first, second = choice.trials[:2]
    assert second.fused == first.unfused
    assert choice.table().count("  unfused\n") == 1 + len(choice.trials)  # and the heading


def test_given_up_if_the_whole_is_not_faster(monkeypatch):
    monkeypatch.setattr(repconv._Chooser, "_block", lambda self, stage, unfused: 100 - len(unfused))
    monkeypatch.setattr(repconv._Chooser, "whole", lambda self, unfused: 1000 + len(unfused))
    choice = choose_repconv("micro", preset="tiny")
    assert choice.unfused == ()
    assert choice.cycles == (1000, 1008)


def test_what_the_machine_cannot_run_stays_fused(monkeypatch):
    def block(self, stage, unfused):
        if unfused:
            raise repconv.MappingError("too large")
        return 100

    monkeypatch.setattr(repconv._Chooser, "_block", block)
    choice = choose_repconv("micro", preset="tiny")
    assert choice.unfused == ()
    assert {trial.unfused for trial in choice.trials} == {None}


def test_from_the_estimate_to_the_network(tmp_path, capsys, monkeypatch):
    """`auto` of each command is `choose_repconv`; its file is what `quantize --repconv` reads."""
    asked = []

    def choose(model, **options):
        asked.append((model, options["preset"]))
        return CHOICE

    monkeypatch.setattr(repconv, "choose_repconv", choose)
    assert cli.main(["estimate", "micro", "--preset", "tiny", "--repconv", "auto", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "digits, small: 1 RepConvs unfused: block3.0.attn.q_conv\n" in text
    assert "block3.0.attn.q_conv.depthwise" in text
    assert any(line.split() == ["block3.0.attn.v_conv", "8", "impossible"] for line in text.splitlines())
    file = tmp_path / "repconv.json"
    assert unfused_repconvs(file, named_config("digits")) == CHOICE.unfused
    out = tmp_path / "network"
    words = ["quantize", "digits", "--clips", "1", "--repconv", "auto", "--preset", "small", "--out", str(out)]
    assert cli.main(words) == 0
    assert "RepConvs left as three convolutions: block3.0.attn.q_conv\n" in capsys.readouterr().out
    assert asked == [("micro", "tiny"), ("digits", "small")]
    assert "block3.0.attn.q_conv.depthwise" in [operator.name for operator in Network.load(out).operators]
    assert json.loads((out / "quantize_report.json").read_text())["unfused"] == ["block3.0.attn.q_conv"]
    assert (out / "repconv.json").read_text() == file.read_text()


def test_the_demo_gets_the_choice(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(repconv, "choose_repconv", lambda *arguments, **options: CHOICE)
    monkeypatch.setattr(demo, "demo", lambda **options: given.update(options) or SimpleNamespace(mismatches=0))
    assert cli.main(["demo", "--repconv", "auto", "--out", str(tmp_path)]) == 0
    assert given["repconv"] == CHOICE.unfused
    assert unfused_repconvs(tmp_path / "report" / "repconv.json", named_config("digits")) == CHOICE.unfused


def test_estimate_of_a_form():
    fused, unfused = (estimate("micro", preset="tiny", repconv=form).estimate for form in ("fused", "unfused"))
    assert len(unfused.operators) == len(fused.operators) + 2 * len(repconvs(named_config("micro")))
    assert estimate("micro", preset="tiny", repconv=("block3.0.attn.q_conv",)).estimate.cycles != fused.cycles


@pytest.mark.parametrize(("content", "message"), [
    ("{", "not a choice of RepConvs: JSONDecodeError"), ("[]", "not a choice of RepConvs: TypeError"),
    ('{"layers": []}', "not a choice of RepConvs: KeyError"),
    ('{"unfused": "q_conv"}', "`unfused` must be a list of names, not `'q_conv'`")])
def test_damaged_files(content, message, tmp_path):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ValueError, match=f"c.json: .*{message}"):
        unfused_repconvs(tmp_path / "c.json", named_config("micro"))


def test_refused(tmp_path):
    config = named_config("micro")
    with pytest.raises(ValueError, match="`repconv` must be fused, unfused, a file or names, not `somehow`"):
        unfused_repconvs("somehow", config)
    with pytest.raises(ValueError, match=r"of which the network has block3.0.attn.q_conv, .*; not `block9.q_conv`"):
        estimate("micro", preset="tiny", repconv=["block9.q_conv"])
    with pytest.raises(ValueError, match="object is of networks without such a choice"):
        unfused_repconvs("unfused", object())
    for name in ("v3-5M", "v1-digits"):
        with pytest.raises(ValueError, match=r"must be fused: V[13]Config is of networks without such a choice"):
            choose_repconv(name)
    with pytest.raises(ValueError, match="holds an integer network or its program"):
        choose_repconv(str(tmp_path))
    with pytest.raises(ValueError, match="a directory's was chosen when it was quantised"):
        api.estimate(tmp_path, repconv="unfused")


def test_number_formats_of_fused_repconvs(tmp_path):
    """A model trained with number formats has none for what lies within a RepConv."""
    from spikeloom.quantize.model_files import save
    from spikeloom.quantize.qat import QuantizationAware

    model = load_model("digits")
    clips = np.zeros((1, 8, 32, 32, 3), np.uint8)
    save(model, tmp_path / "m", {}, formats=QuantizationAware(model).choose(clips, weight_bits=8))
    with pytest.raises(ValueError, match=r"m\.safetensors was trained with the number formats of fused RepConvs"):
        quantize(tmp_path / "m.safetensors", tmp_path / "out", clips=clips, repconv="unfused")
    assert not (tmp_path / "out").exists()
