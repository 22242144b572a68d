"""Live panels: a few controls above a picture that is drawn anew from the measurement when one moves."""

from __future__ import annotations

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
        figure = Figure(figsize=size, dpi=80, layout="constrained")
        try:
            draw(figure, **{name: control.value for name, control in lists.items()})
        except ValueError as error:
            message.value = f"This choice cannot be drawn: {html.escape(str(error), quote=False)}"
            picture.layout.visibility = "hidden"
            return
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi="figure")
        message.value, picture.value, picture.layout.visibility = "", file.getvalue(), "visible"

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
    row = ipywidgets.HBox([*lists.values(), reset], layout={"flex_flow": "row wrap"})
    return ipywidgets.VBox([row, message, picture])
