"""Groups of fewer completions, chosen and weighted anew."""

import numpy as np
import pytest
from support.groups import make_completion, make_group, write_store

from fastdistill_ray.groups.reweighting import reselect
from fastdistill_ray.groups.store import Store
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.selection import SelectionKnobs, select_completions


def group(key: str, verdicts: str, rewards: list[float]) -> dict:
    names = {"c": "correct", "w": "wrong"}
    completions = [
        make_completion(
            f"{key}{i}",
            seed=i,
            verdict=names[letter],
            answer="1",
            scores=[{"name": "cosine", "value": reward}],
            reward=reward,
            advantage=9.0,
            weight=9.0,
        )
        for i, (letter, reward) in enumerate(zip(verdicts, rewards, strict=True))
    ]
    return make_group(key, completions)


def test_reselect_takes_three_filters_and_scores_them_anew(tmp_path):
    (tmp_path / "groups").mkdir()
    (tmp_path / "three").mkdir()
    rewards = [3.0, 1.0, 2.0, 0.5, 2.5, 0.0, 1.5, 0.1]
    rows = [group(f"g{i}", "cwcwwwww", rewards) for i in range(30)]
    write_store(tmp_path / "groups", rows, per_file=20)
    knobs = SelectionKnobs(group_size=3, seed=4)
    arguments = (tmp_path / "groups", knobs, AdvantageKnobs(eps=0.0), 0.5)
    result = reselect(*arguments, out=tmp_path / "three")
    found = [row for table in Store(tmp_path / "three").tables() for row in table.to_pylist()]
    assert [row["problem_id"] for row in found] == [row["problem_id"] for row in rows]
    for row in found:
        key = row["problem_id"]
        chosen = select_completions([f"{key}{i}" for i in range(8)], knobs, key)
        kept = {i for i, one in enumerate(row["completions"]) if one["is_selected"]}
        assert kept == set(chosen)
        assert len(kept) == 3
        own = np.array([rewards[i] for i in chosen])
        expected = (own - own.mean()) / own.std()
        weights = np.exp(expected / 0.5) / np.exp(expected / 0.5).sum()
        assert [row["completions"][i]["advantage"] for i in chosen] == pytest.approx(expected)
        assert [row["completions"][i]["weight"] for i in chosen] == pytest.approx(weights)
        assert (row["dropped"] == "") == bool(kept & {0, 2}), "one of the three must be correct"
        assert [one["text"] for one in row["completions"]] == [f"{key}{i}" for i in range(8)]
    num_kept = sum(not row["dropped"] for row in found)
    assert 0 < num_kept < 30
    assert (result.rows_in, result.rows_out) == (30, num_kept)
    assert result.set_aside == {"too_few_correct": 30 - num_kept}
    assert reselect(*arguments, out=tmp_path / "three") == result, "nothing is written twice"


def test_reselect_that_keeps_no_group_says_so(tmp_path):
    for folder in ("groups", "three"):
        (tmp_path / folder).mkdir()
    write_store(tmp_path / "groups", [group("g", "wwww", [0.0] * 4)])
    knobs = SelectionKnobs(group_size=3)
    with pytest.raises(ValueError, match=r"group_size: none of the groups is kept with 3"):
        reselect(tmp_path / "groups", knobs, AdvantageKnobs(), 0.5, out=tmp_path / "three")
