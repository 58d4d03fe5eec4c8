"""Cycle model: how long a program takes, without RTL. See `estimate`."""
