"""Long runs: counters do not drift, and the simulator does not grow."""

import pytest

import soak


@pytest.mark.slow
def test_a_thousand_images(capsys):
    assert soak.main([]) == 0
    text = capsys.readouterr().out
    assert "100 starts of one simulator process, 1000 images" in text and " 0 starts differ" in text
