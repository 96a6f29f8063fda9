"""train.best is a score of a task that validation scores."""

import types

import numpy as np
import pytest

from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation.score_names import check_best_field
from hyperseg_jax.structs import Example, Prompt


def test_tasks_without_scores_are_refused():
    """The fix names no other kind of score: train/loss, which a sweep can use, is none that train.best can name."""
    example = Example("example", np.zeros((1, 8, 8, 3), np.uint8), (Prompt("chat", text="why?", answer="because"),))
    tasks = {"chat": types.SimpleNamespace(val=[example])}
    with pytest.raises(
        UserError, match=r"train\.best = 'chat/ciou': validation does not score this task; choose another"
    ) as error:
        check_best_field("chat/ciou", tasks)
    assert "train/loss" not in str(error.value)
