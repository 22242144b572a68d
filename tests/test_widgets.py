import time

import pytest
import torch

from convergent_utils.drawing import figures

ipywidgets = pytest.importorskip("ipywidgets", reason="live panels need ipywidgets")
_instances = ipywidgets.widgets.widget._instances
widgets = pytest.importorskip("convergent_utils.drawing.widgets", reason="live panels need ipywidgets")


def draw(figure, layer, k):
    if layer == "none":
        raise ValueError("there is no <such> layer")
    scores = {"semi-matching": torch.linspace(0, k / 10, 40)}
    figures.sorted_matches(figure.subplots(), scores, layout=torch.zeros(40)).set_title(layer)


def test_a_panel_draws_anew_says_what_is_wrong_and_resets():
    calls = []

    def counted(figure, **chosen):
        calls.append(chosen)
        draw(figure, **chosen)

    panel = widgets.live_panel(counted, {"layer": ["conv1", "none"], "k": [1, 5, 9]})
    (layer, k, reset), message, picture = panel.children[0].children, panel.children[1], panel.children[2]
    first = picture.value
    assert first[:4] == b"\x89PNG"
    start = time.perf_counter()
    k.value = 9
    assert time.perf_counter() - start < 2  # half a second on a quiet machine
    assert picture.value != first
    layer.value = "none"
    assert "no &lt;such&gt; layer" in message.value  # the message is HTML
    assert picture.layout.visibility == "hidden"
    assert len(calls) == 3
    reset.click()
    assert len(calls) == 4, "drawn once, though two lists go back"
    assert picture.layout.visibility == "visible"
    assert (layer.value, k.value, message.value) == ("conv1", 1, "")
    assert picture.value == first
    k.value = 5
    assert len(calls) == 5, "the lists are still heard after a reset"


def test_a_panel_whose_first_choice_cannot_be_drawn_says_so():
    panel = widgets.live_panel(draw, {"layer": ["none", "conv1"], "k": [1]})
    (layer, *_), message, picture = panel.children[0].children, panel.children[1], panel.children[2]
    assert "cannot be drawn" in message.value
    assert picture.layout.visibility == "hidden"
    layer.value = "conv1"
    assert (message.value, picture.layout.visibility) == ("", "visible")


def test_a_slider_goes_through_pictures_drawn_beforehand():
    drawn = []

    def frame(figure, k):
        drawn.append(k)
        draw(figure, "conv1", k)

    panel = widgets.kernel_free_slider(frame, {"one": 1, "five": 5, "nine": 9}, label="k")
    slider, stack = panel.children
    assert drawn == [1, 5, 9]
    assert len({picture.value for picture in stack.children}) == 3
    assert all(picture.value[:4] == b"\x89PNG" for picture in stack.children)
    assert [slider._options_labels, slider.description] == [("one", "five", "nine"), "k"]
    links = [w for w in _instances.values() if type(w).__name__ == "Link" and w.source[0] is slider]
    assert [(link.source[1], link.target) for link in links] == [("index", (stack, "selected_index"))]
