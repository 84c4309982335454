"""Defaults of the command line are those of the Python API."""

from inspect import signature

import pytest

from kd_offline.cli import experts, reference
from kd_offline.experts.train import train
from kd_offline.schemas.expert import ExpertArchitecture, TrainRecipe


@pytest.mark.parametrize(("name", "theirs"), [("score", "score_episodes")])
def test_train(name, theirs):
    ours = signature(experts.train).parameters[name].default
    assert ours == signature(train).parameters[theirs].default


def test_help_of_train_states_the_recipe():
    text = " ".join(reference.texts()["train.txt"].split())
    assert f"Number of joint steps. [default: {TrainRecipe.model_fields['frames'].default}]" in text
    width, network = TrainRecipe.model_fields["architecture"].default, ExpertArchitecture()
    assert width == network
    assert network.trunk == (network.gru,)
    assert f"[default: one layer of {network.gru} and a GRU of {network.gru}," in text
