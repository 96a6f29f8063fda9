"""train.best is a score of a task that validation scores."""

import types

import numpy as np
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.score_names import check_best_field
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems import system as systems


def test_tasks_without_scores_are_refused():
    """The fix names no other kind of score: train/loss, which a sweep can use, is none that train.best can name."""
    example = Example("example", np.zeros((1, 8, 8, 3), np.uint8), (Prompt("chat", text="why?", answer="because"),))
    tasks = {"chat": types.SimpleNamespace(val=[example])}
    with pytest.raises(
        UserError, match=r"train\.best = 'chat/ciou': validation does not score this task; choose another"
    ) as error:
        check_best_field("chat/ciou", tasks, systems.get("hyperseg").answers)
    assert "train/loss" not in str(error.value)


def test_class_lists_are_scored_by_the_answers_of_the_system():
    prompt = Prompt("panoptic", classes=("ring",), things=(True,))
    tasks = {"classes": types.SimpleNamespace(val=[Example("example", np.zeros((1, 8, 8, 3), np.uint8), (prompt,))])}
    check_best_field("classes/pq", tasks, systems.get("hyperseg").answers)
    check_best_field("classes/miou", tasks, systems.get("ifseg").answers)
    with pytest.raises(UserError, match=r"'pq'.*use one of .*miou"):
        check_best_field("classes/pq", tasks, systems.get("ifseg").answers)
