import time

import pytest
import torch

from convergent_utils.paper import figures

widgets = pytest.importorskip("convergent_utils.paper.widgets", reason="live panels need ipywidgets")


def draw(figure, layer, k):
    if layer == "none":
        raise ValueError("there is no such layer")
    scores = {"semi-matching": torch.linspace(0, k / 10, 40)}
    figures.sorted_matches(figure.subplots(), scores, layout=torch.zeros(40)).set_title(layer)


def test_a_panel_draws_anew_says_what_is_wrong_and_resets():
    panel = widgets.live_panel(draw, {"layer": ["conv1", "none"], "k": [1, 5, 9]})
    (layer, k, reset), message, picture = panel.children[0].children, panel.children[1], panel.children[2]
    first = picture.value
    assert first[:4] == b"\x89PNG"
    start = time.perf_counter()
    k.value = 9
    assert time.perf_counter() - start < 2  # half a second on a quiet machine
    assert picture.value != first
    layer.value = "none"
    assert "no such layer" in message.value
    reset.click()
    assert (layer.value, k.value, message.value) == ("conv1", 1, "")
    assert picture.value == first
