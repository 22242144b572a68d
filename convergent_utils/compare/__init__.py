"""Comparing anybody's networks: what a name stands for, be it a network or what is shown to it."""
