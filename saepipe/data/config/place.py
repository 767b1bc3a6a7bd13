"""Places in a config: a path, or an address in a bucket, which is stored as it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import PlainSerializer

from saepipe.data.bucket_address import shown

Place = Annotated[Path, PlainSerializer(shown, return_type=str, when_used="json")]
"""Path of an artifact: a local folder, or `s3://bucket/folder`."""
