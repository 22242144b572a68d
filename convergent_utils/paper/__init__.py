"""The executable paper: its networks, experiments and claims."""
