"""A diagonal Gaussian is played, recorded, evaluated and learned from by the code of all kinds."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from kd_offline import distributions
from kd_offline.distillation.objective import student_batch
from kd_offline.distillation.targets import Targets
from kd_offline.distillation.terms.base import LossTerm, TargetBatch
from kd_offline.distillation.terms.cross_entropy import CrossEntropy, CrossEntropySettings
from kd_offline.distillation.terms.entropy import Entropy
from kd_offline.distillation.terms.kl import KL, KLSettings
from kd_offline.distillation.terms.policy_gradient import PolicyGradient, PolicySettings
from kd_offline.evaluation.rollout import rollout
from kd_offline.experts import ppo
from kd_offline.experts.algorithms.clipped_policy import PolicyRecipe
from kd_offline.experts.views import Seen
from kd_offline.recording.noise import perturbed
from kd_offline.rollout.collect import collect
from kd_offline.rollout.play import sampled
from kd_offline.rollout.policies import MixedTeam, RandomPolicy
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.schemas.recipes import DistillRecipe
from kd_offline.seeding import episode_seeds, generator, uniforms
from kd_offline.types import Outcome, PolicyOutput, View
from tests.unit.distributions.gaussian import LIMIT, D, Gaussian, GaussianTensors

AGENTS, STEPS = 2, 3
SPEC = EnvironmentSpec(
    id="test/points",
    version="1",
    agents=("left", "right"),
    obs_widths=(D, D),
    action_counts=(D, D),
    action_names=(("x", "y"),) * AGENTS,
    episode_limit=STEPS,
    reward="per_agent",
    sides={"team": ("left", "right")},
    state_width=AGENTS * D,
    state_is_obs=True,
    blocks={agent: {"point": ((0, D),)} for agent in ("left", "right")},
)
SEEDS = episode_seeds(0, 0, 64)


@pytest.fixture(autouse=True)
def gaussian(monkeypatch):
    """Let every environment's actions be Gaussian: the two functions that have to change."""
    monkeypatch.setattr(distributions, "played", lambda spec: Gaussian)
    monkeypatch.setattr(distributions, "learned", lambda spec: GaussianTensors)


class Points:
    """Name the point that is shown; what it costs is the squared distance."""

    spec = SPEC

    def reset(self, seeds):
        self.seeds, self.number = seeds, 0
        return self._view()

    def step(self, actions):
        assert actions.shape == (len(self.seeds), AGENTS, D)
        reward = -((actions - self._points()) ** 2).sum(-1)
        self.number += 1
        ended = np.full(len(self.seeds), self.number == STEPS)
        cut = np.zeros(len(self.seeds), bool)
        won = np.full(len(self.seeds), -1, np.int8)
        return Outcome(self._view(), reward.astype(np.float32), ended, cut, won)

    def _points(self):
        return 2 * uniforms(self.seeds, self.number, (AGENTS, D), "point") - 1

    def _view(self):
        obs = self._points().astype(np.float32)
        alive = np.ones((len(obs), AGENTS), bool)
        return View(obs, obs.reshape(len(obs), -1), np.ones((len(obs), AGENTS, D), bool), alive)


class Near:
    """Names the point shown, less a mistake, with a deviation of one half."""

    def __init__(self, mistake=0.0):
        self.mistake = mistake

    def start(self, seeds):
        return None

    def act(self, view, memory):
        spread = np.full_like(view.obs, math.log(0.5))
        value = np.zeros(view.alive.shape, np.float32)
        parameters = np.concatenate([view.obs + np.float32(self.mistake), spread], -1)
        return PolicyOutput(parameters, value=value), memory


def test_the_record_loop_chooses_actions_and_states_the_density_of_the_mixture():
    level = 0.5
    levels = np.full(len(SEEDS), level, np.float32)
    played = collect(Points(), Near(), SEEDS, perturbed(SEEDS, levels))
    actions, parameters = played.steps["actions"], played.steps["logits"]
    assert actions.shape == (STEPS, len(SEEDS), AGENTS, D)
    assert parameters.shape == (STEPS, len(SEEDS), AGENTS, 2 * D)
    struck = played.steps["action_source"] == 1
    assert struck.mean() == pytest.approx(level / AGENTS, abs=0.05)
    assert np.abs(actions[struck]).max() > 2
    density = np.exp(-2 * ((actions - parameters[..., :D]) ** 2).sum(-1)) / (0.5 * np.pi)
    share, even = level / AGENTS, (np.abs(actions) <= LIMIT).all(-1) / (2 * LIMIT) ** D
    expected = np.log((1 - share) * density + share * even)
    np.testing.assert_allclose(played.steps["behaviour_logprob"], expected, atol=1e-4)


def test_evaluation_plays_and_compares_it():
    expert, student = Near(), Near(0.5)
    found = rollout(Points(), student, SEEDS, greedy=True, reference=expert)
    np.testing.assert_allclose(found.returns, -STEPS * D * 0.25, rtol=1e-5)
    assert found.agreement is not None
    assert found.agreement.decisions.sum() == len(SEEDS) * STEPS * AGENTS
    assert found.agreement.equal.sum() == 0
    np.testing.assert_allclose(found.agreement.kl, STEPS * D * 0.5, rtol=1e-5)
    mixed = MixedTeam.swapped(expert, student, [1], AGENTS)
    alone = rollout(Points(), mixed, SEEDS, greedy=True)
    np.testing.assert_allclose(alone.returns[:, 0], 0, atol=1e-9)
    wild = rollout(Points(), RandomPolicy(drawn=True, actions=Gaussian), SEEDS, greedy=True)
    assert wild.returns.mean() == pytest.approx(-STEPS * D * (LIMIT**2 + 1) / 3, rel=0.1)


