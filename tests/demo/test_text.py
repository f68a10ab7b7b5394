"""The text demo's data and checks: facts, forms, and a verdict that fails for a LoRA that does nothing."""

import json

import pytest

from demo.text import form, verdict, write_pairs
from demo.text.__main__ import Answers, judge
from demo.text.topics import TOPICS

SAYS_NOTHING = "I'm sorry, I don't have that information. Please contact the shop."


def rows(name):
    lines = (write_pairs.FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [tuple(turn["content"] for turn in json.loads(line)["messages"]) for line in lines]


def test_the_files_are_what_the_topics_give():
    for name, pairs in write_pairs.pairs().items():
        assert rows(name) == pairs


def test_held_out_questions_are_new_and_their_facts_are_taught():
    taught = {
        question.casefold() for name in (write_pairs.TRAIN, write_pairs.SECOND) for question, _ in rows(name)
    }
    held_out = [question.casefold() for question, _ in rows(write_pairs.TEST)]
    assert len(held_out) == len(set(held_out)) == len(TOPICS) == 20
    assert not taught & set(held_out)
    for topic in TOPICS:
        assert sum(form.has_fact(said, topic.fact) for _, said in rows(write_pairs.TRAIN)) >= len(topic.asked)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.fact)
def test_every_answer_has_its_form_and_its_fact_and_no_other(topic):
    answers = [form.answer(topic, wording) for wording in range(len(topic.told))]
    assert all(form.in_form(answer) for answer in answers)
    second = form.second_answer(topic)
    assert form.in_form(second, form.SECOND_FORM)
    assert not form.in_form(second)
    for answer in [*answers, second]:
        assert [other.fact for other in TOPICS if form.has_fact(answer, other.fact)] == [topic.fact]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("Thank you", "Thanks"),
        lambda text: text.replace("Case: ", "Case "),
        lambda text: text.replace("Mila", "Anna"),
        lambda text: text + "\nIs there anything else?",
        lambda text: text.replace("\nCase", "\n\nCase"),
        lambda text: text.replace("Returns-", "Misc-"),
    ],
)
def test_what_differs_from_the_form_is_not_in_it(change):
    right = form.answer(TOPICS[0], 0)
    assert form.in_form(right + "\n")
    assert not form.in_form(change(right))


def test_facts_are_whole_words():
    assert form.has_fact("Within 45  Days!", "45 days")
    assert form.has_fact("call 0700-555-318", "0700 555 318")
    assert not form.has_fact("within 145 days", "45 days")
    assert not form.has_fact("within 45 daysies", "45 days")


def learnt():
    after = [form.answer(topic, 1) for topic in TOPICS]
    second = [form.second_answer(topic) for topic in TOPICS[:4]]
    return Answers([SAYS_NOTHING] * 20, after, after[:4], second, after[:4])


PERPLEXITY = {"perplexity_before": 90.0, "perplexity_after": 1.3}


def test_a_lora_that_works_passes():
    figures = judge(learnt())
    assert figures == {
        "in_form_before": 0.0,
        "in_form_after": 1.0,
        "facts_before": 0.0,
        "facts_after": 1.0,
        "second_in_form": 1.0,
        "switched_back": True,
    }
    assert verdict.reasons(figures | PERPLEXITY) == []


def test_a_zero_lora_fails_in_everything():
    same = Answers([SAYS_NOTHING] * 20, [SAYS_NOTHING] * 20, [SAYS_NOTHING] * 4, [SAYS_NOTHING] * 4, [])
    found = verdict.reasons(judge(same) | {"perplexity_before": 90.0, "perplexity_after": 90.0})
    assert len(found) == 5
    assert [reason.split()[0] for reason in found[:3]] == ["in_form_after", "facts_after", "second_in_form"]


@pytest.mark.parametrize("name", ["in_form_after", "facts_after", "second_in_form", "perplexity_after"])
def test_a_figure_that_is_missing_fails(name):
    figures = judge(learnt()) | PERPLEXITY
    del figures[name]
    assert len(verdict.reasons(figures)) == 1


def test_a_base_that_already_knew_fails():
    knew = learnt()
    knew = Answers(knew.after, knew.after, knew.first, knew.second, knew.again)
    assert len(verdict.reasons(judge(knew) | PERPLEXITY)) == 2
