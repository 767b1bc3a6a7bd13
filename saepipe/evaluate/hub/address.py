"""Where a run lies on the hub: `hf://org/name[@revision][/folder]`, as Hugging Face writes it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from huggingface_hub import parse_hf_uri
from huggingface_hub.errors import HfUriError

from saepipe.data.errors import ConfigError

FORM = "hf://org/name[@branch][/folder]"


@dataclass(frozen=True)
class Address:
    """A folder of a model repository."""

    repo: str
    """`org/name`"""
    folder: str = ""
    """Within the repository; empty: its root."""
    revision: str | None = None
    """A branch, to be read also a tag or a commit; None: `main`."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises ConfigError if `text` is no address of a model repository."""
        try:
            found = parse_hf_uri(text)
        except HfUriError as error:
            raise ConfigError(f"{text!r} is no address on the hub: {error.msg}", hint=FORM) from None
        if found.type != "model":
            raise ConfigError(f"{text!r} is a {found.type}, not a model repository", hint=FORM)
        folder = found.path_in_repo.rstrip("/")
        if "@" in folder:
            raise ConfigError(f"{text!r}: the revision comes before the folder", hint=FORM)
        if not set(folder.split("/")).isdisjoint({".", "..", ".git"}):
            raise ConfigError(f"{text!r} is no folder of a repository", hint=FORM)
        return cls(found.id, folder, found.revision)

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}{revision}/{self.folder}".rstrip("/")

    def within(self, folder: str) -> Address:
        """A folder below this one."""
        return replace(self, folder=f"{self.folder}/{folder}".strip("/"))

    def file(self, name: str) -> str:
        """The path in the repository of a file in the folder."""
        return f"{self.folder}/{name}".lstrip("/")
