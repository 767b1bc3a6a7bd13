"""Trackers follow runs from outside: TensorBoard, Weights & Biases, Trackio. `metrics.jsonl` is the truth."""
