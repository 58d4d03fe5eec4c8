"""Walking figures: clips of a jointed figure with the position of every joint in every frame.

A clip is a function of ``(split, seed, index)`` alone, on any machine with the same numpy; the splits are streams of
random numbers that have nothing in common. How a figure walks, with ``p`` the phase of the gait (radians) and each
limb a length drawn anew for each clip::

    hip angle      swing sin p (left), swing sin(p + pi) (right); knee bent while the leg comes forward
    shoulder angle against the hip of the same side; elbows bent by a constant and a little of the swing
    pelvis         goes along its heading, bobs twice per step cycle; trunk leans forward
    camera         the figure is turned about the vertical by its heading and seen without perspective: facing right
                   or left, up to `turn` radians towards or away from the viewer

The side that is away from the viewer is drawn first and darker. Joints are those of the person: the left elbow of a
figure that faces right is on its far side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clips import SPLITS, GeneratedClips
from .drawing import capsule, finish, paint, scenery

__all__ = ["BONES", "JOINTS", "WalkerClips"]

JOINTS = (
    "head", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle")
"""Order of the joints; the limbs' names are those of COCO."""

_AT = {name: i for i, name in enumerate(JOINTS)}
BONES = tuple((_AT[a], _AT[b]) for a, b in (
    ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"), ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"), ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"),
    ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"), ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"), ("right_hip", "right_knee"), ("right_knee", "right_ankle")))
"""Pairs of joints to connect in a picture."""

FAR = 0.6
"""Brightness of the side away from the viewer."""

# Lengths over the figure's height, and thickness (radius) likewise.
_LENGTHS = {"thigh": 0.25, "shin": 0.25, "trunk": 0.28, "neck": 0.12, "upper_arm": 0.17, "forearm": 0.16,
            "shoulders": 0.10, "hips": 0.06}
