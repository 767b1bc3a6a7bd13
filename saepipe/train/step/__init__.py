"""One optimisation step of one run: its state, its loss, its update, and what is measured of it."""
