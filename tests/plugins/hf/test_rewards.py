"""Rewards that a program verifies: the contract, what each gives, and what a bad one does."""

import math

import pytest

from nexa.errors import PluginError, RewardError
from nexa.recipe.sections.rollouts import RewardSection
from nexa.reward import Completion, Reward
from nexa.rewards import WeightedReward, load_rewards
from nexa.testing.reward import RewardContract
from nexa_hf.rewards.verifiable import ExactAnswer, Format, Length, ValidJson

ASKED = [{"role": "user", "content": "What is 40 + 2?"}]


def completion(text, **row):
    return Completion(text=text, messages=ASKED, row=row, place="sums.jsonl:7")


class TestExactAnswer(RewardContract):
    plugin_name = "exact-answer"
    better = completion("It is 42.", answer=42)
    worse = completion("It is 41.", answer=42)


class TestFormat(RewardContract):
    plugin_name = "format"
    options = {"pattern": "<answer>.*</answer>"}
    better = completion("<answer>42\n</answer>")
    worse = completion("42")


class TestLength(RewardContract):
    plugin_name = "length"
    options = {"max_words": 3}
    better = completion("It is 42.")
    worse = completion("Let me think about what the answer to this sum may be.")


class TestJson(RewardContract):
    plugin_name = "json"
    options = {"keys": ["answer"]}
    better = completion('{"answer": 42}')
    worse = completion('{"reply": 42}')


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("The answer is 1,000.", 1000, 1.0),
        ("First 3, then 1000.0", "1000", 1.0),
        ("-7", "-7", 1.0),
        ("no number here", 3, 0.0),
        ("3 or 4", 3, 0.0),
        ("  Paris. ", "paris", 1.0),
        ("In Paris", "Paris", 0.0),
    ],
)
def test_exact_answers_are_compared_by_value(text, answer, score):
    assert ExactAnswer(column="answer", pattern=None).score(completion(text, answer=answer)) == score


def test_an_answer_is_found_by_a_pattern():
    reward = ExactAnswer(column="capital", pattern=r"\[(\w+)\]")
    assert reward.score(completion("[Rome] no, [Paris]", capital="Paris")) == 1.0
    assert reward.score(completion("Paris", capital="Paris")) == 0.0


def test_rows_without_an_answer_are_not_rewarded():
    assert ExactAnswer(column="answer", pattern=None).score(completion("42")) is None
    assert ExactAnswer(column="answer", pattern=None).score(completion("42", answer=None)) is None


def test_the_other_rewards_in_figures():
    assert Format(pattern="a.b").score(completion(" a\nb ")) == 1.0
    assert Length(min_words=2, max_words=4).score(completion("one")) == 0.5
    assert Length(min_words=2, max_words=4).score(completion("one two three four five six")) == 0.5
    assert Length(min_words=0, max_words=4).score(completion("word " * 9)) == 0.0
    assert ValidJson(keys=()).score(completion("```json\n[1]\n```")) == 1.0
    assert ValidJson(keys=("a", "b")).score(completion('{"a": 1}')) == 0.75
    assert ValidJson(keys=("a",)).score(completion("[1]")) == 0.0


class Raises(Reward):
    def score(self, completion):
        raise KeyError("answer")


class Gives(Reward):
    def __init__(self, value):
        self.value = value

    def score(self, completion):
        return self.value


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (Raises(), "raised KeyError: 'answer'"),
        (Gives(math.nan), "gave nan, which is no finite number"),
        (Gives(math.inf), "gave inf, which is no finite number"),
        (Gives("1"), "gave '1', which is no number"),
        (Gives(True), "gave True, which is no number"),
    ],
)
def test_what_goes_wrong_names_reward_row_and_answer(reward, said):
    with pytest.raises(RewardError) as caught:
        WeightedReward(name="mine", weight=1.0, reward=reward).score(completion("x" * 500))
    message = str(caught.value)
    assert f"reward 'mine' {said}; row sums.jsonl:7, answer 'xxx" in message
    assert len(message) < 500
    assert caught.value.exit_code == 2


def test_no_opinion_is_no_error():
    assert WeightedReward(name="mine", weight=1.0, reward=Gives(None)).score(completion("x")) is None


def test_an_unknown_reward_lists_those_there_are():
    with pytest.raises(PluginError, match=r"there is no reward 'exact-anwser'\n  did you mean 'exact-answer'"):
        load_rewards([RewardSection(name="exact-anwser")])
