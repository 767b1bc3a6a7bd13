"""Writers of our SAEs in the formats of other libraries, one file each."""
