"""Executes a program instruction by instruction in NumPy: compiler and instruction set checked without RTL.

The engines run either in program order, or in a random order that respects only what the hardware respects: queues in
order and of finite length, tokens, finite output FIFOs. Every memory has exactly the depth of the configuration, and
knows which rows were written. An instruction reads when it starts; what DRAIN and stores write becomes visible at their
completion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeloom.hw.isa import Engine, Instruction, Opcode, Target

from .bank_turns import BankTurns
from .interpreter_compute import ComputeModel
from .interpreter_drain import DrainModel
from .layout import Region
from .memory import Fifo, InterpreterError, Memory
from .packer_model import packed_words
from .program import Program, as_reader
from .schedule import QUEUE_DEPTH, STREAM_DEPTH, TOKENS_MAX

Body = dict[str, int]
Work = Iterator[bool]
"""Yields whether it got anything done; ends when the instruction is complete."""


class Interpreter:
    """Runs one clip.

    Args:
        program: What to run.
        clip: Input in network shape.
        rng: Interleaving of the engines; None: program order, FIFOs without limit.
    """

    def __init__(self, program: Program, clip: NDArray[Any], rng: np.random.Generator | None = None) -> None:
        self.program, self.config, self._rng = program, program.config, rng
        config, beat = program.config, program.config.beat_bytes
        self.regions = {region: Memory(f"region {region.name.lower()}", program.region_size(region) // beat, (beat,))
                        for region in Region}
        self._host_write(Region.PROGRAM, program.image)
        self._host_write(Region.INPUT, program.pack_input(clip))
        self.banks = [Memory(f"spike bank {b}", config.spike_depth, (beat,)) for b in range(config.banks)]
        self.buffers = {
            Target.WEIGHTS: Memory("weight buffer", config.weight_depth, (config.weight_row_bytes,)),
            Target.CHUNKS: Memory("chunk buffer", config.chunk_depth, (config.chunk_header_beats * beat,)),
            Target.PARAMETERS: Memory("parameter buffer", config.parameter_depth, (config.parameter_beats * beat,))}
        self.residual = Memory("residual buffer", config.residual_depth, (config.residual_beats * beat,))
        depth = None if rng is None else STREAM_DEPTH
        self.main, self.matrix = Fifo("main stream", depth), Fifo("matrix stream", depth)
        self._turns = BankTurns(program.instructions())
        self._compute = ComputeModel(config, self.banks, self.buffers)
        self._drain = DrainModel(
            config, self._compute.accumulators, self.buffers[Target.PARAMETERS], self.residual, self.banks)

    def run(self) -> Interpreter:
        """Run to the end. Raises InterpreterError naming the instruction."""
        if self._rng is None:
            for index, instruction in enumerate(self.program.instructions()):
                for moved in self._guarded(index, instruction):
                    if not moved:
                        raise InterpreterError(f"instruction {index}: waits for a stream that nobody fills")
        else:
            Interleaving(self.program.instructions(), self._guarded, self._rng).run()
        for stream in (self.main, self.matrix):
            if len(stream):
                raise InterpreterError(f"{stream.name}: {len(stream)} beats left at the end")
        return self

    def tensor(self, name: str) -> NDArray[Any]:
        """A tensor in network shape. Raises InterpreterError if not all of it was written."""
        place = self.program.tensors[name]
        first, beat = place.offset // self.config.beat_bytes, self.config.beat_bytes
        self.regions[place.region].read(np.arange(first, first + place.size // beat))
        return self.program.read_tensor(
            as_reader({r: m.data.reshape(-1).view(np.uint8) for r, m in self.regions.items()}), name)

    def _host_write(self, region: Region, data: bytes) -> None:
        self.regions[region].fill(np.frombuffer(data, dtype=np.uint8).reshape(-1, self.config.beat_bytes))

    def _guarded(self, index: int, instruction: Instruction) -> Work:
        """`_work`, errors with the instruction's number and operator."""
        try:
            self._turns.begin(index)
            yield from self._work(instruction)
            self._turns.end(index)
        except InterpreterError as error:
            name = self.program.operators[instruction.layer].name
            raise InterpreterError(f"instruction {index} ({instruction.opcode.name} of {name}): {error}") from error

    def _work(self, instruction: Instruction) -> Work:
        body = instruction.body
        match instruction.opcode:
            case Opcode.LOAD:
                self._load(body)
            case Opcode.LOAD_PIXELS:
                self._load_pixels(body)
            case Opcode.LOAD_WEIGHTS | Opcode.LOAD_WEIGHTS_B:
                target = self.buffers[Target(body["target"])]
                self._fill(target, body["row"], self._read(body["region"], body["offset"], body["beats"]))
            case Opcode.LOAD_SHORTCUT:
                self._fill(self.residual, body["item"], self._gather(body))
            case Opcode.COMPUTE:
                yield from _push(self._compute.execute(body), self.matrix)
            case Opcode.DRAIN:
                drained = self._drain.execute(body)
                yield from _push(drained.beats, self.main)
                for memory, rows, content in drained.writes:
                    memory.write(rows, content)
            case Opcode.STORE:
                yield from self._store(body, self.matrix if body["source"] else self.main)
            case Opcode.STORE_RESIDUAL:
                yield from self._store_residual(body)

    def _load(self, body: Body) -> None:
        beats = self._gather(body)
        rows = body["address"] + np.arange(len(beats))
        for bank in _bits(body["bank_mask"]):
            self.banks[bank].write(rows, beats)

    def _load_pixels(self, body: Body) -> None:
        rows = range(max(0, body["row"]), min(body["height"], body["row"] + body["rows"]))
        beats = -(-body["row_bytes"] // self.config.beat_bytes)
        picture = np.zeros((body["frames"], body["height"], beats * self.config.beat_bytes), dtype=np.uint8)
        if picture.shape[-1] > self.config.line_bytes:
            raise InterpreterError("line buffer: row too long")
        for frame in range(body["frames"]):
            for row in rows:
                offset = body["offset"] + frame * body["frame_stride"] + row * body["pitch"]
                picture[frame, row] = self._read(body["region"], offset, beats).reshape(-1)
        for banks, address, words in packed_words(body, picture, self.config):
            for bank in banks:
                self.banks[bank].write(address, words)

    def _fill(self, buffer: Memory, row: int, beats: NDArray[np.uint8]) -> None:
        if beats.size % buffer.data[0].size:
            raise InterpreterError(f"{buffer.name}: {len(beats)} beats are not whole rows")
        rows = beats.reshape(-1, buffer.data.shape[1])
        buffer.write(row + np.arange(len(rows)), rows)

    def _read(self, region: int, offset: int, beats: int) -> NDArray[np.uint8]:
        return self.regions[Region(region)].read(self._beat(offset) + np.arange(beats))

    def _gather(self, body: Body) -> NDArray[np.uint8]:
        return self.regions[Region(body["region"])].read(self._addresses(body))

    def _addresses(self, body: Body) -> NDArray[np.intp]:
        """Beat addresses of a transfer, in order."""
        second = self._beat(body["stride2"]) * np.arange(body["count2"])[:, None, None]
        first = self._beat(body["stride1"]) * np.arange(body["count1"])[:, None]
        return (self._beat(body["offset"]) + second + first + np.arange(body["run"])).reshape(-1)

    def _beat(self, offset: int) -> int:
        if offset % self.config.beat_bytes:
            raise InterpreterError(f"offset or stride {offset} is not aligned to beats")
        return offset // self.config.beat_bytes

    def _store(self, body: Body, stream: Fifo) -> Work:
        addresses = self._addresses(body)
        beats: list[NDArray[np.uint8]] = []
        while len(beats) < len(addresses):
            taken = stream.pull(len(addresses) - len(beats))
            beats += taken
            yield bool(taken)
        self.regions[Region(body["region"])].write(addresses, np.array(beats))

    def _store_residual(self, body: Body) -> Work:
        addresses, size = self._addresses(body), self.config.residual_beats
        if len(addresses) % size:
            raise InterpreterError(f"{len(addresses)} beats are not whole items of {size} beats")
        items = self.residual.read(body["item"] + np.arange(len(addresses) // size))
        yield True
        self.regions[Region(body["region"])].write(addresses, items.reshape(len(addresses), -1))


def _push(items: list[NDArray[np.uint8]], stream: Fifo) -> Work:
    """Items in order; each waits until the stream has room for its beats."""
    moved = False
    for beats in items:
        while not stream.room(len(beats)):
            yield moved
            moved = False
        stream.push(beats)
        moved = True


def _bits(mask: int) -> list[int]:
    return [b for b in range(mask.bit_length()) if mask >> b & 1]


class Interleaving:
    """The sequencer and its engines, one random move at a time.

    Args:
        instructions: The program.
        work: Makes the work of (index, instruction).
        rng: Chooses the moves. Each engine gets a speed for the whole run, so that lags grow long.
    """

    def __init__(self, instructions: list[Instruction], work: Any, rng: np.random.Generator) -> None:
        self._instructions, self._work, self._rng = instructions, work, rng
        self._queues: dict[Engine, deque[int]] = {engine: deque() for engine in Engine}
        self._active: dict[Engine, tuple[int, Work]] = {}
        self._semaphores = np.zeros((len(Engine), len(Engine)), dtype=np.int64)
        self._fetched = 0
        self._speed = {engine: 4.0 ** rng.uniform(-3, 3) for engine in Engine}
        self._fetch_speed = 4.0 ** rng.uniform(-2, 3)
        self._stuck: set[Engine] = set()

    def run(self) -> None:
        """Until END. Raises InterpreterError for a deadlock, an overflow or tokens left over."""
        ended = False
        while not ended:
            engine = self._choose()
            ended = self._fetch() if engine is None else self._step(engine)
        if self._active or any(self._queues.values()):
            raise InterpreterError("END was reached before all engines had finished")
        if self._semaphores.any():
            raise InterpreterError("tokens are left over at the end")

    def _choose(self) -> Engine | None:
        """The engine to move, None to fetch."""
        moves: list[Engine | None] = [e for e in Engine if self._ready(e)]
        weights = [self._speed[e] for e in moves if e is not None]
        if self._can_fetch():
            moves.append(None)
            weights.append(self._fetch_speed)
        if not moves:
            raise InterpreterError(self._deadlock())
        total = np.cumsum(weights)
        return moves[int(np.searchsorted(total, self._rng.random() * total[-1], side="right"))]

    def _ready(self, engine: Engine) -> bool:
        if engine in self._active:
            return engine not in self._stuck
        if not self._queues[engine]:
            return False
        instruction = self._instructions[self._queues[engine][0]]
        return all(self._semaphores[producer, engine] for producer in instruction.wait)

    def _can_fetch(self) -> bool:
        if self._fetched == len(self._instructions):
            return False
        return len(self._queues[self._instructions[self._fetched].engine]) < QUEUE_DEPTH

    def _fetch(self) -> bool:
        self._queues[self._instructions[self._fetched].engine].append(self._fetched)
        self._fetched += 1
        return False

    def _step(self, engine: Engine) -> bool:
        """Start or continue the engine's instruction; whether that was END."""
        if engine not in self._active:
            index = self._queues[engine].popleft()
            instruction = self._instructions[index]
            for producer in instruction.wait:
                self._semaphores[producer, engine] -= 1
            self._active[engine] = (index, self._work(index, instruction))
        index, work = self._active[engine]
        moved = next(work, None)
        if moved is None:
            del self._active[engine]
            self._complete(self._instructions[index])
        if moved is False:
            self._stuck.add(engine)
        else:
            self._stuck.clear()
        return moved is None and self._instructions[index].opcode is Opcode.END

    def _complete(self, instruction: Instruction) -> None:
        for consumer in instruction.signal:
            self._semaphores[instruction.engine, consumer] += 1
            if self._semaphores[instruction.engine, consumer] > TOKENS_MAX:
                raise InterpreterError(f"semaphore {instruction.engine.name} -> {consumer.name} overflows")

    def _deadlock(self) -> str:
        heads = [f"{e.name} at {q[0]}" for e, q in self._queues.items() if q]
        active = [f"{e.name} in {i}" for e, (i, _) in self._active.items()]
        return f"deadlock: {', '.join(active + heads)}; fetched {self._fetched}"
