"""Roles of single latents, read from results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.evaluate.features.roles import Role, _least_f1, roles

pytestmark = pytest.mark.quick


def letter(name: str, own: list[int], absorbers: list[list[int]] | None, **words: list[str]) -> dict[str, Any]:
    return {
        "first_letter": name,
        "split_latents": own,
        "f1_split": 0.914,
        "top_absorbers": absorbers,
        "absorbed_words": None if absorbers is None else {key[1:]: listed for key, listed in words.items()},
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    letters = [letter("s", [4, 9], [[7, 3], [8, 1]], _7=[" snake", " sun"], _8=[" sea"]), letter("q", [5], None)]
    artifact.write_json(tmp_path / "eval" / "absorption.json", {"saepipe": {"letters": letters}})
    accuracies = {f"sae_top_{k}_test_accuracy": {"nurse": 0.6 + k / 100} for k in (1, 2, 10)}
    accuracies |= {"sae_test_accuracy": {"nurse": 0.99}, "llm_top_5_test_accuracy": {"nurse": 0.5}}
    probing = {
        "eval_result_unstructured": {"bios_results": accuracies},
        "saepipe": {"datasets": {"bios": {"latents": {"nurse": [4, 6, 7]}}}},
    }
    artifact.write_json(tmp_path / "eval" / "sparse_probing.json", probing)
    tpp = {"saepipe": {"datasets": {"bios_tpp": {"latents": {"nurse": [6]}}, "older_tpp": {}}}}
    artifact.write_json(tmp_path / "eval" / "tpp.json", tpp)
    scr = {"saepipe": {"datasets": {"bios_scr_a_b": {"latents": {"attribute": [1], "concept": [6]}}}}}
    artifact.write_json(tmp_path / "eval" / "scr.json", scr)
    return tmp_path


def test_each_latent_has_its_roles(results: Path) -> None:
    by_latent = roles(results)
    assert by_latent.keys() == {1, 4, 5, 6, 7, 8, 9}
    assert by_latent[4] == [
        Role(
            "absorption", "split", 'one of the 2 latents for words that begin with "s" (F1 0.91)', ("s",), 0.914, 0.914
        ),
        Role(
            "sparse_probing",
            "probe",
            'the latent most indicative of "nurse" in bios (accuracy 0.610)',
            ("nurse", "bios"),
            0.61,
            pytest.approx((2 * 0.61 - 1) / 0.61),
        ),
    ]
    assert [role.text for role in by_latent[5]] == ['the latent for words that begin with "q" (F1 0.91)']
    assert [role.text for role in by_latent[6]] == [
        'one of the 2 latents most indicative of "nurse" in bios (accuracy 0.620)',
        'rank 1 by effect on the probe of "nurse" in bios_tpp',
        "rank 1 by effect on the probe of the concept in bios_scr_a_b",
    ]
    assert [(role.text, role.value) for role in by_latent[7]] == [
        ('absorbs "s" on 3 words: snake, sun, ...', 3.0),
        ('one of the 10 latents most indicative of "nurse" in bios (accuracy 0.700)', 0.7),
    ]
    assert [role.text for role in by_latent[8]] == ['absorbs "s" on 1 word: sea']


def test_a_role_is_named_only_if_its_f1_says_so(results: Path) -> None:
    named = {latent: [role.kind for role in found if role.named] for latent, found in roles(results).items()}
    assert named == {1: [], 4: ["split"], 5: ["split"], 6: [], 7: ["absorbs"], 8: ["absorbs"], 9: ["split"]}
    weak = letter("s", [4], [[7, 3]], _7=[" sun"]) | {"f1_split_test": 0.59}
    artifact.write_json(results / "eval" / "absorption.json", {"saepipe": {"letters": [weak]}})
    found = roles(results)
    assert found[4][0].text == 'the latent for words that begin with "s" (F1 0.59)'
    assert not any(role.named for latent in (4, 7) for role in found[latent])


@pytest.mark.parametrize(("accuracies", "named"), [((0.6, 0.9, 0.95), [4, 6]), ((0.8, 0.9, 0.95), [4])])
def test_a_class_has_the_fewest_latents_that_tell_it(
    results: Path, accuracies: tuple[float, ...], named: list[int]
) -> None:
    by_size = {f"sae_top_{k}_test_accuracy": {"nurse": a} for k, a in zip((1, 2, 10), accuracies, strict=True)}
    probing = {
        "eval_result_unstructured": {"bios_results": by_size},
        "saepipe": {"datasets": {"bios": {"latents": {"nurse": [4, 6, 7]}}}},
    }
    artifact.write_json(results / "eval" / "sparse_probing.json", probing)
    found = {n: [r for r in told if r.metric == "sparse_probing"] for n, told in roles(results).items()}
    assert [latent for latent, told in found.items() if any(role.named for role in told)] == named
    assert found[7][0].text.startswith("one of the 10 latents")


@pytest.mark.parametrize("right_of_class", range(11))
def test_an_accuracy_bounds_the_f1_from_below(right_of_class: int) -> None:
    for right_of_others in range(11):
        right = right_of_class + right_of_others
        f1 = 2 * right_of_class / (10 + right_of_class + 10 - right_of_others)
        assert f1 >= _least_f1(right / 20) - 1e-12


def test_results_may_be_in_a_folder_of_their_own_or_missing(results: Path, tmp_path: Path) -> None:
    assert roles(results / "eval") == roles(results)
    assert roles(tmp_path / "nothing") == {}


def test_a_result_without_absorbed_words_can_be_read(results: Path) -> None:
    older = letter("s", [], [[7, 3]])
    del older["absorbed_words"]
    artifact.write_json(results / "eval" / "absorption.json", {"saepipe": {"letters": [older]}})
    assert roles(results)[7][0].text == 'absorbs "s" on 3 words'


def test_a_file_that_is_not_a_result_is_refused(results: Path) -> None:
    (results / "eval" / "tpp.json").write_text("{}")
    with pytest.raises(CorruptDataError, match=r"tpp\.json is not a result of saepipe"):
        roles(results)
