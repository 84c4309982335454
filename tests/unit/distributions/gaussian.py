"""A diagonal Gaussian, of this test alone: what a second kind of action needs."""

import math

import numpy as np
import torch
from scipy.special import ndtri

from kd_offline.distributions.base import Learned, Played

D = 2
LIMIT = 3.0  # behaviour noise is uniform in [-LIMIT, LIMIT]
_LOG_TAU = math.log(2 * math.pi)


class Gaussian(Played):
    """``D`` numbers for each agent; parameters are means and log deviations, [..., 2 D]."""

    numbers = (D,)

    @staticmethod
    def width(spec):
        return 2 * D

    @staticmethod
    def certain(actions, available):
        return np.concatenate([actions, np.full_like(actions, -20)], -1).astype(np.float32)

    @classmethod
    def even(cls, available):
        return Box(np.zeros((*available.shape[:-1], 2 * D), np.float32), available)

    @property
    def mean(self):
        return self.parameters[..., :D].astype(np.float64)

    @property
    def log_std(self):
        return self.parameters[..., D:].astype(np.float64)

    def mode(self):
        return self.mean

    def sample(self, numbers):
        return self.mean + np.exp(self.log_std) * ndtri(np.maximum(numbers, 1e-12))

    def log_prob(self, actions):
        z = (actions - self.mean) / np.exp(self.log_std)
        return -(z**2 / 2 + self.log_std + _LOG_TAU / 2).sum(-1)

    def entropy(self):
        return (self.log_std + (1 + _LOG_TAU) / 2).sum(-1)

    def kl(self, other):
        gap = self.log_std - other.log_std
        far = ((self.mean - other.mean) / np.exp(other.log_std)) ** 2
        return ((np.exp(2 * gap) + far - 1) / 2 - gap).sum(-1)

    @staticmethod
    def has_choice(available):
        return available.any(-1)

    def agrees(self, other):
        return (self.mode() == other.mode()).all(-1)

    def mixture_probability(self, actions, share):
        inside = (np.abs(actions) <= LIMIT).all(-1) / (2 * LIMIT) ** D
        return (1 - share) * np.exp(self.log_prob(actions)) + share * inside

    def counts(self, actions, acting):
        return np.zeros((acting.shape[1], 0), np.int64)

    def near_mode(self, actions, tolerance):
        return (np.abs(actions - self.mean) <= tolerance * np.maximum(1, np.abs(self.mean))).all(-1)


class Box(Gaussian):
    """Uniform in a box."""

    def sample(self, numbers):
        return LIMIT * (2 * numbers - 1)


class GaussianTensors(Learned):
    """The same, in PyTorch."""

    @classmethod
    def restored(cls, kept, available):
        return cls(kept, available)

    def kept(self):
        return self.parameters

    @staticmethod
    def recorded_actions(actions):
        return torch.from_numpy(actions).float()

    @property
    def _normal(self):
        mean, log_std = self.parameters.split(D, -1)
        return torch.distributions.Normal(mean, log_std.exp())

    def at(self, temperature):
        mean, log_std = self.parameters.split(D, -1)
        parameters = torch.cat([mean, log_std + math.log(temperature) / 2], -1)
        return type(self)(parameters, self.available)

    def mode(self):
        return self._normal.mean

    def sample(self, numbers):
        return self._normal.icdf(numbers.clamp(min=1e-12).float())

    def log_prob(self, actions):
        return self._normal.log_prob(actions).sum(-1)

    def entropy(self):
        return self._normal.entropy().sum(-1)

    def kl(self, other):
        return torch.distributions.kl_divergence(self._normal, other._normal).sum(-1)

    def cross_entropy(self, other):
        return self.entropy() + self.kl(other)

    @staticmethod
    def has_choice(available):
        return available.any(-1)

    def agrees(self, other):
        return (self.mode() == other.mode()).all(-1)
