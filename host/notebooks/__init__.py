"""Notebooks for Jupyter on a board: PYNQ finds them through the entry point `pynq.notebooks` (`pynq get-notebooks`)."""
