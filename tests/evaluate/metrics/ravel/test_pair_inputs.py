"""Selection of pairs, and batches of them."""

from __future__ import annotations

import torch


def test_pairs_are_selected_by_attribute_and_part(inputs) -> None:
    selected = [inputs.select(attribute, test=test) for attribute in (0, 1) for test in (False, True)]
    assert torch.cat(selected).sort().values.tolist() == list(range(len(inputs)))
    assert all(len(rows) > 0 for rows in selected)
    assert inputs.attribute[selected[2]].unique().tolist() == [1]
    assert inputs.is_test[selected[1]].all()


def test_a_batch_does_not_depend_on_the_others_in_it(inputs) -> None:
    """Texts that share a batch with longer ones are padded, and otherwise as if alone."""
    rows = inputs.select(0, test=True)
    together = inputs.batch(rows)
    assert len({int(length) for length in (together.ids != 0).sum(1)}) > 1
    for index, row in enumerate(rows):
        alone = inputs.batch(row[None])
        length = alone.ids.shape[1]
        for name in ("ids", "x", "labels"):
            assert torch.equal(getattr(together, name)[index, :length], getattr(alone, name)[0])
        assert torch.equal(together.x_base[index], alone.x_base[0])
        assert not together.x[index, length:].any()
