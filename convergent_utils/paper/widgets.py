"""Live panels: a few controls above a picture that is drawn anew from the measurement when one moves."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
from matplotlib.figure import Figure


def live_panel(
    draw: Callable[..., object], controls: Mapping[str, Sequence[object]], *, size: tuple[float, float] = (10, 4)
) -> ipywidgets.VBox:
    """A picture with a list to choose from for each control.

    Args:
        draw: called as draw(figure, **chosen) on an empty figure; a ValueError it raises is shown as a sentence.
        controls: name and values of each control; the first value is chosen at first and by the reset button.
        size: of the figure in inches.
    """
    lists = {name: ipywidgets.Dropdown(options=list(values), description=name) for name, values in controls.items()}
    reset = ipywidgets.Button(description="reset", tooltip="back to the first value of each list")
    picture, message = ipywidgets.Image(format="png"), ipywidgets.HTML()

    def refresh(_change: object = None) -> None:
        figure = Figure(figsize=size, dpi=80, layout="constrained")
        try:
            draw(figure, **{name: control.value for name, control in lists.items()})
        except ValueError as error:
            message.value = f"This choice cannot be drawn: {error}"
            return
        file = io.BytesIO()
        figure.savefig(file, format="png")
        message.value, picture.value = "", file.getvalue()

    def restore(_button: object) -> None:
        for control in lists.values():
            control.index = 0

    for control in lists.values():
        control.observe(refresh, names="value")
    reset.on_click(restore)
    refresh()
    return ipywidgets.VBox([ipywidgets.HBox([*lists.values(), reset]), message, picture])
