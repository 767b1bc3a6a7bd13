"""Finished runs on a Hugging Face hub: sent with a card that says what they are, and fetched as they were."""
