"""How far a team can be relied on when something goes wrong: perturbed play and shared failures."""
