"""From an integer network to a program.

Layer by layer: every operator reads its inputs from DDR and writes its outputs there; every tensor has a place of its
own, so that each can be compared after a run. The order of the instructions is a valid sequential execution; tokens let
the engines overlap (`schedule`).
"""

from __future__ import annotations

from dataclasses import replace

from spikeloom.bounds import prove_bounds
from spikeloom.config import MachineConfig
from spikeloom.hw.isa import INSTRUCTION_BYTES, EncodingError, Opcode
from spikeloom.network import Attend, Conv, Depthwise, Network, Operator, outputs_of
from spikeloom.operations import additions

from .attention import lower_attend, lower_keyvalue
from .convolution import lower_conv
from .depthwise import lower_depthwise
from .emitter import Emitter, align
from .errors import MappingError
from .layout import Region, TensorPlace
from .memory_map import place_tensors
from .program import OperatorInfo, Program
from .schedule import Step, hoist_constants, insert_tokens


def compile_network(network: Network, config: MachineConfig) -> Program:
    """Compile `network` for the machine `config`. The same arguments give the same bytes.

    Raises:
        NetworkError: The network is malformed, or an accumulator could overflow (`spikeloom.bounds`).
        MappingError: The machine cannot run an operator; the message names it and says why.
    """
    network.check()
    prove_bounds(network)
    if config.parameter_depth < config.output_words:
        raise MappingError(f"`parameter_depth` must be at least `output_words`, not `{config.parameter_depth}`")
    emitter = Emitter(config)
    places, workspace = place_tensors(network, emitter)
    for index, operator in enumerate(network.operators):
        emitter.layer = index
        _lower(emitter, network, places, operator)
    emitter.emit(Opcode.END, {})
    steps = hoist_constants(emitter.steps)
    insert_tokens(steps)
    start = align(len(steps) * INSTRUCTION_BYTES)
    places = {name: _moved(place, start) for name, place in places.items()}
    return Program(
        config=config, network_hash=network.hash, frames=network.frames,
        image=_encode(network, steps, start) + bytes(emitter.constants),
        instruction_count=len(steps), workspace_bytes=workspace, input_bytes=places[network.input].size,
        output_bytes=places[network.output].size, input=network.input, output=network.output, tensors=places,
        operators=tuple(_info(network, index, operator, steps) for index, operator in enumerate(network.operators)))


def _info(network: Network, index: int, operator: Operator, steps: list[Step]) -> OperatorInfo:
    own = [i for i, step in enumerate(steps[:-1]) if step.instruction.layer == index]
    return OperatorInfo(
        name=operator.name, kind=type(operator).__name__.lower(), first=own[0], instructions=len(own),
        synaptic_operations=additions(network, operator), outputs=outputs_of(operator))


def _lower(emitter: Emitter, network: Network, places: dict[str, TensorPlace], operator: Operator) -> None:
    try:
        if isinstance(operator, Conv):
            lower_conv(emitter, network, places, operator)
        elif isinstance(operator, Depthwise):
            lower_depthwise(emitter, network, places, operator)
        elif isinstance(operator, Attend):
            lower_attend(emitter, network, places, operator)
        else:
            lower_keyvalue(emitter, network, places, operator)
    except (MappingError, EncodingError) as error:
        raise MappingError(f"operator {operator.name}: {error}") from error


def _moved(place: TensorPlace, start: int) -> TensorPlace:
    """Constants begin at `start` of the program region."""
    return replace(place, offset=place.offset + start) if place.region is Region.PROGRAM else place


def _encode(network: Network, steps: list[Step], start: int) -> bytes:
    """Instructions, padded to `start` bytes; offsets of constants moved there."""
    data = bytearray()
    for step in steps:
        instruction = step.instruction
        if step.constant:
            instruction.body["offset"] += start
        try:
            data += instruction.encode()
        except EncodingError as error:
            raise MappingError(f"operator {network.operators[instruction.layer].name}: {error}") from error
    return bytes(data).ljust(start, b"\0")
