"""Role clusters: where each agent's expert embeddings lie among the roles that were distilled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kd_offline.deployment.team import Team
from kd_offline.runs.folder import recipe_of
from kd_offline.schemas.collaboration import RoleClusters

_EPISODES = 200
_HOW = {
    "kmeans": "k-means centres of the expert's embeddings",
    "pca": "principal axes of the expert's embeddings",
    "random": "random orthonormal directions",
}


def clusters(team: Team, dataset: str | Path | None) -> RoleClusters | None:
    """Return the roles of a run; None where its method has none or its dataset is not there.

    Raises
    ------
    UsageError, MismatchError
        A dataset was given and is not the run's.
    """
    from kd_offline.distillation.terms.role import RoleSettings, fit_roles
    from kd_offline.errors import UsageError
    from kd_offline.runs.source import open_dataset

    recipe = recipe_of(team.manifest)
    if not recipe.weights.get("role"):
        return None
    try:
        buffer = open_dataset(team.manifest, team.run.path, dataset)
    except UsageError:
        if dataset is not None:
            raise
        return None
    train = buffer.split("train")
    settings = RoleSettings.model_validate(recipe.terms.get("role", {}))
    roles = fit_roles(buffer, train, settings)
    few = train[:: max(1, len(train) // _EPISODES)][:_EPISODES]
    data = buffer.load(["steps/embedding", "steps/alive"], few)
    shares = {}
    for i, agent in enumerate(buffer.spec.agents):
        embedding = data["steps/embedding"][data["steps/alive"][:, i], i]
        if not len(embedding):
            continue  # it never acted
        mean = np.exp(roles.log_roles(embedding).numpy().astype(np.float64)).mean(axis=0)
        shares[agent] = tuple(np.round(mean, 4).tolist())
    how = _HOW[settings.init]
    return RoleClusters(roles=roles.roles, how=how, shares=shares)
