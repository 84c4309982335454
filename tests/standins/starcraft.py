"""A stand-in for SMAC's ``StarCraft2Env``: its interface, with a small battle of our own inside.

Same names, arguments, layouts of observations and state, legal actions, reward and ends as the
original; the fighting is simplified. Written from the original's described behaviour. What a map
is follows here from who fights on it, not from the adapter's table, so that each checks the other.
"""

import os

import numpy as np

from tests.standins.armies import ARMIES, SIZE, Unit, army

SIGHT, SHOOT = 9, 6
MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0))
NO_ATTACK = 2 + len(MOVES)
PEACE = "STANDIN_PEACE" in os.environ  # enemies that do nothing


class StarCraft2Env:
    def __init__(
        self,
        map_name="8m",
        step_mul=8,
        move_amount=2,
        difficulty="7",
        game_version=None,
        seed=None,
        continuing_episode=False,
        obs_all_health=True,
        obs_own_health=True,
        obs_last_action=False,
        obs_pathing_grid=False,
        obs_terrain_height=False,
        obs_instead_of_state=False,
        state_last_action=True,
        reward_sparse=False,
        reward_only_positive=True,
        reward_death_value=10,
        reward_win=200,
        reward_defeat=0,
        reward_negative_scale=0.5,
        reward_scale=True,
        reward_scale_rate=20,
    ):
        self.set = {k: v for k, v in locals().items() if k != "self"}
        ours, theirs, self.episode_limit = ARMIES[map_name]
        self.ours, self.theirs = army(ours), army(theirs or ours)
        self.n_agents, self.n_enemies = len(self.ours), len(self.theirs)
        self.n_actions = NO_ATTACK + self.n_enemies
        self.skill = 0.25 + 0.05 * "123456789A".index(difficulty)  # chance that an enemy acts
        kinds = list(dict.fromkeys(self.ours))
        self.types = kinds if len(kinds) > 1 else []
        self.random, self.agents, self.enemies = None, [], []

    # The game

    def reset(self):
        if self.random is None:
            self.random = np.random.default_rng(self.set["seed"])
        self.agents = [Unit(kind, *self._place(9)) for kind in self.ours]
        self.enemies = [Unit(kind, *self._place(SIZE - 9)) for kind in self.theirs]
        self.steps, self.paid_end = 0, False
        self.last_action = np.zeros((self.n_agents, self.n_actions))
        full = sum(unit.life for unit in self.enemies)
        self.max_reward = (
            full + self.n_enemies * self.set["reward_death_value"] + self.set["reward_win"]
        )
        return self.get_obs(), self.get_state()

    def step(self, actions):
        actions = [int(action) for action in actions]
        for agent, action in enumerate(actions):
            assert self.get_avail_agent_actions(agent)[action] == 1, (agent, action)
        self.last_action = np.eye(self.n_actions)[actions]
        before = [[unit.life for unit in side] for side in (self.agents, self.enemies)]
        for unit, action in zip(self.agents, actions, strict=True):
            self._act(unit, action)
        for unit in self.enemies:
            if self.random.random() < self.skill and not PEACE:
                self._fight(unit)
        for unit in self.agents + self.enemies:
            unit.pause = max(0, unit.pause - 1)
        self.steps += 1
        reward, info = self._reward(*before), {"battle_won": False}
        end = self._end()
        if end is not None:
            info["battle_won"] = end == 1
            paid = {1: self.set["reward_win"], -1: self.set["reward_defeat"], 0: 0}[end]
            reward = float(end) if self.set["reward_sparse"] else reward + paid
        elif self.steps >= self.episode_limit and self.set["continuing_episode"]:
            info["episode_limit"] = True
        if self.set["reward_scale"]:
            reward /= self.max_reward / self.set["reward_scale_rate"]
        return reward, end is not None or self.steps >= self.episode_limit, info

    def close(self):
        self.random = None

    def _place(self, x):
        dx, dy = self.random.uniform(-2, 2, 2)
        return x + dx, SIZE / 2 + 2 * dy

    def _act(self, unit, action):
        if not unit.alive or action < 2:
            return
        if action < NO_ATTACK:
            dx, dy = MOVES[action - 2]
            amount = self.set["move_amount"]
            unit.walk(dx * amount, dy * amount)
            return
        targets = self.agents if unit.kind == "medivac" else self.enemies
        unit.attack(targets[action - NO_ATTACK])

    def _fight(self, unit):
        """An enemy goes for whoever is nearest; the healer for whoever lacks most."""
        if not unit.alive or unit.kind == "medivac":
            friends = [u for u in self.enemies if u.alive and u.kind != "medivac"]
            if unit.alive and friends:
                unit.attack(min(friends, key=lambda u: u.health / u.stats.health))
            return
        targets = [target for target in self.agents if target.alive]
        if targets:
            unit.attack(min(targets, key=unit.distance))

    def _end(self):
        ours, theirs = (
            any(unit.alive and unit.kind != "medivac" for unit in side)
            for side in (self.agents, self.enemies)
        )
        if ours and theirs:
            return None
        return int(ours) - int(theirs)

    def _reward(self, ours, theirs):
        if self.set["reward_sparse"]:
            return 0.0
        value, scale = self.set["reward_death_value"], self.set["reward_negative_scale"]
        dealt = self._losses(self.enemies, theirs, value)
        if self.set["reward_only_positive"]:
            return abs(dealt)
        return dealt - scale * self._losses(self.agents, ours, value)

    @staticmethod
    def _losses(units, before, value):
        lost = sum(b - unit.life for unit, b in zip(units, before, strict=True))
        return lost + value * sum(b > 0 and not u.alive for u, b in zip(units, before, strict=True))

    # What is seen of it

    def get_avail_agent_actions(self, agent):
        unit = self.agents[agent]
        legal = [0] * self.n_actions
        if not unit.alive:
            legal[0] = 1
            return legal
        legal[1] = 1
        half = self.set["move_amount"] / 2
        for k, (dx, dy) in enumerate(MOVES):
            x, y = unit.x + dx * half, unit.y + dy * half
            legal[2 + k] = int(0 <= x < SIZE and 0 <= y < SIZE)
        heals = unit.kind == "medivac"
        for k, target in enumerate(self.agents if heals else self.enemies):
            fits = target.alive and not (heals and target.kind == "medivac")
            legal[NO_ATTACK + k] = int(fits and unit.distance(target) <= SHOOT)
        return legal

    def get_avail_actions(self):
        return [self.get_avail_agent_actions(agent) for agent in range(self.n_agents)]

    def get_obs(self):
        return [self.get_obs_agent(agent) for agent in range(self.n_agents)]

    def get_obs_agent(self, agent):
        unit, legal = self.agents[agent], self.get_avail_agent_actions(agent)
        seen = [*legal[2:NO_ATTACK]]
        seen += [1] * (8 * self.set["obs_pathing_grid"]) + [0.5] * (
            9 * self.set["obs_terrain_height"]
        )
        for k, enemy in enumerate(self.enemies):
            reach = 0 if unit.kind == "medivac" else legal[NO_ATTACK + k]
            seen += self._features(unit, enemy, reach)
        for k, ally in enumerate(self.agents):
            if k != agent:
                last = list(self.last_action[k]) if self.set["obs_last_action"] else []
                seen += self._features(unit, ally, 1, last)
        if self.set["obs_own_health"] or self.set["obs_all_health"]:
            seen += self._health(unit)
        seen += self._type(unit)
        return np.array(seen, np.float32) * float(unit.alive)

    def unit_sight_range(self, agent):
        return SIGHT

    def _features(self, unit, other, first, last=()):
        away, sight = unit.distance(other), self.unit_sight_range(self.agents.index(unit))
        found = [first, away / sight, (other.x - unit.x) / sight, (other.y - unit.y) / sight]
        found += self._health(other) if self.set["obs_all_health"] else []
        found += [*self._type(other), *last]
        return found if away < sight and other.alive else [0] * len(found)

    def _health(self, unit):
        shield = [unit.shield / unit.stats.shield] if unit.stats.shield else []
        return [unit.health / unit.stats.health, *shield]

    def _type(self, unit):
        return [float(unit.kind == kind) for kind in self.types]

    def get_state(self):
        if self.set["obs_instead_of_state"]:
            return np.concatenate(self.get_obs())
        state: list[float] = []
        for unit in self.agents + self.enemies:
            here = [unit.x / SIZE - 0.5, unit.y / SIZE - 0.5]
            ready = [unit.pause / unit.stats.pause] if unit in self.agents else []
            health, *shield = self._health(unit)
            row = [health, *ready, *here, *shield, *self._type(unit)]
            state += row if unit.alive else [0] * len(row)
        if self.set["state_last_action"]:
            state += list(self.last_action.flatten())
        return np.array(state, np.float32)

    def get_env_info(self):
        """Sizes; they need no game that runs, so one of its own is looked at."""
        seen = StarCraft2Env(**self.set)
        seen.reset()
        return {
            "state_shape": len(seen.get_state()),
            "obs_shape": len(seen.get_obs_agent(0)),
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
        }
