"""Trackers, which mirror runs elsewhere: TensorBoard, Weights & Biases, Trackio. `metrics.jsonl` is authoritative."""
