"""The token that a config names as BOS."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from saepipe.data.errors import ConfigError
from saepipe.harvest.config import AUTO, HarvestConfig
from saepipe.harvest.model import LanguageModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LISTED = 8
"""Special tokens that a message lists."""


def with_bos(lm: LanguageModel, token: str) -> LanguageModel:
    """Returns the model with `token` as BOS; `auto` leaves the choice to its tokenizer.

    Raises:
        ConfigError: if the tokenizer does not make one id of the token.
    """
    return lm if token == AUTO else replace(lm, chosen_bos_id=_id_of(token, lm.tokenizer))


def bos_note(config: HarvestConfig, lm: LanguageModel) -> str | None:
    """Says that the tokenizer has no BOS or does not use it, or that windows have none; None if all is as usual."""
    if config.bos == "none" and config.drop_norm_above is None:
        return (
            "windows have no BOS, so their first tokens may take its place: in many models with a norm a hundred times "
            "the others', which an SAE would be trained on (drop_norm_above: 5 leaves them out)"
        )
    if config.bos == "none" or config.bos_token != AUTO:
        return None
    tokenizer, token = lm.tokenizer, lm.tokenizer.convert_ids_to_tokens(lm.bos_id)
    if tokenizer.bos_token_id is None:
        return f"the tokenizer of {lm.config.model} has no BOS: windows begin with its EOS, {token}"
    if tokenizer("a")["input_ids"][:1] != [lm.bos_id]:
        return f"the tokenizer of {lm.config.model} puts no BOS before a text itself; windows begin with its {token}"
    return None


def _id_of(token: str, tokenizer: PreTrainedTokenizerBase) -> int:
    if (token_id := tokenizer.get_vocab().get(token)) is not None:
        return int(token_id)
    ids = [int(token_id) for token_id in tokenizer(token, add_special_tokens=False)["input_ids"]]
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return ids[0]
    what = f"makes {len(ids)} tokens of it" if len(ids) > 1 else "does not know it"
    raise ConfigError(f"bos_token {token!r} is not one token: the tokenizer {what}", hint=_alternatives(tokenizer))


def _alternatives(tokenizer: PreTrainedTokenizerBase) -> str:
    """Lists the special tokens, those with a role first."""
    flagged = [added.content for added in tokenizer.added_tokens_decoder.values() if added.special]
    roles: dict[str, list[str]] = {}
    for role, token in tokenizer.special_tokens_map.items():
        roles.setdefault(str(token), []).append(role.removesuffix("_token").upper())
    names = list(dict.fromkeys([*roles, *flagged]))
    shown = [f"{name} ({', '.join(roles[name])})" if name in roles else name for name in names[:_LISTED]]
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"its special tokens are {', '.join(shown)}{rest}" if names else "it has no special tokens; bos: none"
