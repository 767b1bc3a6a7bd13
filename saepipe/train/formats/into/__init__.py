"""SAEs of ours, as other libraries lay them down: one file each."""
