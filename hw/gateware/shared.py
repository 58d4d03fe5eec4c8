"""Identical blocks are elaborated once: `@shared` on a component class.

    @shared
    class TableLane(wiring.Component): ...

    m.submodules.lane0 = TableLane(config)      # `to_rtlil`: both are instances of one module `spikeloom_table_lane`,
    m.submodules.lane1 = TableLane(config)      # because class and arguments are equal; elsewhere: just components

Amaranth elaborates, and converts, every submodule anew: the 8 lanes of 32 tables of the flagship as 256 tables. Here
the first of a kind is converted as a module of its own, in the order of appearance and before its parent, and all of
them are instances of it. Shared components may contain shared components.

A shared component depends on its constructor arguments only, has the clock domain `sync` at most, and is left alone
by its parent but for its ports. Its clock and reset are those of the parent. Amaranth's `ResetInserter` does not reach
into an instance; the one from here does and must be used instead, also around parents of shared components. An
`EnableInserter` can't reach into one either: the one from here refuses.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from amaranth import hdl
from amaranth.hdl import ClockSignal, Elaboratable, Instance, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from .fast_rtlil import convert

__all__ = ["EnableInserter", "ResetInserter", "shared", "to_rtlil"]

_ComponentClass = TypeVar("_ComponentClass", bound="type[Any]")
_PORT = re.compile(r"^  wire width \d+ (?:input|output) \d+ .*\\(\S+)$", re.M)
_PLAIN = (bool, int, float, str, bytes, type(None))


def shared(cls: _ComponentClass) -> _ComponentClass:
    """Class decorator: components of this very class that were made with equal arguments become one module.

    Subclasses are not shared unless decorated themselves.

    Raises:
        ValueError: From the constructor: an argument that is not hashable, so that equality would not last. From
            `to_rtlil`: two components with equal arguments differ in their ports or plain attributes.
    """
    init, elaborate, signature = cls.__init__, cls.elaborate, inspect.signature(cls.__init__)

    @functools.wraps(init)
    def record_arguments(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is cls:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            self._shared_key = (cls, *(_frozen(name, bound.arguments[name]) for name in list(bound.arguments)[1:]))
        init(self, *args, **kwargs)

    @functools.wraps(elaborate)
    def elaborate_or_instantiate(self: Any, platform: object) -> Any:
        library = _library.get()
        if library is None or type(self) is not cls or library.is_open(self):
            return elaborate(self, platform)
        return library.instance(self, self._shared_key)

    cls.__init__, cls.elaborate = record_arguments, elaborate_or_instantiate
    return cls


def to_rtlil(component: Any, name: str, ports: Any = None) -> str:
    """RTLIL of `component` as module `name`, with one module per kind of shared component (`<name>_<class>`)."""
    library = _Library(name)
    top = library.convert(component, name, ports)
    return "\n".join([*library.texts(), top])


class ResetInserter(hdl.ResetInserter):
    """Amaranth's `ResetInserter`, which also resets shared components."""

    def on_fragment(self, fragment: Any) -> Any:
        inserted = super().on_fragment(fragment)
        library = _library.get()
        if library is not None and library.owns(getattr(fragment, "type", None)) and "rst" in inserted.ports:
            controls: Any = vars(self)["controls"]
            if "sync" in controls:
                inserted.ports["rst"] = (inserted.ports["rst"][0] | controls["sync"], "i")
        return inserted


class EnableInserter(hdl.EnableInserter):
    """Amaranth's `EnableInserter`; an error if there is a shared component inside, whose state it would not hold."""

    def on_fragment(self, fragment: Any) -> Any:
        library = _library.get()
        if library is not None and library.owns(getattr(fragment, "type", None)):
            raise TypeError(f"EnableInserter around the shared component {fragment.type}: give it an enable of its own")
        return super().on_fragment(fragment)


@dataclass(frozen=True)
class _Module:
    name: str
    ports: frozenset[str]
    traits: Any
    text: str


class _Library:
    """The shared modules of one conversion."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._modules: dict[Hashable, _Module] = {}
        self._names: set[str] = set()
        self._open: Any = None

    def texts(self) -> list[str]:
        """RTLIL of every module, children first."""
        return [module.text for module in self._modules.values()]

    def owns(self, name: str | None) -> bool:
        return name in self._names

    def is_open(self, component: Any) -> bool:
        """The component is the one to be converted now, rather than an instance in it."""
        return component is self._open

    def convert(self, component: Any, name: str, ports: Any = None) -> str:
        with self._opened(component):
            return convert(component, name=name, ports=ports)

    def instance(self, component: Any, key: Hashable) -> Instance:
        """An instance of the component's module, which is converted now if it is the first of its kind."""
        signals = _signals(component)
        if key not in self._modules:
            self._modules[key] = self._module(component, signals)
        module = self._modules[key]
        if module.traits != _traits(component):
            raise ValueError(f"components with equal arguments must be equal: {component!r} differs from another one")
        _mark_used(component)
        signals |= {"clk": ("i", ClockSignal()), "rst": ("i", ResetSignal(allow_reset_less=True))}
        return Instance(module.name, *((signals[port][0], port, signals[port][1]) for port in sorted(module.ports)))

    def _module(self, component: Any, signals: dict[str, Any]) -> _Module:
        name = self._name(type(component))
        text = self.convert(component, name)
        start = text.index(f"module \\{name}\n")
        ports = frozenset(_PORT.findall(text, start, text.index("\nend\n", start)))
        if missing := {port for port, (_, value) in signals.items() if len(value)} - ports:
            raise AssertionError(f"{name} has no ports {sorted(missing)}")
        if foreign := ports - {"clk", "rst", *signals}:
            raise ValueError(f"a shared component must use no clock domain but `sync`: {name} has {sorted(foreign)}")
        return _Module(name, ports, _traits(component), text)

    def _name(self, cls: type) -> str:
        name = plain = f"{self._prefix}_{re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', cls.__name__).lower()}"
        number = 2
        while name in self._names:
            name, number = f"{plain}_{number}", number + 1
        self._names.add(name)
        return name

    @contextmanager
    def _opened(self, component: Any) -> Iterator[None]:
        before, self._open = self._open, component
        token = _library.set(self)
        try:
            yield
        finally:
            _library.reset(token)
            self._open = before


_library: ContextVar[_Library | None] = ContextVar("library", default=None)


def _frozen(name: str, value: Any) -> Hashable:
    """The argument with its type: 1, 1.0 and True are not the same."""
    try:
        hash(value)
    except TypeError as error:
        raise ValueError(f"`{name}` of a shared component must be hashable, not `{value!r}`") from error
    return type(value), value


def _signals(component: Any) -> dict[str, tuple[str, Value]]:
    """Name -> direction and signal of every port."""
    return {
        "__".join(map(str, path)): ("i" if member.flow is In else "o", Value.cast(value))
        for path, member, value in component.signature.flatten(component)
    }


def _traits(component: Any) -> tuple[wiring.Signature, dict[str, Any]]:
    """What components of equal arguments must agree in: cheap to see, and telling."""
    return component.signature, {name: value for name, value in vars(component).items() if isinstance(value, _PLAIN)}


def _mark_used(value: Any) -> None:
    """Keep Amaranth from warning of subcomponents that were made by a constructor but, being shared, not elaborated."""
    if isinstance(value, Elaboratable):
        value._MustUse__used = True  # type: ignore[attr-defined]
        for child in vars(value).values():
            if not getattr(child, "_MustUse__used", False):
                _mark_used(child)
    elif isinstance(value, (list, tuple)):
        for child in value:
            _mark_used(child)
