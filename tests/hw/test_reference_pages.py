"""The generated pages in docs/ are those of the present tables."""

from pathlib import Path

import pytest

from spikeloom.hw.reference_pages import main, pages

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", sorted(pages()))
def test_committed_page_is_up_to_date(name):
    assert (DOCS / name).read_text() == pages()[name], "run `python -m spikeloom.hw.reference_pages docs`"


def test_writes_all_pages(tmp_path):
    assert main([str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(pages())


def test_usage(capsys):
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
