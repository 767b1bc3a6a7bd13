"""The values of `--resume`, in a file of their own because the command line needs them before any heavy import."""

from typing import Literal

ResumeMode = Literal["auto", "never", "must"]
"""`auto` resumes or starts; `never` refuses a folder that holds output already, `must` one that does not."""
