"""DRAIN: accumulators and shortcut -> neuron unit -> main stream and residual stream.

::

    body ->  issue  -- acc_bank, acc_word, acc_address --> accumulators --acc_data--.
      ^    (credits)-- parameter_row --> parameters -----parameter_data-----------. |
      |      |     '-- shortcut_item --> shortcut buffer ---shortcut_data-------. | |
      |      |                                     carry memory <-> V0, V -> [ neuron unit ]
      |  in flight: fixed latency, never stalls                                |        |
      |      '--------- one credit per free place <------------- spike FIFO  wide FIFO  residual FIFO
    done                                                              '--main--'            '--residual

An item is one pixel of one output word. Items are issued word by word, in each word pixel by pixel, one per cycle, and
only while every FIFO that they will enter has room for all that is in flight; so the pipeline never stalls midway.
"""

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spikeloom.config import MachineConfig

from .instruction import BODY_BITS

__all__ = ["DrainEngine"]


class DrainEngine(wiring.Component):
    """Executes DRAIN instructions.

    An instruction is taken when the engine is idle. The order of the items is: for word in words, for pixel in pixels.
    Fields as in `hw/isa.py`; beyond that:

    * `main` carries the spikes (1 beat per item), planes (8 beats) or raw sums (`raw_beats`): at most one kind per
      instruction. `residual` carries 16 beats per item. Both streams never change between instructions' order.
    * `pool` (mode RESIDUAL; spikes only): no item is put out but the last pixel of each word, if `pool_last`.
    * The carry address rises by one per item put out, that is per word with `pool`. V is written back for every item
      put out, except in mode PLANES.
    * `pixels` or `words` of 0 does nothing and completes.

    Args:
        config: The machine.
        acc_latency: Cycles from accumulator address to `acc_data`, at least 1.

    Ports:
        i: Body bits of a DRAIN; ready while idle.
        done: High for one cycle when the instruction is complete: its last beats are in the output FIFOs, all buffers
            have been read and the carry memory is written. Not before the second cycle after the transfer on `i`.
        busy: High from the cycle after the transfer on `i` up to and including the cycle of `done`.
        acc_bank, acc_address, acc_word: Accumulators wanted; `acc_data` (24 bits at `(channel * lanes + lane) * 24`)
            is valid `acc_latency` cycles later. Every item reads its accumulators exactly once, in order.
        acc_read: High in the cycles in which an item is read (the others may read what they like).
        shortcut_item, shortcut_data: Shortcut buffer, data (`16 * beat_bits`) one cycle after the address.
        parameter_row, parameter_data: Neuron parameters, data (`96 * word_channels`) one cycle after the address.
        main, residual: Output beats (`beat_bits`).
    """

    i: stream.Interface
    done: Signal
    busy: Signal
    acc_read: Signal
    acc_bank: Signal
    acc_address: Signal
    acc_word: Signal
    acc_data: Signal
    shortcut_item: Signal
    shortcut_data: Signal
    parameter_row: Signal
    parameter_data: Signal
    main: stream.Interface
    residual: stream.Interface

    def __init__(self, config: MachineConfig, *, acc_latency: int = 2) -> None:
        if acc_latency < 1:
            raise ValueError(f"`acc_latency` must be at least 1, not `{acc_latency!r}`")
        self.config = config
        self.acc_latency = acc_latency
        neurons = config.beat_bits
        super().__init__({
            "i": In(stream.Signature(unsigned(BODY_BITS))), "done": Out(1), "busy": Out(1),
            "acc_read": Out(1), "acc_bank": Out(1), "acc_address": Out(range(config.accumulator_depth)),
            "acc_word": Out(range(config.output_words)), "acc_data": In(neurons * 24),
            "shortcut_item": Out(range(config.shortcut_depth)), "shortcut_data": In(neurons * 16),
            "parameter_row": Out(range(config.parameter_depth)), "parameter_data": In(config.word_channels * 96),
            "main": Out(stream.Signature(unsigned(neurons))), "residual": Out(stream.Signature(unsigned(neurons)))})

    def elaborate(self, platform) -> Module:
        raise NotImplementedError
