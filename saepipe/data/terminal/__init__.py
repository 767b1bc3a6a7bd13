"""Output of commands: progress, tables and errors on the terminal, and objects displayed in a notebook."""
