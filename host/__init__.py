"""Driver of the machine on a board. Needs NumPy, and PYNQ in `driver` only; no torch, no Amaranth, no compiler."""
