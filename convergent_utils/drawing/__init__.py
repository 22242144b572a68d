"""Figures that several notebooks draw, and the widgets that move them."""
