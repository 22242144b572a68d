"""Running, publishing, teaching and showing the paper: what is made of it for readers."""
