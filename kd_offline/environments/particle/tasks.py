"""The particle tasks by name, from their settings."""

from __future__ import annotations

from typing import Any

from kd_offline.environments.particle.adversary import Adversary
from kd_offline.environments.particle.environment import ParticleEnvironment
from kd_offline.environments.particle.settings import AdversarySettings, Settings, SpreadSettings
from kd_offline.environments.particle.speaker_listener import SpeakerListener
from kd_offline.environments.particle.spread import Spread
from kd_offline.environments.settings import parsed


def simple_spread(**settings: Any) -> ParticleEnvironment:
    """Return ``mpe/simple_spread_v3``."""
    given = parsed("mpe/simple_spread_v3", SpreadSettings, settings)
    return ParticleEnvironment(Spread(given), given.world_dtype)


def simple_speaker_listener(**settings: Any) -> ParticleEnvironment:
    """Return ``mpe/simple_speaker_listener_v4``."""
    given = parsed("mpe/simple_speaker_listener_v4", Settings, settings)
    return ParticleEnvironment(SpeakerListener(given), given.world_dtype)


def simple_adversary(**settings: Any) -> ParticleEnvironment:
    """Return ``mpe/simple_adversary_v3``."""
    given = parsed("mpe/simple_adversary_v3", AdversarySettings, settings)
    return ParticleEnvironment(Adversary(given), given.world_dtype)
