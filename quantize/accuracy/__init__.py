"""Accuracy and energy of float and integer networks, row by row: `make accuracy` writes docs/accuracy.md.

A row is a trained network at a precision. Its result is kept as JSON under `build/accuracy/rows`, so the table can be
made in pieces: what is there and still of the same weights is not run again, what was not run says so on the page.

    float       the model in float32
    int8, int4  the integer network, formats chosen on 32 clips of the training split
    ... QAT     the integer network after quantisation-aware fine-tuning (quantize/training/configs/*-qat*.toml)
    spikes      firing rates and operations of the int8 network

Trained networks come from the zoo; those of the ablation are trained here, float, with three seeds each. Runs that are
interrupted go on from their checkpoint.
"""

from .measuring import measure, metrics, result_file, stored
from .page import page
from .rows import PRECISIONS, ROWS, VARIANTS, Row

__all__ = ["PRECISIONS", "ROWS", "VARIANTS", "Row", "measure", "metrics", "page", "result_file", "stored"]
