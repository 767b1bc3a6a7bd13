"""What a command shows: progress, tables and errors on the terminal, and objects in a notebook."""
