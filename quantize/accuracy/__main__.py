"""`python -m spikeloom.quantize.accuracy`: measure the rows that are missing, then write the page."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from .measuring import measure, stored, summary
from .page import page
from .rows import ROWS


def main(argv: list[str] | None = None) -> int:
    """Measure the rows that are missing, then write the page."""
    parser = argparse.ArgumentParser(prog="spikeloom.quantize.accuracy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", default="*", metavar="PATTERN", help="keys of rows, as `digits-int4*`; '' runs none")
    parser.add_argument("--directory", type=Path, default=Path("build/accuracy"), metavar="DIR", help="of the results")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the page")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch (%(default)s)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    wanted = [row for row in ROWS if fnmatch.fnmatchcase(row.key, arguments.rows)]
    if arguments.rows and not wanted:
        parser.error(f"no row `{arguments.rows}`: one is {ROWS[0].key}")
    missing = [row for row in wanted if stored(row, arguments.directory) is None]
    failed = 0
    for row in tqdm(missing, desc="rows", disable=None):
        try:
            tqdm.write(f"{row.key}: {summary(measure(row, arguments.directory))}")
        except ValueError as error:
            failed += 1
            tqdm.write(f"{row.key}: not run: {error}", file=sys.stderr)
    if arguments.out is not None:
        arguments.out.write_text(page(arguments.directory))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
