"""Pictures and figures of networks that say something of every frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spikeloom.quantize.walkers import BONES
from spikeloom.sim.task_picture import CLASS_COLOURS, TaskClip, draw_masks, draw_poses, overlay


def test_overlay_colours_classes_and_leaves_the_rest() -> None:
    frame = np.full((2, 2, 3), 100, np.uint8)
    drawn = overlay(frame, np.array([[0, 1], [255, 1 + len(CLASS_COLOURS) - 1]], np.uint8))
    assert drawn[0, 0].tolist() == drawn[1, 0].tolist() == [80, 80, 80]
    assert drawn[0, 1].tolist() == drawn[1, 1].tolist() == (35 + 0.65 * CLASS_COLOURS[1]).astype(int).tolist()


@pytest.mark.parametrize("known", [True, False])
def test_pictures(tmp_path: Path, known: bool) -> None:
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    joints, classes = np.random.default_rng(0).random((3, 13, 2)), np.ones((3, 32, 32), np.uint8)
    made = [TaskClip(frames=frames, found=found, true=found if known else None, caption="so", good=known)
            for found in (joints, classes)]
    draw_poses(tmp_path / "new" / "poses.png", made[:1], bones=BONES, title="poses")
    draw_masks(tmp_path / "new" / "masks.png", made[1:] * 2, title="masks")
    for name in ("poses", "masks"):
        assert (tmp_path / "new" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_demo_of_poses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from spikeloom import cli

    assert cli.main(["demo", "--model", "walkers", "--clips", "1", "--held-out", "20", "--preset", "tiny",
                     "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "clip 0: RTL = integer: bit-exact" in text
    assert "integer model on 20 held-out clips: MPJPE " in text
    assert (tmp_path / "demo.png").is_file()
    assert (tmp_path / "report" / "accuracy.json").is_file()
