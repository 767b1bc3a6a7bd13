"""Which files of a folder are its artifact's."""

from __future__ import annotations

import pytest

from saepipe.data.remote.file_kinds import is_sent

pytestmark = pytest.mark.quick


def test_what_is_about_one_machine_or_the_bucket_is_not_sent() -> None:
    own = ["log/lock", "log/claim", "log/claim-1b4e28ba", "runs/a/log/claim", "config.yaml.partial"]
    sent = ["log/harvest.jsonl", "claim", "claim-1b4e28ba", "log/claims", "config.yaml"]
    assert [name for name in own + sent if is_sent(name)] == sent
