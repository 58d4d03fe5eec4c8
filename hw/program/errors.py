"""Errors of the compiler and of program files."""

from __future__ import annotations


class MappingError(ValueError):
    """The machine cannot run an operator: the message names the operator and the reason."""


class ProgramError(ValueError):
    """A malformed or foreign program: the message says what is wrong and where."""
