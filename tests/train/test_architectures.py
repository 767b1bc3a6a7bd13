"""What every architecture keeps to, member by member."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from saepipe.data.component import import_members
from saepipe.data.errors import ConfigError
from saepipe.train.formats import saelens
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.seeds import generator

import_members(Architecture.package)


@pytest.fixture(params=sorted(Architecture.members))
def sae(request: pytest.FixtureRequest) -> Architecture:
    member = Architecture.members[request.param]
    made = member.parse({"d_sae": 40} | ({"k": 6} if "k" in member.model_fields else {}))
    assert isinstance(made, Architecture)
    return made


def test_init_has_unit_rows_a_tied_encoder_and_no_bias(sae: Architecture) -> None:
    params = sae.init(24, 0.5, generator(0, "init"))
    assert {name: tuple(value.shape) for name, value in params.items()} == {
        "W_enc": (24, 40),
        "b_enc": (40,),
        "W_dec": (40, 24),
        "b_dec": (24,),
    }
    torch.testing.assert_close(params["W_dec"].norm(dim=1), torch.ones(40))
    torch.testing.assert_close(params["W_enc"], 0.5 * params["W_dec"].T)
    assert not params["b_enc"].any()
    assert not params["b_dec"].any()


def test_init_is_a_function_of_its_seed_alone(sae: Architecture) -> None:
    torch.manual_seed(1)
    first = sae.init(24, 1.0, generator(3, "init"))["W_dec"]
    torch.manual_seed(2)
    assert torch.equal(first, sae.init(24, 1.0, generator(3, "init"))["W_dec"])
    assert not torch.equal(first, sae.init(24, 1.0, generator(4, "init"))["W_dec"])
    assert not torch.equal(first, sae.init(24, 1.0, generator(3, "resample"))["W_dec"])


def test_pre_acts_and_their_gradients_are_the_textbooks(sae: Architecture, params: Params, x: Tensor) -> None:
    ours = sae.pre_acts(params, x, torch.float64)
    theirs = (x - params["b_dec"]) @ params["W_enc"] + params["b_enc"]
    torch.testing.assert_close(ours, theirs)
    pull = torch.randn(theirs.shape, generator=generator(0), dtype=torch.float64)
    names = ("W_enc", "b_enc", "b_dec")
    wanted = torch.autograd.grad((theirs * pull).sum(), [params[name] for name in names])
    found = torch.autograd.grad((ours * pull).sum(), [params[name] for name in names])
    for name, mine, reference in zip(names, found, wanted, strict=True):
        torch.testing.assert_close(mine, reference, msg=name)


def test_acts_are_never_negative_and_any_leading_shape_will_do(sae: Architecture, params: Params, x: Tensor) -> None:
    acts = sae.encode(params, x[:16], torch.float64)
    assert acts.shape == (16, 40)
    assert acts.min() == 0
    assert acts.max() > 0
    torch.testing.assert_close(sae.encode(params, x[:16].view(2, 8, 24), torch.float64), acts.view(2, 8, 40))
    x_hat = sae.decode(params, acts)
    torch.testing.assert_close(x_hat, acts @ params["W_dec"] + params["b_dec"])


def test_the_scale_folds_into_the_biases(sae: Architecture, params: Params, x: Tensor) -> None:
    scale = 0.037
    raw = x / scale
    folded = sae.unscaled(params, scale)
    acts, raw_acts = sae.encode(params, x, torch.float64), sae.encode(folded, raw, torch.float64)
    torch.testing.assert_close(raw_acts, acts / scale)
    torch.testing.assert_close(sae.decode(folded, raw_acts), sae.decode(params, acts) / scale)
    assert folded["W_dec"] is params["W_dec"]
    assert folded["W_enc"] is params["W_enc"]


def test_it_comes_back_from_a_saelens_folder(sae: Architecture, params: Params, tmp_path: Path) -> None:
    saelens.write(tmp_path, sae, params, {"hook_name": "blocks.1.hook_resid_post"})
    again, loaded, metadata = saelens.read(tmp_path)
    assert again == sae
    assert metadata["hook_name"] == "blocks.1.hook_resid_post"
    for name, value in params.items():
        assert torch.equal(loaded[name], value.detach().float())


def test_topk_keeps_the_k_largest(x: Tensor) -> None:
    sae = Architecture.parse({"name": "topk", "d_sae": 24, "k": 5})
    assert isinstance(sae, Architecture)
    acts = sae.activate({}, x)
    for pre, row in zip(x.tolist(), acts.tolist(), strict=True):
        kept = sorted(pre)[-5:]
        assert row == [value if value in kept and value > 0 else 0.0 for value in pre]


def test_relu_is_relu(x: Tensor) -> None:
    sae = Architecture.parse({"name": "relu", "d_sae": 24})
    assert isinstance(sae, Architecture)
    assert torch.equal(sae.activate({}, x), torch.where(x > 0, x, 0.0))


def test_more_than_all_latents_cannot_be_chosen() -> None:
    with pytest.raises(ConfigError, match="more than d_sae"):
        Architecture.parse({"name": "topk", "d_sae": 24, "k": 25})
