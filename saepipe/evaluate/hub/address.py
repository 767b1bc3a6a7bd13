"""Addresses on the hub: `hf://org/name[@revision][/folder]`, as Hugging Face writes them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from huggingface_hub import parse_hf_uri
from huggingface_hub.errors import HfUriError

from saepipe.data.errors import ConfigError

FORM = "hf://org/name[@branch][/folder]"


@dataclass(frozen=True)
class Address:
    """Address of a folder in a model repository."""

    repo: str
    """`org/name`"""
    folder: str = ""
    """Path in the repository; empty for its root."""
    revision: str | None = None
    """Branch, or for reading also a tag or commit; None for `main`."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parses an address; raises ConfigError if `text` is not the address of a model repository."""
        try:
            uri = parse_hf_uri(text)
        except HfUriError as error:
            raise ConfigError(f"{text!r} is not a hub address: {error.msg}", hint=FORM) from None
        if uri.type != "model":
            raise ConfigError(f"{text!r} is a {uri.type}, not a model repository", hint=FORM)
        folder = uri.path_in_repo.rstrip("/")
        if "@" in folder:
            raise ConfigError(f"{text!r}: the revision must come before the folder", hint=FORM)
        if not set(folder.split("/")).isdisjoint({".", "..", ".git"}):
            raise ConfigError(f"{text!r} is not a folder of a repository", hint=FORM)
        return cls(uri.id, folder, uri.revision)

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}{revision}/{self.folder}".rstrip("/")

    def within(self, folder: str) -> Address:
        """Returns the address of a folder below this one."""
        return replace(self, folder=f"{self.folder}/{folder}".strip("/"))

    def file(self, name: str) -> str:
        """Returns the path in the repository of a file in this folder."""
        return f"{self.folder}/{name}".lstrip("/")
