"""Who fights on the maps of StarCraft: kinds of units, and units that stand on a field."""

import math
from dataclasses import dataclass

SIZE = 32


@dataclass(frozen=True)
class Kind:
    """Race, health, shield, reach, damage of a hit, steps between hits, speed."""

    race: str
    health: float
    shield: float
    reach: float
    damage: float
    pause: int
    speed: float = 1.5


KINDS = {
    "marine": Kind("T", 45, 0, 5, 6, 2),
    "marauder": Kind("T", 125, 0, 6, 10, 3),
    "medivac": Kind("T", 150, 0, 4, -9, 1),
    "stalker": Kind("P", 80, 80, 6, 13, 4, 2.0),
    "zealot": Kind("P", 100, 50, 1, 16, 3),
    "colossus": Kind("P", 200, 150, 7, 20, 3),
    "hydralisk": Kind("Z", 90, 0, 5, 12, 2),
    "zergling": Kind("Z", 35, 0, 1, 5, 1, 2.0),
    "baneling": Kind("Z", 30, 0, 1, 16, 1),
    "crawler": Kind("Z", 300, 0, 7, 25, 4, 0),
}


def army(text):
    """Return the kinds of ``2 stalker, 3 zealot``, one for each unit."""
    parts = [part.split() for part in text.split(", ")]
    return [kind for count, kind in parts for _ in range(int(count))]


SAME = None
ARMIES = {
    "3m": ("3 marine", SAME, 60),
    "8m": ("8 marine", SAME, 120),
    "25m": ("25 marine", SAME, 150),
    "5m_vs_6m": ("5 marine", "6 marine", 70),
    "8m_vs_9m": ("8 marine", "9 marine", 120),
    "10m_vs_11m": ("10 marine", "11 marine", 150),
    "27m_vs_30m": ("27 marine", "30 marine", 180),
    "MMM": ("2 marauder, 7 marine, 1 medivac", SAME, 150),
    "MMM2": ("2 marauder, 7 marine, 1 medivac", "3 marauder, 8 marine, 1 medivac", 180),
    "2s3z": ("2 stalker, 3 zealot", SAME, 120),
    "3s5z": ("3 stalker, 5 zealot", SAME, 150),
    "3s5z_vs_3s6z": ("3 stalker, 5 zealot", "3 stalker, 6 zealot", 170),
    "3s_vs_3z": ("3 stalker", "3 zealot", 150),
    "3s_vs_4z": ("3 stalker", "4 zealot", 200),
    "3s_vs_5z": ("3 stalker", "5 zealot", 250),
    "1c3s5z": ("1 colossus, 3 stalker, 5 zealot", SAME, 180),
    "2m_vs_1z": ("2 marine", "1 zealot", 150),
    "corridor": ("6 zealot", "24 zergling", 400),
    "6h_vs_8z": ("6 hydralisk", "8 zealot", 150),
    "2s_vs_1sc": ("2 stalker", "1 crawler", 300),
    "so_many_baneling": ("7 zealot", "32 baneling", 100),
    "bane_vs_bane": ("20 zergling, 4 baneling", SAME, 200),
    "2c_vs_64zg": ("2 colossus", "64 zergling", 400),
}


class Unit:
    def __init__(self, kind, x, y):
        self.kind, self.stats, self.x, self.y = kind, KINDS[kind], x, y
        self.health, self.shield, self.pause = self.stats.health, self.stats.shield, 0

    @property
    def alive(self):
        return self.health > 0

    @property
    def life(self):
        return self.health + self.shield

    def distance(self, other):
        return math.hypot(other.x - self.x, other.y - self.y)

    def walk(self, dx, dy):
        self.x = min(max(self.x + dx, 0.0), SIZE - 1.0)
        self.y = min(max(self.y + dy, 0.0), SIZE - 1.0)

    def attack(self, target):
        """Hit (or heal) ``target`` if it is near and the weapon is ready, else go there."""
        away = self.distance(target)
        if away > self.stats.reach:
            step = min(self.stats.speed, away - self.stats.reach)
            self.walk((target.x - self.x) * step / away, (target.y - self.y) * step / away)
        elif self.pause == 0:
            target.suffer(self.stats.damage)
            self.pause = self.stats.pause
            if self.kind == "baneling":
                self.health = 0.0

    def suffer(self, damage):
        absorbed = min(self.shield, max(damage, 0.0))
        self.shield -= absorbed
        self.health = min(max(self.health - damage + absorbed, 0.0), self.stats.health)
