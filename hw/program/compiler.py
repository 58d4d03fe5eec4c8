"""From an integer network to a program.

Layer by layer: every operator reads its inputs from DDR and writes its outputs there; every tensor has a place of its
own, so that each can be compared after a run. The order of the instructions is a valid sequential execution; tokens let
the engines overlap (`schedule`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from spikeloom.bounds import prove_bounds
from spikeloom.config import MachineConfig
from spikeloom.hw.isa import INSTRUCTION_BYTES, EncodingError, Opcode
from spikeloom.network import (
    Accumulating,
    Attend,
    Conv,
    Depthwise,
    KeyValue,
    MaxConv,
    Network,
    Operator,
    TemporalAttend,
    Upsample,
    outputs_of,
)
from spikeloom.operations import additions

from .attention import lower_attend, lower_keyvalue
from .convolution import lower_conv
from .depthwise import lower_depthwise
from .emitter import Emitter, align
from .errors import MappingError
from .feeds import EVERY_COLUMN, Columns
from .handover import Handover
from .handover_tiles import handover_tiles
from .layout import Region, TensorPlace
from .maximum import lower_maximum
from .memory_map import place_tensors
from .order import StuckError, in_order
from .pairs import hands_over
from .program import OperatorInfo, Program
from .residual import Chain, Residuals, Rolling, chains, place_residuals, rolling_chains
from .runner import Runner
from .schedule import Step, insert_tokens
from .temporal import lower_temporal
from .work import Job, Lowered


def compile_network(network: Network, config: MachineConfig, *, observe: bool = False) -> Program:
    """Compile `network` for the machine `config`. The same arguments give the same bytes.

    Args:
        observe: Also store the tensors that otherwise never leave the chip, to be compared: residual tensors, and the
            planes between a depthwise convolution and the 1 x 1 convolution behind it (which then go through DDR).

    Raises:
        NetworkError: The network is malformed, or an accumulator could overflow (`spikeloom.bounds`).
        MappingError: The machine cannot run an operator; the message names it and says why.
    """
    network.check()
    prove_bounds(network)
    if config.parameter_depth < config.output_words:
        raise MappingError(f"`parameter_depth` must be at least `output_words`, not `{config.parameter_depth}`")
    try:
        return _compile(network, config, observe, apart=False)
    except (MappingError, StuckError):  # planes of two pairs of operators would have to lie in the banks together
        return _compile(network, config, observe, apart=True)


def _compile(network: Network, config: MachineConfig, observe: bool, apart: bool) -> Program:
    """See `compile_network`. `apart`: nothing comes between the jobs of a tile whose planes stay on chip."""
    makers = {name: index for index, operator in enumerate(network.operators) for name in outputs_of(operator)}
    sums = {name for operator in network.operators if isinstance(operator, Accumulating) and operator.neuron.pool
            for name in outputs_of(operator)}
    emitter = Emitter(config, makers, sums)
    places, workspace = place_tensors(network, emitter)
    lowered, jobs, residuals = _jobs(emitter, network, places, observe, apart)
    Runner(emitter, jobs, [operator.name for operator in network.operators]).run()
    emitter.emit(Opcode.END, {})
    steps = emitter.steps
    insert_tokens(steps)
    start = align(len(steps) * INSTRUCTION_BYTES)
    on_chip = {name for part in lowered for name in part.on_chip} | (set() if observe else set(residuals.homes))
    places = {name: replace(_moved(place, start), stored=name not in on_chip) for name, place in places.items()}
    return Program(
        config=config, network_hash=network.hash, frames=network.frames,
        image=_encode(network, steps, start) + bytes(emitter.constants),
        instruction_count=len(steps), workspace_bytes=workspace, input_bytes=places[network.input].size,
        output_bytes=places[network.output].size, input=network.input, output=network.output, tensors=places,
        operators=tuple(_info(network, index, operator, steps) for index, operator in enumerate(network.operators)))


def _jobs(
    emitter: Emitter, network: Network, places: dict[str, TensorPlace], observe: bool, apart: bool
) -> tuple[list[Lowered], list[Job], Residuals]:
    """Operators lowered, and their jobs in order. A window that turns out too small for its operators is given up."""
    refused: set[Chain] = set()
    whole = set(chains(network)) if observe else set[Chain]()
    while True:
        rolling = rolling_chains(network, places, emitter.config, refused, whole)
        residuals = place_residuals(network, places, emitter.config, rolling, observe)
        lowered = list(_lower_all(emitter, network, places, residuals, rolling, apart))
        room = {r.chain.first: (r.chain.last, r.window, _height(places, r)) for r in rolling}
        try:
            return lowered, in_order(lowered, room, residuals.barriers(network)), residuals
        except StuckError as error:
            layers = next(part.layers for part in lowered if error.layer in part.layers)
            stuck = [r for r in rolling if r.chain.first <= layers[-1] and layers[0] <= r.chain.last]
            if not stuck:
                raise
            whole.update(r.chain for r in stuck if r.bands)
            refused.update(r.chain for r in stuck if not r.bands)


def _height(places: dict[str, TensorPlace], rolling: Rolling) -> int:
    return places[rolling.chain.tensors[0]].height


def _info(network: Network, index: int, operator: Operator, steps: list[Step]) -> OperatorInfo:
    own = [i for i, step in enumerate(steps[:-1]) if step.instruction.layer == index]
    return OperatorInfo(
        name=operator.name, kind=type(operator).__name__.lower(), first=own[0] if own else 0, instructions=len(own),
        synaptic_operations=additions(network, operator), outputs=outputs_of(operator))


def _lower_all(
    emitter: Emitter, network: Network, places: dict[str, TensorPlace], residuals: Residuals, rolling: list[Rolling],
    apart: bool,
) -> Iterator[Lowered]:
    """Operators in a window are lowered band by band."""
    banded = {r.chain.first: r for r in rolling if r.bands}
    within = {layer: r for r in rolling for layer in r.layers}
    index = 0
    while index < len(network.operators):
        if index in banded:
            yield from _lower_bands(emitter, network, places, residuals, banded[index], apart)
            index = banded[index].chain.last + 1
            continue
        lowered = _lower(emitter, network, places, index, residuals, within.get(index), apart)
        yield lowered
        index += len(lowered.layers)


def _lower_bands(
    emitter: Emitter, network: Network, places: dict[str, TensorPlace], residuals: Residuals, rolling: Rolling,
    apart: bool,
) -> Iterator[Lowered]:
    """The operators of a window that is cut into bands: all of them for one band, then for the next."""
    emitter.banded = rolling.layers
    for band, columns in enumerate(rolling.bands):
        emitter.band = band
        homes = rolling.in_band(residuals, band, _height(places, rolling))
        index = rolling.chain.first
        while index <= rolling.chain.last:
            lowered = _lower(emitter, network, places, index, homes, rolling, apart, columns[index])
            yield lowered
            index += len(lowered.layers)
    emitter.banded, emitter.band = (), 0


def _lower(
    emitter: Emitter, network: Network, places: dict[str, TensorPlace], index: int, residuals: Residuals,
    rolling: Rolling | None, apart: bool, columns: Columns = EVERY_COLUMN,
) -> Lowered:
    """Operator `index`, or that and the next one. `rolling`: the window through which its map passes."""
    operator, tile = network.operators[index], rolling.rows if rolling else None
    emitter.layer = index
    try:
        if hands_over(network, index) and not residuals.observe:
            tiles = handover_tiles(network, places, index, emitter.config, rolling, columns)
            if tiles is not None:
                return Handover(emitter, network, places, index, residuals, tiles, apart, columns).lower()
        if isinstance(operator, MaxConv):
            return lower_maximum(emitter, network, places, operator, residuals, tile)
        if isinstance(operator, Conv):
            return lower_conv(emitter, network, places, operator, residuals, tile, columns)
        if isinstance(operator, Depthwise):
            return lower_depthwise(emitter, network, places, operator, residuals, tile, columns)
        if isinstance(operator, Attend):
            return lower_attend(emitter, network, places, operator, residuals)
        if isinstance(operator, Upsample):
            return Lowered((index,), on_chip=(operator.output,))
        if isinstance(operator, TemporalAttend):
            return lower_temporal(emitter, network, places, operator, residuals)
        assert isinstance(operator, KeyValue)
        return lower_keyvalue(emitter, network, places, operator)
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
