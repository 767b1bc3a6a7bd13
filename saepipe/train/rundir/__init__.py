"""Run folders: writing, resuming, opening, importing and exporting them."""
