"""Live panels, drawn anew when a control moves, and sliders over pictures that were drawn beforehand."""

from __future__ import annotations

import gc
import html
import io
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
from matplotlib.figure import Figure


def live_panel(
    draw: Callable[..., object], controls: Mapping[str, Sequence[object]], *, size: tuple[float, float] = (10, 4)
) -> ipywidgets.VBox:
    """A picture with a list to choose from for each control.

    Args:
        draw: called as draw(figure, **chosen) on an empty figure; a ValueError it raises is shown as a sentence
            in place of the picture.
        controls: name and values of each control; the first value is chosen at first and by the reset button.
        size: of the figure in inches.
    """
    form = {"style": {"description_width": "initial"}, "layout": {"width": "auto", "margin": "2px 16px 2px 2px"}}
    lists = {
        name: ipywidgets.Dropdown(options=list(values), description=name, **form) for name, values in controls.items()
    }
    reset = ipywidgets.Button(description="reset", tooltip="back to the first value of each list")
    picture, message = ipywidgets.Image(format="png", layout={"align_self": "flex-start"}), ipywidgets.HTML()

    def refresh(_change: object = None) -> None:
        """Draw what is chosen, or say why it cannot be drawn."""
        figure = _empty(size)
        try:
            draw(figure, **{name: control.value for name, control in lists.items()})
        except ValueError as error:
            message.value = f"This choice cannot be drawn: {html.escape(str(error), quote=False)}"
            picture.layout.visibility = "hidden"
            return
        message.value, picture.value, picture.layout.visibility = "", _png(figure), "visible"

    def restore(_button: object) -> None:
        """Choose the first value of each list again."""
        for control in lists.values():
            control.unobserve(refresh, names="value")  # drawn once, not once for each list
            control.index = 0
            control.observe(refresh, names="value")
        refresh()

    for control in lists.values():
        control.observe(refresh, names="value")
    reset.on_click(restore)
    refresh()
    gc.collect()
    gc.freeze()  # to look through all that a notebook holds takes half a second, in the midst of an answer
    row = ipywidgets.HBox([*lists.values(), reset], layout={"flex_flow": "row wrap"})
    return ipywidgets.VBox([row, message, picture])


def kernel_free_slider(
    draw: Callable[[Figure, object], object],
    frames: Mapping[str, object],
    *,
    label: str,
    size: tuple[float, float] = (10, 4),
) -> ipywidgets.VBox:
    """A slider over pictures drawn beforehand: it moves without a kernel, and on a static page too.

    Args:
        draw: called as draw(figure, value) on an empty figure, once for each frame.
        frames: what the slider says at each of its places, and the value drawn there.
        label: what the slider moves, with its unit.
        size: of a frame in inches.
    """
    pictures = []
    for value in frames.values():
        figure = _empty(size)
        draw(figure, value)
        pictures.append(ipywidgets.Image(format="png", value=_png(figure), layout={"align_self": "flex-start"}))
    stack = ipywidgets.Stack(pictures, selected_index=0)
    form = {"style": {"description_width": "initial"}, "layout": {"width": f"{min(size[0] * 80, 600):.0f}px"}}
    slider = ipywidgets.SelectionSlider(options=list(frames), description=label, **form)
    ipywidgets.jslink((slider, "index"), (stack, "selected_index"))
    return ipywidgets.VBox([slider, stack])


def _empty(size: tuple[float, float]) -> Figure:
    return Figure(figsize=size, dpi=80, layout="constrained")


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi="figure")
    return file.getvalue()
