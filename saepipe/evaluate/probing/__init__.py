"""What probes of a data set's classes find, given all columns of pooled activations or a few of them."""
