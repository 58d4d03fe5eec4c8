"""`spikeloom train` for torchrun: `torchrun --nproc-per-node 2 -m spikeloom.quantize.training CONFIG --out DIR`."""

from __future__ import annotations

import sys

from spikeloom.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
