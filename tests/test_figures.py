from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from convergent_utils.drawing.figures import NETWORKS, ROLES, layer_map, one_legend, pairs_of_patches, per_layer

# What is left of linear RGB when one kind of cone is missing (Machado, Oliveira and Fernandes 2009, severity 1).
EYES = {
    "all cones": np.eye(3),
    "no red cones": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "no green cones": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "no blue cones": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.147], [0.005, 0.691, 0.304]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(color, eye):
    """CIE L*a*b* of a colour as such an eye sees it; two colours one apart can just be told apart."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ (np.array(EYES[eye]) @ linear).clip(0, 1) / TO_XYZ.sum(1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), xyz * 841 / 108 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eye", EYES)
def test_networks_are_told_apart_by_any_eye(eye):
    seen = [lab(color, eye) for color in NETWORKS.values()]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 12


def test_red_and_olive_would_not_be():
    red, olive = (0.85, 0.35, 0.35), (0.6, 0.55, 0.3)
    with_all, without = (np.linalg.norm(lab(red, eye) - lab(olive, eye)) for eye in ("all cones", "no green cones"))
    assert without < 12 < with_all


@pytest.mark.parametrize("eye", EYES)
def test_baselines_differ_from_what_they_stand_beside_in_more_than_colour(eye):
    beside = ("trained", "layout", "untrained", "finite sample")
    for a, b in combinations(beside, 2):
        looks = ROLES[a], ROLES[b]
        assert looks[0]["marker"] != looks[1]["marker"]
        assert np.linalg.norm(lab(looks[0]["color"], eye) - lab(looks[1]["color"], eye)) > 12
    assert ROLES["trained"]["linestyle"] == "-"
    assert all(ROLES[baseline]["linestyle"] != "-" for baseline in beside[1:])


def test_one_legend_names_each_curve_once():
    figure, axes = plt.subplots(1, 2)
    for ax, names in zip(axes, (("trained", "layout"), ("trained", "untrained")), strict=True):
        per_layer(ax, {name: [0.1, 0.2] for name in names}, ["conv1", "conv2"], ylabel="r")
    one_legend(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["trained", "layout", "untrained"]
    assert all(ax.get_legend() is None for ax in axes)
    plt.close(figure)


@pytest.mark.parametrize("bar", [True, False])
def test_a_map_of_layers_may_leave_its_colours_to_the_figure(bar):
    figure, ax = plt.subplots()
    layer_map(ax, np.eye(2), ["conv1", "conv2"], title="", xlabel="", ylabel="", bar=bar)
    assert len(figure.axes) == 1 + bar
    plt.close(figure)


def test_patches_are_drawn_in_a_figure_and_in_a_part_of_one():
    patches = torch.arange(6 * 4 * 4).view(6, 4, 4, 1).to(torch.uint8)
    rows = [("one", patches, patches), ("two", patches, None)]
    whole, plain = plt.figure(layout="constrained"), plt.figure(layout="none")
    for figure in (whole, plain, plain.subfigures(1, 2)[0]):
        drawn = pairs_of_patches(figure, rows, titles=("a", "b"), count=3)
        shown = [[image.get_array().shape for image in ax.images] for ax in drawn.axes[-4:]]
        assert shown == [[(4, 15)], [(4, 15)], [(4, 15)], []], "three patches with a line after each; none is repeated"
    plt.close("all")
