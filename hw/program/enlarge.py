"""Upsample: no instruction of its own. Whoever adds the enlarged map loads its items from the small one in DDR.

A row of the enlarged map is a row of the small one, every item as often as it is wider: LOAD_SHORTCUT with a stride of
zero. Of a 1x1 map one such load brings a whole piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from spikeloom.network import Network, Upsample

from .emitter import Transfer
from .errors import MappingError
from .layout import ITEM_BEATS, TensorPlace


@dataclass(frozen=True)
class Enlarged:
    """A tensor that nobody makes: the tensor `source`, `rows` times as high and `columns` times as wide."""

    source: str
    rows: int
    columns: int


def enlarged(network: Network) -> Mapping[str, Enlarged]:
    """What every `Upsample` makes; the source of an enlarged tensor's enlargement is the smallest one.

    Raises:
        MappingError: The output of the network is such a tensor.
    """
    found: dict[str, Enlarged] = {}
    for operator in network.operators:
        if isinstance(operator, Upsample):
            source = found[operator.input].source if operator.input in found else operator.input
            small, large = network.tensors[source], network.tensors[operator.output]
            found[operator.output] = Enlarged(source, large.height // small.height, large.width // small.width)
            if operator.output == network.output:
                raise MappingError(f"operator {operator.name}: an enlarged map cannot be the output of a network, only "
                                   "the shortcut of a convolution")
    return found


def row_transfers(
    place: TensorPlace, wide: Enlarged, word: int, row: int, first: int, last: int, beat_bytes: int
) -> Iterator[tuple[int, Transfer]]:
    """Transfers that bring items [first, last) of a row of the enlarged map, each with the items before it.

    `place`: the small tensor. `word`: of all words of all its lane groups. `row`: of the enlarged map.
    """
    beats, factor = ITEM_BEATS[place.kind], wide.columns
    start = place.offset + (word * place.height + row // wide.rows) * place.width * beats * beat_bytes
    col = first
    while col < last:
        if col % factor or last - col < factor:  # part of the copies of an item
            count, copies = 1, min(factor - col % factor, last - col)
        else:
            count, copies = (last - col) // factor, factor
        offset = start + col // factor * beats * beat_bytes
        yield col - first, Transfer(place, offset, beats, copies, 0, count, beats * beat_bytes)
        col += count * copies


def copies(place: TensorPlace, word: int, words: int, pixels: int, beat_bytes: int) -> Transfer:
    """Items of `words` words of a 1x1 map, each `pixels` times."""
    beats = ITEM_BEATS[place.kind]
    item = beats * beat_bytes
    return Transfer(place, place.offset + word * item, beats, pixels, 0, words, item)
