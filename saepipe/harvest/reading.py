"""The text of a harvest while it is read: its batches, its contexts on their way to the cache, what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from saepipe.data.cache.layout import SPLITS
from saepipe.data.cache.writer import CacheWriter
from saepipe.data.terminal.progress import Progress
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import chat_text, make_windows
from saepipe.harvest.feed import ContextShards, WindowFeed
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.rows import WindowBatch
from saepipe.harvest.text_marks import TextMarks


class Reading:
    """Reads the text once, training batches first; all contexts that it reads go to the cache."""

    def __init__(
        self,
        config: HarvestConfig,
        lm: LanguageModel,
        attributes: Mapping[str, Any],
        marks: TextMarks,
        writer: CacheWriter,
    ) -> None:
        self._config, self._marks = config, marks
        self._nulls: list[int] = []
        self._chat = chat_text(config, lm)
        # A branch may have moved since the harvest was started, but it reads the same commit to the end.
        windows = make_windows(config, lm, attributes["dataset"]["revision"], self._nulls, self._chat)
        # A cache that was begun without digests stays without, so that a repair of it gives the same fingerprint.
        self._feed = WindowFeed(
            windows,
            config.contexts_per_pass,
            config.heldout_tokens // config.context_size,
            digest="probe" in attributes["model"],
            marks_stored=self._chat is not None,
        )
        self._contexts = {split: ContextShards(writer, split, lm.special_ids) for split in SPLITS}
        self._train_batches = self._feed.train_batches()

    def train_batches(self) -> Iterator[WindowBatch]:
        """Yields the training batches, each when the text of the stored pools that it feeds has been compared."""
        return self._contexts["train"].recorded(self._marks.checked(self._train_batches))

    def fill_heldout(self) -> None:
        """Reads on after the last training batch until all held-out windows are met, if the config says so."""
        most = self._config.heldout_tokens // self._config.context_size
        if self._config.fill_heldout and self._config.heldout_share:
            while self.num_heldout_windows < most and next(self._train_batches, None) is not None:
                pass
        self._train_batches.close()

    @property
    def num_heldout_windows(self) -> int:
        """Held-out windows met so far among the training windows."""
        return len(self._feed.heldout)

    def heldout_batches(self) -> Iterator[WindowBatch]:
        return self._contexts["heldout"].recorded(self._feed.heldout_batches())

    def close(self) -> dict[str, int]:
        """Writes the last contexts; returns the numbers of contexts, as the cache's attributes name them."""
        for shards in self._contexts.values():
            shards.close()
        return {
            "num_contexts": self._contexts["train"].num_contexts,
            "num_heldout_contexts": self._contexts["heldout"].num_contexts,
        }

    def say_losses(self, progress: Progress) -> None:
        """Says which documents and turns are not in the cache."""
        num_documents, chat = self._feed.num_documents, self._chat
        if num_nulls := sum(number < num_documents for number in self._nulls):
            progress.say(f"left out {num_nulls:,} of {num_documents:,} documents, which have no value")
        if chat and chat.num_lost:
            progress.say(
                f"the chat template leaves out or changes {chat.num_lost:,} of the {chat.num_turns:,} turns of the "
                f"{self._config.dataset.chat} that were read; their tokens are not stored"
            )
