"""The activation cache on disk: its arrays, the encoding of their rows, and code to write, read and repair them."""
