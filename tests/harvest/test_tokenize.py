"""Windows are full and start with BOS; documents are separated by BOS, nothing is lost, and splits stay apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from saepipe.data.cache.heldout_split import heldout_score
from saepipe.data.cache.special_tokens import keep_mask
from saepipe.data.toy import MODEL_DIR
from saepipe.harvest.text import Document
from saepipe.harvest.tokenize import Packer, pack

pytestmark = pytest.mark.quick

BOS = 2
TOKENIZER = AutoTokenizer.from_pretrained(MODEL_DIR)


@given(st.lists(st.lists(st.integers(10, 99), max_size=30), max_size=20), st.integers(2, 9), st.booleans())
def test_windows_hold_the_stream_in_order(documents: list[list[int]], size: int, separate: bool) -> None:
    packer = Packer(size, BOS, separate=separate)
    windows = [w for number, ids in enumerate(documents) for w in packer.add(np.array(ids, np.int64), number)]
    assert all(len(w.ids) == size and w.ids[0] == BOS for w in windows)
    ids = np.concatenate([w.ids for w in windows]) if windows else np.array([], np.int32)
    owners = np.concatenate([w.documents for w in windows]) if windows else np.array([], np.int32)
    ordinary = ids != BOS
    stream = [(token, number) for number, doc in enumerate(documents) for token in doc]
    stored = list(zip(ids[ordinary].tolist(), owners[ordinary].tolist(), strict=True))
    assert stored == stream[: len(stored)]
    assert len(stream) - len(stored) < size  # only a partial last window is dropped
    assert not np.any((ids[1:] == BOS) & (ids[:-1] == BOS) & (np.arange(1, len(ids)) % size != 0))
    if separate:
        changes = ordinary[1:] & ordinary[:-1] & (owners[1:] != owners[:-1])
        assert not changes.any()  # BOS separates any two documents


def test_without_separators_bos_is_only_at_the_start() -> None:
    packer = Packer(5, BOS, separate=False)
    windows = [*packer.add(np.array([10, 11, 12]), 0), *packer.add(np.array([20, 21, 22, 23, 24]), 1)]
    assert [w.ids.tolist() for w in windows] == [[BOS, 10, 11, 12, 20], [BOS, 21, 22, 23, 24]]
    assert windows[0].documents.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("separate", [True, False])
def test_a_document_that_begins_with_bos_gets_no_second_one(separate: bool) -> None:
    """A text rendered by a chat template, and ids that another pipeline made, often do."""
    bos = np.array([BOS])
    plain, marked = Packer(5, BOS, separate=separate), Packer(5, BOS, separate=separate)
    for number, ids in enumerate([[10, 11], [], [20, 21, BOS, 22, 23, 24, 25], [30]]):
        document = np.array(ids, np.int64)
        expected = [window.ids.tolist() for window in plain.add(document, number)]
        assert [window.ids.tolist() for window in marked.add(np.concatenate([bos, document]), number)] == expected


def test_splits_are_packed_separately_and_duplicates_stay_together() -> None:
    texts = [f"the story of number {i} and how it went on for some time" for i in range(60)] * 2
    documents = [Document(number, text) for number, text in enumerate(texts)]
    options = {"context_size": 8, "bos_id": BOS, "separate": True, "heldout_share": 0.3}
    split_of: dict[str, str] = {}
    for split, window in pack(documents, TOKENIZER, **options):
        for number in set(window.documents.tolist()):
            assert split_of.setdefault(texts[number], split) == split
    assert set(split_of.values()) == {"train", "heldout"}
    for text, split in split_of.items():
        assert (heldout_score(text) < 0.3) == (split == "heldout")


def test_the_held_out_share_is_the_configured_one() -> None:
    scores = np.array([heldout_score(f"document {i}") for i in range(20_000)])
    for share in (0.01, 0.1, 0.5):
        assert abs((scores < share).mean() - share) < 4 * np.sqrt(share * (1 - share) / 20_000)


def test_ids_already_tokenised_pass_through() -> None:
    documents = [Document(0, ids=(10, 11, 12, 13)), Document(1, text="pencil")]
    options = {"context_size": 5, "bos_id": BOS, "separate": True, "heldout_share": 0.0}
    assert [w.ids.tolist() for _, w in pack(documents, TOKENIZER, **options)] == [[BOS, 10, 11, 12, 13]]


@pytest.mark.parametrize("special", [frozenset({2}), frozenset({0, 1, 2, 3})])
def test_keep_mask(special: frozenset[int]) -> None:
    ids = np.arange(12).reshape(3, 4)
    assert keep_mask(ids, special).tolist() == [[int(i) not in special for i in row] for row in ids]


def test_without_bos_documents_follow_each_other_and_keep_their_own() -> None:
    packer = Packer(5, None, separate=True)
    windows = [*packer.add(np.array([BOS, 10, 11]), 0), *packer.add(np.array([20, 21, 22]), 1)]
    assert [w.ids.tolist() for w in windows] == [[BOS, 10, 11, 20, 21]]
    assert windows[0].documents.tolist() == [0, 0, 0, 1, 1]
    assert windows[0].stored.all()
