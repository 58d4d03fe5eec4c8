"""One training run: float or quantisation-aware, from the start or from its checkpoint.

A step is a function of the state before it (parameters, optimiser, formats) and of its number, so a resumed run ends
with the same bits as one that was never interrupted. Float runs compute most steps in bfloat16 (autocast) and the last
ones in float32, so that batch norm ends with float32 statistics; quantisation-aware ones compute in float32, in which
integers are exact.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..checkpoints.architectures import build_model
from ..convert import load_any
from ..inference import FromPixels, predictor
from ..model_files import save, versions
from ..models import SpikeVideoFormer
from ..qat import QuantizationAware
from ..relatives import Relative
from . import checkpoint
from .checkpoint import Progress
from .config import ConfigError, RunConfig, load_config
from .distributed import World, synchronise_norms, world
from .log import Log, numbers
from .optimiser import initialise, optimiser, rate_factor

__all__ = ["CHECKPOINT_EVERY", "MODEL", "train"]

MODEL = "model"
"""Name of the files of the trained model."""

CHECKPOINT_EVERY = 100
"""Steps between two checkpoints."""


def train(
    config: RunConfig | str | Path, out: str | Path, *, resume: bool = False, device: str = "auto",
    threads: int | None = None, command: str | None = None, after_step: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Train, measure on the test split, save.

    Args:
        config: The run, its TOML file, or the name of one of `training/configs`.
        out: Directory: `model.safetensors`, `model.json` (after quantisation-aware training `model.formats.json`),
            `log.csv`, `checkpoint.pt`, `tensorboard`.
        resume: Go on from the directory's checkpoint.
        device: cpu, cuda or auto.
        threads: Of torch, per process; None leaves them as they are.
        command: Goes into `model.json`.
        after_step: Hears the number of every step done.

    Returns:
        What is written to `model.json`.

    Raises:
        ConfigError: The configuration is wrong, the checkpoint does not fit it or is there without `resume`.
        ValueError: The batch cannot be divided among the processes, or there is no such device.
        ModelError: The weights to begin with cannot be loaded.
        KeyboardInterrupt: After SIGINT or SIGTERM; the step was finished and a checkpoint written.
    """
    config, out = config if isinstance(config, RunConfig) else load_config(config), Path(out)
    if threads is not None:
        torch.set_num_threads(threads)
    if not resume and (out / checkpoint.FILE_NAME).exists():
        raise ConfigError(f"{out / checkpoint.FILE_NAME}: there is a run already; resume it or take another directory")
    with world(device) as here:
        here.part(config.schedule.batch)
        out.mkdir(parents=True, exist_ok=True)
        run = _Run(config, out, here, resume=resume)
        with _stop_signals() as stop, contextlib.closing(run):
            run.steps(stop, after_step)
        report = run.report(command) if here.first else {}
        here.barrier()
        return report


