"""Recordings whose labels were changed on purpose, and sealed again."""

import numpy as np

from kd_offline.datasets import DatasetWriter, EpisodeBlock, ExpertBuffer
from kd_offline.datasets.format.layout import RULES
from kd_offline.datasets.format.manifest import recording_header
from kd_offline.distributions.categorical import Categorical


def arrays_of(buffer):
    """Return copies of all arrays that a writer takes."""
    names = [n for n in buffer.names if not (n in RULES and RULES[n].derived)]
    return {name: values.copy() for name, values in buffer.load(names).items()}


def sealed(buffer, path, arrays):
    """Write ``arrays`` as a dataset with the header of ``buffer``."""
    groups = {
        group: {n.split("/")[1]: v for n, v in arrays.items() if n.startswith(f"{group}/")}
        for group in ("steps", "final", "episodes", "masks")
    }
    with DatasetWriter.create(path, recording_header(buffer.manifest)) as writer:
        writer.append(EpisodeBlock(groups["steps"], groups["final"], groups["episodes"]))
        writer.commit(groups["masks"])
    return ExpertBuffer.open(path)


def rows_of(buffer, first, stop):
    """Return the rows of some episodes, bool [R, N], for every agent."""
    episode = np.repeat(np.arange(buffer.n_episodes), buffer.episodes("length"))
    inside = (episode >= first) & (episode < stop)
    return np.repeat(inside[:, None], buffer.spec.n_agents, axis=1)


def drawn(where, count, seed=0):
    """Return ``count`` of the places in ``where``, bool [R, N]."""
    places = np.flatnonzero(where)
    chosen = np.zeros(where.size, bool)
    chosen[np.random.default_rng(seed).choice(places, count, replace=False)] = True
    return chosen.reshape(where.shape)


def other_actions(arrays, where, target=None):
    """Return labels of the chosen places and other legal actions for them: int [D] both."""
    legal = arrays["steps/available_actions"]
    label = Categorical(arrays["steps/logits"], legal).mode()[where]
    rest = legal[where] & (label[:, None] != np.arange(legal.shape[-1]))
    drawn_at = np.random.default_rng(2).random(rest.shape) * rest
    other = np.where(rest.any(-1), drawn_at.argmax(-1), label)
    return label, other if target is None else np.full(len(label), target)


def flip_labels(arrays, where, target=None):
    """Exchange the logits of the label and another action; the expert seems to have taken it."""
    label, other = other_actions(arrays, where, target)
    logits, rows = arrays["steps/logits"][where], np.arange(len(label))
    logits[rows, label], logits[rows, other] = logits[rows, other], logits[rows, label]
    arrays["steps/logits"][where] = logits
    flip_actions(arrays, where, target=other)


def flip_actions(arrays, where, target=None):
    """Replace executed actions, and everything that is said of them."""
    _, other = other_actions(arrays, where)
    arrays["steps/actions"][where] = other if target is None else target
    arrays["steps/action_source"][where] = 0


def exchange_embeddings(arrays, clean, where):
    """Give changed labels logits and embeddings of another step with that label, of the agent."""
    labels = Categorical(clean["steps/logits"], clean["steps/available_actions"]).mode()
    now = Categorical(arrays["steps/logits"], arrays["steps/available_actions"]).mode()
    rng = np.random.default_rng(1)
    for row, agent in np.argwhere(where):
        other = rng.choice(np.flatnonzero(labels[:, agent] == now[row, agent]))
        for name in ("steps/logits", "steps/embedding"):
            arrays[name][row, agent] = clean[name][other, agent]


def restate_probabilities(arrays):
    """Compute the probabilities of all actions anew, so that verification finds nothing."""
    lengths = arrays["episodes/length"]
    share = np.repeat(arrays["episodes/noise_level"].astype(np.float64), lengths)
    policy = Categorical(arrays["steps/logits"], arrays["steps/available_actions"])
    actions = arrays["steps/actions"].astype(np.int64)
    likely = policy.mixture_probability(actions, (share / actions.shape[1])[:, None])
    of_expert = arrays["steps/action_source"] < 2
    with np.errstate(divide="ignore"):
        logs = np.log(likely).astype(np.float32)
    stated = arrays["steps/behaviour_logprob"]
    arrays["steps/behaviour_logprob"] = np.where(of_expert, logs, stated)
