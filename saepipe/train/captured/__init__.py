"""Steps whose operations were traced once, so that no Python runs between them."""