_RADII = {"leg": 0.035, "arm": 0.026, "trunk": 0.06, "head": 0.065}

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class WalkerClips(GeneratedClips):
    """Generator of clips.

    Attributes
    ----------
    height : (float, float)
        Of the figure, over the size of the frame.
    speed : (float, float)
        Of the gait, in radians per frame.
    offset : float
        Largest distance of the middle of the path from the middle of the frame, over its size, per axis.
    turn : float
        Largest turn of the figure out of the picture's plane, radians.
    """

    height: tuple[float, float] = (0.7, 0.9)
    speed: tuple[float, float] = (0.25, 0.65)
    offset: float = 0.1
    turn: float = 0.6

    def batch(
        self, indices: list[int] | range, split: str = "test", seed: int = 0
    ) -> tuple[NDArray[np.uint8], Floats]:
        """Clips ``uint8[B, T, H, W, 3]`` and joints ``float32[B, T, 13, 2]``, ``(x, y)`` over the frame's size.

        0 is the left or top border of the frame, 1 the right or bottom one; joints may lie a little outside. A clip
        does not depend on the others of the batch.

        Raises
        ------
        ValueError
            For an unknown split, a negative index or a negative seed.
        """
        self.check(indices, split, seed)
        drawn = [self._draw(int(i), split, seed) for i in indices]
        stacked, frames = self.scenes(drawn)
        joints = self._joints(stacked)
        self._paint(frames, joints, stacked)
        return finish(frames, stacked["noise"]), ((joints + 0.5) / self.size).astype(np.float32)

    def _draw(self, index: int, split: str, seed: int) -> dict[str, Any]:
        """All random numbers of one clip."""
        rng = np.random.default_rng([SPLITS.index(split), seed, index, 1])
        height = rng.uniform(*self.height) * self.size
        rate, swing = rng.uniform(*self.speed), rng.uniform(0.3, 0.6)
        heading = rng.uniform(-self.turn, self.turn) + np.pi * rng.integers(2)
        dark = scenery(rng, self.size, self.clutter, level=(20, 110))
        lengths = {name: value * height * rng.uniform(0.9, 1.1) for name, value in _LENGTHS.items()}
        bright = dark["base"].mean() + rng.uniform(70, 110, 3)
        colours = np.clip(bright[:, None] + rng.uniform(-45, 45, (3, 3)), 0, 255)
        shape = (self.frames, 3, self.size, self.size)
        return {
            "scenery": dark, "height": height, "heading": heading, "swing": swing,
            "phase": rng.uniform(0, 2 * np.pi) + rate * np.arange(self.frames),
            "stride": rate / np.pi * 2 * swing * (lengths["thigh"] + lengths["shin"]),
            "middle": (self.size - 1) / 2 + rng.uniform(-self.offset, self.offset, 2) * self.size,
            "lean": rng.uniform(0.0, 0.15), "elbow": rng.uniform(0.1, 0.6), "knee": rng.uniform(0.5, 1.1),
            "colours": colours.astype(np.float32),
            "noise": self.noise * rng.standard_normal(shape, dtype=np.float32), **lengths}

    def _joints(self, drawn: dict[str, Any]) -> Floats:
        """Joints ``float32[B, T, 13, 2]`` in pixels."""
        part = {key: value[:, None] for key, value in drawn.items() if np.ndim(value) == 1}
        phase, swing, lean = drawn["phase"], part["swing"], part["lean"]
        still = np.zeros_like(phase)
        time = np.arange(self.frames) - (self.frames - 1) / 2
        forward = part["stride"] * time
        pelvis = np.stack([forward, 0.02 * part["height"] * np.cos(2 * phase), still], -1)
        neck = pelvis + _reach(part["trunk"], np.pi + lean + still)
        points = {"head": neck + _reach(part["neck"], np.pi + 0.5 * lean + still)}
        for side, sign in (("left", -1.0), ("right", 1.0)):
            p = phase + (np.pi if sign > 0 else 0.0)
            across = np.stack([still, still, sign + still], -1)
            hip = swing * np.sin(p)
            knee = part["knee"] * np.maximum(0, np.cos(p)) * swing * 2
            shoulder = -0.8 * swing * np.sin(p)
            elbow = part["elbow"] + 0.3 * np.maximum(0, shoulder)
            points[f"{side}_hip"] = pelvis + across * part["hips"][..., None]
            points[f"{side}_knee"] = points[f"{side}_hip"] + _reach(part["thigh"], hip)
            points[f"{side}_ankle"] = points[f"{side}_knee"] + _reach(part["shin"], hip - knee)
            points[f"{side}_shoulder"] = neck + across * part["shoulders"][..., None]
            points[f"{side}_elbow"] = points[f"{side}_shoulder"] + _reach(part["upper_arm"], shoulder)
            points[f"{side}_wrist"] = points[f"{side}_elbow"] + _reach(part["forearm"], shoulder + elbow)
        body = np.stack([points[name] for name in JOINTS], 2)
        heading = part["heading"][..., None]
        seen = np.stack([body[..., 0] * np.cos(heading) - body[..., 2] * np.sin(heading), body[..., 1]], -1)
        return (seen + drawn["middle"][:, None, None]).astype(np.float32)

    def _paint(self, frames: Floats, joints: Floats, drawn: dict[str, Any]) -> None:
        """Draw the figures into ``frames[B, T, 3, H, W]``, what is far first."""
        height = drawn["height"].astype(np.float32)[:, None]
        skin, shirt, trousers = (drawn["colours"][:, i, None] for i in range(3))
        faces_right = (np.cos(drawn["heading"]) > 0)[:, None, None]

        def at(name: str, far: bool) -> Floats:
            """A joint of the far or near side."""
            left, right = joints[:, :, _AT[f"left_{name}"]], joints[:, :, _AT[f"right_{name}"]]
            return np.where(faces_right == far, left, right)

        def limb(a: Floats, b: Floats, kind: str, colour: Floats) -> None:
            radius = np.maximum(_RADII[kind] * height, 0.5)
            paint(frames, capsule(self.size, a, b, radius), colour)

        def arm(far: bool) -> None:
            light = FAR if far else 1.0
            limb(at("shoulder", far), at("elbow", far), "arm", light * shirt)
            limb(at("elbow", far), at("wrist", far), "arm", light * skin)

        def leg(far: bool) -> None:
            light = FAR if far else 1.0
            limb(at("hip", far), at("knee", far), "leg", light * trousers)
            limb(at("knee", far), at("ankle", far), "leg", light * trousers)

        arm(True)
        leg(True)
        neck = (at("shoulder", True) + at("shoulder", False)) / 2
        limb(neck, (at("hip", True) + at("hip", False)) / 2, "trunk", 0.85 * shirt)
        leg(False)
        head = joints[:, :, _AT["head"]]
        limb(head, head, "head", skin)
        arm(False)


def _reach(length: Floats, angle: Floats) -> Floats:
    """Vector ``[..., 3]`` (forward, down, right) of a limb that hangs at ``angle`` forward of straight down."""
    x, y = length * np.sin(angle), length * np.cos(angle)
    return np.stack([x, y, np.zeros_like(x)], -1)
