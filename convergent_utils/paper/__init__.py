"""The executable paper: preparing networks, running notebooks, claims, figures and widgets."""
