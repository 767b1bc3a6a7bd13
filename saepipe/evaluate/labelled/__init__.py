"""Text with labels: from a hub, from files, or the toy's; what the reference takes of it, drawn as it draws."""
