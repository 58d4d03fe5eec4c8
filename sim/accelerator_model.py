"""An accelerator with its memory, clocked in C++ and driven from Python::

    with AcceleratorModel(accelerator, name="accelerator", memory=MemoryModel(latency=40)) as model:
        model.memory[0x1000:0x2000] = program
        model.write_register(0x10, 1)
        cycles = model.run_until_interrupt(max_cycles=100_000)

The top module has ``clk``, ``rst``, ``interrupt``, an AXI4-Lite slave ``s_axi_ctrl_*`` (32 bit) and 1, 2 or 4 AXI4
masters ``m_axi_gmem0_*`` ... (32, 64 or 128 bit, the same for all); `LITE_SIGNALS` and `PORT_SIGNALS` list the rest of
the names. Further outputs are ignored, further inputs stay 0.

The memory answers with a set latency, bandwidth and jitter, stalls at random on every channel, and fails on request.
It watches what the accelerator does: bursts (INCR, aligned, at most ``max_burst`` beats, within 4 KiB and the memory),
handshakes (what is valid stays, unchanged, until ready), ``wlast``, silence during reset, and that no burst overlaps
a write still in flight. Whatever is wrong ends up in `AcceleratorModel.violations` and fails the ``with`` block.
"""

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spikeloom.hw.gateware.emit import emit_verilog

from .cocotb_runner import top_ports
from .verilator import Progress, build_library

__all__ = [
    "AcceleratorModel", "MemoryModel", "PortCounters", "ProtocolViolation", "RegisterError", "SimulationTimeout",
]  # fmt: skip

_HARNESS = Path(__file__).parent / "harness"
_SLICE = 20_000  # cycles per call into C++, so that Ctrl-C is heard
_NEVER = 2**64 - 1
_RESPONSES = {"SLVERR": 2, "DECERR": 3}

_WRITE_ADDRESS = "awid awaddr awlen awsize awburst awvalid awready"
_READ_ADDRESS = "arid araddr arlen arsize arburst arvalid arready"
_WRITE_DATA = "wdata wstrb wlast wvalid wready bid bresp bvalid bready"
PORT_SIGNALS = f"{_WRITE_ADDRESS} {_WRITE_DATA} {_READ_ADDRESS} rid rdata rresp rlast rvalid rready".split()
"""Signals of an AXI4 master port, each after ``m_axi_gmem<n>_``."""

LITE_SIGNALS = (
    "awaddr awvalid awready wdata wstrb wvalid wready bresp bvalid bready "
    "araddr arvalid arready rdata rresp rvalid rready"
).split()
"""Signals of the AXI4-Lite slave, each after ``s_axi_ctrl_``."""


class SimulationTimeout(RuntimeError):
    """Something did not happen within the cycles it was given."""


class ProtocolViolation(RuntimeError):
    """The accelerator broke a rule of AXI: a fault of the gateware, not of what it was given."""


class RegisterError(RuntimeError):
    """The accelerator answered a register access with SLVERR or DECERR."""


@dataclass(frozen=True, kw_only=True)
class MemoryModel:
    """How the memory behaves.

    bandwidth:          beats per cycle and port, for reads and writes each (0 < b <= 1)
    total_bandwidth:    beats per cycle of all ports together, both directions; None: no limit
    latency:            cycles from the address to the first read beat, from the last write beat to its response
    jitter:             up to so many cycles more, at random
    stall_probability:  of every channel in every cycle, register port included
    seed:               of all random numbers
    outstanding:        bursts that a port accepts in each direction before it answers the first
    out_of_order:       bursts with different IDs may overtake each other
    """

    bandwidth: float = 1.0
    total_bandwidth: float | None = None
    latency: int = 20
    jitter: int = 0
    stall_probability: float = 0.0
    seed: int = 1
    outstanding: int = 16
    out_of_order: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.bandwidth <= 1:
            raise ValueError(f"`bandwidth` must be above 0 and at most 1, not {self.bandwidth!r}")
        if self.total_bandwidth is not None and self.total_bandwidth <= 0:
            raise ValueError(f"`total_bandwidth` must be positive or None, not {self.total_bandwidth!r}")
        if not 0 <= self.stall_probability < 1:
            raise ValueError(f"`stall_probability` must be from 0 to below 1, not {self.stall_probability!r}")
        for name, least in (("latency", 0), ("jitter", 0), ("seed", 0), ("outstanding", 1)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"`{name}` must be at least {least}, not {value!r}")


@dataclass(frozen=True)
class PortCounters:
    """What went over one memory port since the start: beats of data and accepted bursts."""

    read_beats: int
    write_beats: int
    read_bursts: int
    write_bursts: int


