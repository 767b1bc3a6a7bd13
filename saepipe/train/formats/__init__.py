"""SAE formats of other libraries, one file each."""