class _Run:
    """State of a run in one process."""

    def __init__(self, config: RunConfig, out: Path, here: World, *, resume: bool) -> None:
        self.config, self.out, self.world = config, out, here
        self.task = config.make_task()
        torch.manual_seed(config.schedule.seed)
        self.model = _model(config).to(here.device)
        self.optimiser = optimiser(self.model, config.schedule)
        self.progress = Progress()
        if resume:
            self.progress = checkpoint.restore(out, config, self.model, self.optimiser)
        self.module: FromPixels | QuantizationAware
        if config.qat is None:
            if here.size > 1:
                synchronise_norms(self.model)
            self.module = FromPixels(self.model)
        else:
            self.module = QuantizationAware(self.model, self.progress.formats)
        self.parallel = here.wrap(self.module)
        self.log = Log(out, step=self.progress.step) if here.first else None

    def steps(self, stop: list[int], after_step: Callable[[int], None] | None) -> None:
        """All steps that are left. KeyboardInterrupt once `stop` is not empty in any process."""
        total, config = self.config.schedule.steps, self.config.evaluation
        bar = tqdm(total=total, initial=self.progress.step, desc="train", mininterval=2,
                   disable=None if self.world.first else True)
        with bar, contextlib.closing(_batches(self)) as batches:
            for clips, targets in batches:
                began = time.perf_counter()
                self.step(clips, targets, bar)
                self.progress.seconds += time.perf_counter() - began
                step = self.progress.step
                if after_step is not None:
                    after_step(step)
                if self.world.any(bool(stop)):
                    self.store()
                    raise KeyboardInterrupt
                if config.watch and step % config.watch == 0 and step < total:
                    self.watch(bar)
                if step % CHECKPOINT_EVERY == 0 or step == total:
                    self.store()

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()

    def step(self, clips: np.ndarray, targets: Mapping[str, np.ndarray], bar: tqdm) -> None:
        """One optimiser step."""
        schedule, done = self.config.schedule, self.progress.step
        self.choose_formats()
        self.model.train(self.config.qat is None)
        for group in self.optimiser.param_groups:
            group["lr"] = schedule.rate * rate_factor(done, schedule)
        device = self.world.device
        half = self.config.qat is None and done + 1 <= (1 - schedule.float32) * schedule.steps
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            outputs = self.parallel(torch.from_numpy(clips).to(device))
        loss = self.task.loss(
            self.model, outputs, {name: torch.from_numpy(value).to(device) for name, value in targets.items()})
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), schedule.clip)
        self.optimiser.step()
        self.progress.step += 1
        self.tell(bar, loss, norm)

    def choose_formats(self) -> None:
        """Choose number formats, in the steps that want new ones."""
        qat, step = self.config.qat, self.progress.step
        if qat is not None and qat.renews(step, self.config.schedule.steps):
            assert isinstance(self.module, QuantizationAware)
            clips, _ = self.task.batch(range(qat.clips), "train", 0)
            self.progress.formats = self.module.choose(clips, weight_bits=qat.weight_bits)

    def tell(self, bar: tqdm, loss: Tensor, norm: Tensor) -> None:
        """Log a step and show it."""
        mean = self.world.mean(loss)
        if self.log is not None:
            rate = self.optimiser.param_groups[0]["lr"]
            self.log.add(self.progress.step, {"train.loss": mean, "train.gradient": norm.item(), "train.rate": rate})
        bar.set_postfix_str(f"loss {mean:.3f}", refresh=False)
        bar.update()

    def watch(self, bar: tqdm) -> None:
        """Measure on the validation split; the other processes wait."""
        if self.world.first:
            settings = self.config.evaluation
            found = numbers(self.evaluate("val", settings.watch_clips), "val")
            assert self.log is not None
            self.log.add(self.progress.step, found)
            shown = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
            bar.write(f"step {self.progress.step}: {shown}", file=sys.stderr)
        self.world.barrier()

    def evaluate(self, split: str, clips: int) -> dict[str, Any]:
        """Metrics in evaluation mode; quantisation-aware, those of the integer network."""
        self.model.eval()
        predict = predictor(self.module)
        return self.task.evaluate(predict, n=clips, split=split, seed=self.config.evaluation.seed)

    def store(self) -> None:
        """Write the checkpoint."""
        if self.world.first:
            checkpoint.store(self.out, self.config, self.progress, self.model, self.optimiser)
        self.world.barrier()

    def report(self, command: str | None) -> dict[str, Any]:
        """Measure on the test split and save the model."""
        report = {
            "name": self.config.name, "command": command, "training": self.config.to_dict(),
            "minutes": round(self.progress.seconds / 60, 2), "processes": self.world.size, "versions": versions(),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "test": self.evaluate("test", self.config.evaluation.clips)}
        save(self.model, self.out / MODEL, report, formats=self.progress.formats)
        return json.loads(json.dumps(report))


def _model(config: RunConfig) -> SpikeVideoFormer | Relative:
    """The network with the weights that the run begins with, in training mode."""
    model = build_model(config.model)
    if config.start is None:
        initialise(model, drive=config.schedule.drive, branch=config.schedule.branch)
    else:
        state = load_any(config.start).state_dict()
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ConfigError(f"`model.start`: the weights of {config.start} do not fit the network: "
                              f"{str(error).splitlines()[1].strip():.200}") from error
    return model.train()


def _batches(run: _Run) -> Generator[tuple[np.ndarray, dict[str, np.ndarray]], None, None]:
    """This process's parts of the batches that are left, in order; the next one is drawn in a thread meanwhile."""
    schedule = run.config.schedule
    part = run.world.part(schedule.batch)

    def draw(step: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        first = step * schedule.batch
        return run.task.batch(range(first + part.start, first + part.stop), "train", schedule.seed)

    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(draw, run.progress.step)
        for step in range(run.progress.step, schedule.steps):
            ready = pending.result()
            pending = pool.submit(draw, step + 1)
            yield ready


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM are added to; the second one ends the process as usual."""
    received: list[int] = []

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