class AcceleratorModel:
    """Cycle-accurate model of an accelerator and its memory; a context manager.

    ``component`` is an Amaranth component or a Verilog text with top module ``name``. The memory has ``memory_bytes``
    from address 0, all zero; untouched pages cost nothing. ``trace=True`` is a build of its own that can write
    waveforms (`wave`). With ``strict`` a ``with`` block that ends well still raises `ProtocolViolation` if the
    accelerator broke a rule. ``check_hazards=False`` allows bursts that overlap a write in flight.

    Construction builds (or finds) the simulator and applies reset for 8 cycles. `verilator.BuildError` says what is
    missing; `ValueError` names ports that the top module lacks.
    """

    def __init__(
        self,
        component: Any,
        *,
        name: str = "accelerator",
        memory_bytes: int = 64 << 20,
        memory: MemoryModel | None = None,
        max_burst: int = 16,
        check_hazards: bool = True,
        strict: bool = True,
        trace: bool = False,
        progress: Progress | None = None,
    ) -> None:
        if memory_bytes <= 0 or memory_bytes % 4096:
            raise ValueError(f"`memory_bytes` must be a positive multiple of 4096, not {memory_bytes!r}")
        if not 1 <= max_burst <= 256:
            raise ValueError(f"`max_burst` must be from 1 to 256, not {max_burst!r}")
        verilog = component if isinstance(component, str) else emit_verilog(component, name=name)
        self.port_count, self.data_bytes = _shape(verilog, name)
        self.name, self.strict, self.trace = name, strict, trace
        self._api = _load(verilog, name, self.port_count, self.data_bytes, trace, progress)
        self.memory: NDArray[np.uint8] = np.zeros(memory_bytes, np.uint8)
        """All bytes of the memory, shared with the simulation."""
        self.last_write_cycles: NDArray[np.uint32] = np.zeros(memory_bytes // self.data_bytes, np.uint32)
        """For every beat of the memory the cycle of its last write, 0 if there was none."""
        self._handle = self._api.spk_create(
            self.memory.ctypes.data_as(ctypes.c_void_p),
            memory_bytes,
            self.last_write_cycles.ctypes.data_as(ctypes.c_void_p),
        )
        self.set_option("max_burst", max_burst)
        self.set_option("check_hazards", check_hazards)
        self.set_memory_model(memory or MemoryModel())

    def __enter__(self) -> "AcceleratorModel":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None and self.strict:
                self.check()
        finally:
            self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End the simulation; `memory` and `last_write_cycles` stay readable."""
        if handle := getattr(self, "_handle", None):
            self._handle = None
            self._api.spk_destroy(handle)

    # Configuration

    def set_memory_model(self, model: MemoryModel) -> None:
        """Make the memory behave as ``model`` says from now on, and seed its random numbers."""
        for name in ("bandwidth", "latency", "jitter", "outstanding", "out_of_order"):
            self.set_option(name, getattr(model, name))
        self.set_option("total_bandwidth", model.total_bandwidth or 1e9)
        for channel in ("ar", "r", "aw", "w", "b", "lite"):
            self.set_option(f"stall_{channel}", model.stall_probability)
        self._api.spk_seed(self._handle, model.seed)

    def set_option(self, name: str, value: float, *, port: int | None = None) -> None:
        """Set one option of the harness (`axi_port.h`: ``stall_ar``, ``latency``, ...) for ``port`` or for all."""
        for index in range(self.port_count) if port is None else [self._port(port)]:
            if self._api.spk_set(self._handle, index, name.encode(), float(value)):
                raise ValueError(f"`name` must be an option of the harness, not {name!r}")

    def inject_error(
        self,
        port: int,
        direction: Literal["read", "write"],
        response: Literal["SLVERR", "DECERR"],
        *,
        beat: int | None = None,
        cycle: int | None = None,
    ) -> None:
        """Answer one beat with an error: beat number ``beat`` of the port (from 0), or the first from ``cycle`` on.

        A read beat carries the response and 0xEE bytes; a write beat is not stored and its burst's answer is the error.
        """
        if (beat is None) == (cycle is None):
            raise ValueError("exactly one of `beat` and `cycle` must be given")
        if direction not in ("read", "write"):
            raise ValueError(f"`direction` must be 'read' or 'write', not {direction!r}")
        if response not in _RESPONSES:
            raise ValueError(f"`response` must be 'SLVERR' or 'DECERR', not {response!r}")
        when = [_NEVER if value is None else value for value in (beat, cycle)]
        self._api.spk_inject(self._handle, self._port(port), direction == "write", _RESPONSES[response], *when)

    def stall_port(self, port: int, *, from_cycle: int | None = None) -> None:
        """Let ``port`` accept and answer nothing more, at once or from a cycle on, until `release_port`."""
        self._api.spk_stall(self._handle, self._port(port), self.cycle if from_cycle is None else from_cycle)

    def release_port(self, port: int) -> None:
        """End `stall_port`."""
        self._api.spk_stall(self._handle, self._port(port), _NEVER)

    # Running

    @property
    def cycle(self) -> int:
        """Clock cycles since the start, reset included."""
        return self._api.spk_cycle(self._handle)

    @property
    def interrupt(self) -> bool:
        """Level of the interrupt output."""
        return bool(self._api.spk_interrupt(self._handle))

    def reset(self, cycles: int = 8) -> None:
        """Hold ``rst`` for ``cycles``; bursts in flight are forgotten, the memory keeps its contents."""
        self._api.spk_reset(self._handle, cycles)

    def write_register(self, address: int, value: int, *, strobe: int = 15, max_cycles: int = 10_000) -> None:
        """Write a register over AXI4-Lite. Raises `RegisterError` or `SimulationTimeout`."""
        status = self._api.spk_write(self._handle, address, value & 0xFFFFFFFF, strobe, max_cycles)
        self._check_register("write to", address, status, max_cycles)

    def read_register(self, address: int, *, max_cycles: int = 10_000) -> int:
        """Read a register over AXI4-Lite. Raises `RegisterError` or `SimulationTimeout`."""
        value = ctypes.c_uint32()
        status = self._api.spk_read(self._handle, address, ctypes.byref(value), max_cycles)
        self._check_register("read of", address, status, max_cycles)
        return value.value

    def run(self, cycles: int) -> None:
        """Let ``cycles`` clock cycles pass."""
        for start in range(0, cycles, _SLICE):
            self._api.spk_run(self._handle, min(_SLICE, cycles - start))

    def run_until_interrupt(self, max_cycles: int, *, level: bool = True) -> int:
        """Run until the interrupt output has ``level``; returns the cycles that took. Raises `SimulationTimeout`."""
        start = self.cycle
        while (left := max_cycles - (self.cycle - start)) >= 0:
            if self._api.spk_run_until_interrupt(self._handle, int(level), min(left, _SLICE)) >= 0:
                return self.cycle - start
            if left == 0:
                break
        raise SimulationTimeout(f"interrupt not {int(level)} after {max_cycles} cycles; {self._state()}")

    def run_until_register(
        self, address: int, *, mask: int = 0xFFFFFFFF, value: int, max_cycles: int, interval: int = 64
    ) -> int:
        """Read a register every ``interval`` cycles until ``register & mask == value``; returns the cycles it took."""
        start = self.cycle
        while (left := max_cycles - (self.cycle - start)) > 0:
            arguments = (address, mask, value, interval, min(left, _SLICE))
            if self._api.spk_run_until_register(self._handle, *arguments) >= 0:
                return self.cycle - start
        message = f"register {address:#x} & {mask:#x} not {value:#x} after {max_cycles} cycles"
        raise SimulationTimeout(f"{message}; {self._state()}")

    @contextlib.contextmanager
    def wave(self, path: str | Path) -> Iterator[None]:
        """Write a VCD waveform of the cycles inside the ``with`` block to ``path``; needs ``trace=True``."""
        if not self.trace:
            raise ValueError("`wave` needs a model made with trace=True")
        if self._api.spk_wave_start(self._handle, str(path).encode()):
            raise OSError(f"cannot write the waveform {path}")
        try:
            yield
        finally:
            self._api.spk_wave_stop(self._handle)

    # Looking

    def last_write_cycle(self, address: int) -> int | None:
        """Cycle in which the beat that holds ``address`` was last written; None if it never was."""
        return int(self.last_write_cycles[address // self.data_bytes]) or None

    def counters(self, port: int) -> PortCounters:
        """Traffic of one port."""
        values = (ctypes.c_uint64 * 4)()
        self._api.spk_counters(self._handle, self._port(port), values)
        return PortCounters(*values)

    @property
    def in_flight(self) -> int:
        """Bursts of all ports that were accepted and are not completely answered."""
        return self._api.spk_in_flight(self._handle)

    @property
    def violations(self) -> list[str]:
        """What the accelerator did against the rules, as ``cycle 120, m_axi_gmem0: ...``; the first 100."""
        count = min(self._api.spk_violations(self._handle), 100)
        return [self._api.spk_violation(self._handle, index).decode() for index in range(count)]

    def check(self) -> None:
        """Raise `ProtocolViolation` with all `violations`, if there are any."""
        if violations := self.violations:
            total = self._api.spk_violations(self._handle)
            raise ProtocolViolation(
                f"{self.name} broke {total} bus rules:\n" + "\n".join(violations) + "\nThis is a bug of Spikeloom, not "
                "of the network: please report it, with the network and the clip. `spikeloom simulate --wave FILE` "
                "writes a trace of all signals")

    def _port(self, port: int) -> int:
        if not 0 <= port < self.port_count:
            raise ValueError(f"`port` must be from 0 to {self.port_count - 1}, not {port!r}")
        return port

    def _check_register(self, what: str, address: int, status: int, max_cycles: int) -> None:
        if status < 0:
            raise SimulationTimeout(
                f"{what} register {address:#x} not answered in {max_cycles} cycles; {self._state()}"
            )
        if status:
            raise RegisterError(f"{what} register {address:#x}: {'DECERR' if status == 3 else 'SLVERR'}")

    def _state(self) -> str:
        """One line for time-outs: where things stand."""
        traffic = [f"gmem{index}: {self.counters(index)}" for index in range(self.port_count)]
        wrong = f"; first violation: {self.violations[0]}" if self.violations else ""
        return f"cycle {self.cycle}, {self.in_flight} bursts in flight, {', '.join(traffic)}{wrong}"


def _shape(verilog: str, name: str) -> tuple[int, int]:
    """Number of memory ports and bytes per beat of module ``name``; `ValueError` if it is not an accelerator."""
    ports = top_ports(verilog, name)
    count = sum(f"m_axi_gmem{index}_araddr" in ports for index in range(8))
    wanted = ["clk", "rst", "interrupt", *(f"s_axi_ctrl_{signal}" for signal in LITE_SIGNALS)]
    wanted += [f"m_axi_gmem{index}_{signal}" for index in range(max(count, 1)) for signal in PORT_SIGNALS]
    if missing := [signal for signal in wanted if signal not in ports]:
        raise ValueError(f"module {name} lacks the ports {', '.join(missing)}")
    if count not in (1, 2, 4):
        raise ValueError(f"module {name} must have 1, 2 or 4 ports m_axi_gmem*, not {count}")
    widths = {ports[f"m_axi_gmem{index}_{data}"][1] for index in range(count) for data in ("rdata", "wdata")}
    if len(widths) != 1 or not widths <= {32, 64, 128}:
        raise ValueError(f"the memory ports of {name} must all be 32, 64 or 128 bits wide, not {sorted(widths)}")
    return count, widths.pop() // 8


def _load(verilog: str, name: str, ports: int, data_bytes: int, trace: bool, progress: Progress | None) -> ctypes.CDLL:
    library = build_library(
        verilog,
        top=name,
        sources=[_HARNESS / "harness.cpp", _HARNESS / "axi_port.h"],
        defines={"SPK_PORTS": ports, "SPK_DATA_BYTES": data_bytes},
        trace=trace,
        progress=progress,
    )
    api = ctypes.CDLL(str(library))
    handle, u32, u64, i64, number, text = (
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int64, ctypes.c_int, ctypes.c_char_p,
    )  # fmt: skip
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "spk_create": (handle, [handle, u64, handle]),
        "spk_destroy": (None, [handle]),
        "spk_reset": (None, [handle, number]),
        "spk_seed": (None, [handle, u64]),
        "spk_set": (number, [handle, number, text, ctypes.c_double]),
        "spk_cycle": (u64, [handle]),
        "spk_interrupt": (number, [handle]),
        "spk_write": (i64, [handle, u32, u32, u32, u64]),
        "spk_read": (i64, [handle, u32, ctypes.POINTER(u32), u64]),
        "spk_run": (None, [handle, u64]),
        "spk_run_until_interrupt": (i64, [handle, number, u64]),
        "spk_run_until_register": (i64, [handle, u32, u32, u32, u64, u64]),
        "spk_wave_start": (number, [handle, text]),
        "spk_wave_stop": (None, [handle]),
        "spk_violations": (u64, [handle]),
        "spk_violation": (text, [handle, u64]),
        "spk_counters": (None, [handle, number, ctypes.POINTER(u64)]),
        "spk_in_flight": (u64, [handle]),
        "spk_inject": (None, [handle, number, number, u32, u64, u64]),
        "spk_stall": (None, [handle, number, u64]),
    }
    for function, (result, arguments) in signatures.items():
        getattr(api, function).restype = result
        getattr(api, function).argtypes = arguments
    return api