def test_distillation_matches_it():
    """KL, cross entropy, entropy and policy gradient take a student to the expert."""
    played = collect(Points(), Near(0.25), SEEDS, sampled(SEEDS))
    arrays = {f"steps/{name}": values.swapaxes(0, 1) for name, values in played.steps.items()}
    arrays["episodes/seed"] = SEEDS
    available = torch.from_numpy(arrays["steps/available_actions"])
    alive = torch.from_numpy(arrays["steps/alive"])
    expert = GaussianTensors(torch.from_numpy(arrays["steps/logits"]), available)
    given = TargetBatch(arrays, SPEC, None, alive, alive.float(), available, expert)
    recipe = DistillRecipe()
    terms: dict[str, LossTerm] = {
        "kl": KL(KLSettings(temperature=2.0), recipe),
        "soft": CrossEntropy(CrossEntropySettings(target="soft"), recipe),
        "sampled": CrossEntropy(CrossEntropySettings(target="sampled"), recipe),
        "executed": CrossEntropy(CrossEntropySettings(target="executed"), recipe),
    }
    obs = torch.from_numpy(arrays["steps/obs"])
    batch = Targets(obs, obs, available, alive.float(), alive.float(), expert.kept())
    best, wrong = [0.25] * D + [math.log(0.5)] * D, [0.0] * 2 * D
    for name, term in terms.items():
        targets, found = term.targets(given), []
        for mistake in (best, wrong):
            given_to = torch.tensor(mistake, requires_grad=True)
            outputs = torch.cat([obs, 0 * obs], -1) + given_to
            students = student_batch(outputs, [], batch, SPEC)
            loss = term.loss(students, targets, None).values.mean()
            loss.backward()
            found.append((loss.item(), given_to.grad.abs().max().item()))
        (least, flat), (more, steep) = found
        assert least < more, name
        assert flat < (1e-6 if name in ("kl", "soft") else 0.2) < steep, name
    entropy = Entropy(Entropy.settings_type(), recipe).loss(students, {}, None).values.mean()
    assert entropy.item() == pytest.approx(1 + math.log(2 * math.pi))
    policy = PolicyGradient(PolicySettings(), recipe)
    done = {
        "executed": given.executed(),
        "behaviour": torch.from_numpy(arrays["steps/behaviour_logprob"]),
    }
    taught = student_batch(expert.parameters, [], batch, SPEC)
    gain = policy.loss(taught, {**done, "advantage": torch.ones(alive.shape)}, None)
    assert gain is not None
    assert gain.values.mean().item() == pytest.approx(1, abs=1e-5)


class Linear(nn.Module):
    """Actor and critic of Gaussian agents."""

    spec = SPEC
    side_of = torch.tensor(SPEC.side_of)
    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.mean, self.log_std = nn.Linear(D, D), nn.Parameter(torch.zeros(D))
        self.value = nn.Linear(D, 1)

    def act_episodes(self, seen, last_actions, lengths):
        mean = self.mean(seen.obs)
        return torch.cat([mean, self.log_std.expand_as(mean)], -1)

    def value_episodes(self, seen, lengths):
        return self.value(seen.obs).squeeze(-1)

    def start(self, seeds):
        return None

    @torch.inference_mode()
    def act(self, view, memory):
        seen = Seen.of(view)
        said = self.act_episodes(seen, None, None).numpy()
        return PolicyOutput(said, value=self.value_episodes(seen, None).numpy()), memory


def test_ppo_learns_it():
    torch.manual_seed(0)
    model, norm = Linear(), ppo.ValueNorm(1)
    optimiser = torch.optim.Adam(model.parameters(), 0.05)
    recipe = PolicyRecipe(environment=SPEC.id, minibatches=1, epochs=5, gamma=0.0, entropy=0.0)
    returns = []
    for iteration in range(12):
        seeds = episode_seeds(1, 64 * iteration, 64)
        played = collect(Points(), model, seeds, sampled(seeds))
        returns.append(played.steps["reward"].sum(0).mean())
        batch, _ = ppo.make_batch(played, recipe, norm, model.side_of, torch.ones(AGENTS))
        found = ppo.update(model, optimiser, batch, recipe, generator(0, "minibatches", iteration))
        assert math.isfinite(found.entropy + found.approximate_kl + found.value_loss)
    assert returns[-1] > 0.7 * returns[0]


def test_a_teacher_pulls_it():
    played = collect(Points(), Near(), SEEDS, sampled(SEEDS))
    parameters = torch.from_numpy(played.steps["logits"])
    available = torch.from_numpy(played.steps["available_actions"])
    policy = GaussianTensors(parameters + torch.tensor([0.5, 0.0, 0.0, 0.0]), available)
    pull = ppo.Pull(1.0, GaussianTensors(parameters, available).kept())
    torch.testing.assert_close(pull.divergence(policy), torch.full(available.shape[:-1], 0.5))
