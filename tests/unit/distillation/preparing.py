"""What a distillation prepares, without its run folder: for tests of targets and losses."""

from dataclasses import dataclass

import numpy as np

from kd_offline.datasets import ExpertBuffer
from kd_offline.datasets.loading.loader import Loader
from kd_offline.distillation.auxiliary_heads import AuxiliaryHeads
from kd_offline.distillation.episode_targets import fit, in_file_order, make_targets
from kd_offline.distillation.objective import objective, student_batch
from kd_offline.distillation.parallel_agents import parallel_agents
from kd_offline.distillation.targets import TargetContext
from kd_offline.distillation.terms.active import ActiveTerms
from kd_offline.students.networks import StudentInputs, StudentTeam


@dataclass
class Prepared:
    """Terms, statistics and targets of some episodes, and a team that learns from them."""

    buffer: ExpertBuffer
    terms: ActiveTerms
    loader: Loader
    context: TargetContext
    team: StudentTeam
    heads: AuxiliaryHeads

    @property
    def targets(self):
        """The targets of the prepared episodes."""
        return make_targets(self.loader, self.context)

    def targets_of(self, episodes):
        """The targets of other episodes."""
        return make_targets(in_file_order(self.buffer, episodes, self.terms), self.context)

    def outputs(self, batch):
        """What the team says, apart from its graph: logits and embeddings."""
        with parallel_agents(self.team, 1) as passes:
            return passes.forward(batch)[:2]

    def losses(self, logits, embeddings, batch, progress=1.0):
        """Every loss and their weighted sum."""
        students = student_batch(logits, embeddings, batch.targets, self.buffer.spec)
        return objective(students, batch.targets, self.heads, self.terms, progress)


def prepared(buffer, recipe, episodes=None, widths=None, team=None, inputs=None):
    """Prepare the given episodes, by default those to train on."""
    episodes = buffer.split("train") if episodes is None else episodes
    terms, rng = ActiveTerms.of(recipe), np.random.default_rng(0)
    loader = in_file_order(buffer, episodes, terms)
    statistics = fit(loader, terms)
    if team is None:
        widths = widths or (8,) * buffer.spec.n_agents
        team = StudentTeam(buffer.spec, recipe.student, widths, rng, inputs or StudentInputs())
        team.scale_inputs(statistics.scale)
    context = TargetContext.of(buffer, terms, statistics, team)
    sizes = [shape.embedding for shape in team.shapes]
    taps = [shape.taps for shape in team.shapes]
    heads = AuxiliaryHeads(terms.auxiliary_heads(sizes, buffer.spec, rng, taps))
    return Prepared(buffer, terms, loader, context, team, heads)
