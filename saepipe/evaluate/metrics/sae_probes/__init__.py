"""k-sparse probes on the last token of texts, as the package sae-probes 0.4 fits them."""
