import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_offline import recipes
from kd_offline.distillation.methods import METHODS
from kd_offline.distillation.recipe import PRESETS, completed, distill_recipe
from kd_offline.distillation.terms import TERMS
from kd_offline.distillation.terms.active import term_type
from kd_offline.errors import UnknownNameError, UsageError
from kd_offline.experts.algorithms.clipped_policy import PolicyRecipe
from kd_offline.experts.recipe import train_recipe
from kd_offline.schemas.recipes import FORMER_SWITCHES, DistillRecipe


def write(tmp_path, text, name="recipe.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


class TestLayers:
    def test_single_settings_beat_the_file_which_beats_the_method(self, tmp_path):
        file = write(tmp_path, 'method = "kl"\n[terms]\nkl.temperature = 3.0\npolicy.clip = 0.1\n')
        assert distill_recipe(method="kl").terms["kl"]["temperature"] == 1.0
        assert distill_recipe(file=file).terms["kl"]["temperature"] == 3.0
        recipe = distill_recipe(file=file, settings={"terms.kl.temperature": 4})
        assert recipe.terms["kl"]["temperature"] == 4.0
        assert recipe.terms["policy"]["clip"] == 0.1
        assert recipe.weights["ce"] == 0.0

    def test_a_method_given_as_an_option_replaces_the_files_method_but_not_its_settings(
        self, tmp_path
    ):
        file = write(tmp_path, 'method = "kl"\n[weights]\nrole = 0.7\n')
        recipe = distill_recipe(method="bc", file=file)
        assert recipe.method == "bc"
        assert recipe.weights["kl"] == 0.0
        assert recipe.weights["role"] == 0.7

    def test_a_preset_beats_the_file_and_loses_to_an_option(self, tmp_path):
        file = write(tmp_path, 'mask = "paper"\n[student]\nhidden = 8\n')
        assert distill_recipe(file=file, preset="lh").student.hidden == 32
        recipe = distill_recipe(file=file, preset="lh+a", mask="full")
        assert (recipe.mask, recipe.student.hidden) == ("full", "auto")

    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_is_its_own_default(self, method):
        recipe = distill_recipe(method=method)
        assert recipe == completed(METHODS[method].recipe().model_copy(update={"method": method}))
        weighted = {name: weight for name, weight in recipe.weights.items() if weight}
        assert weighted == {name: w for name, w in METHODS[method].weights.items() if w}

    @pytest.mark.parametrize("preset", PRESETS)
    def test_presets_are_recipes(self, preset):
        assert distill_recipe(preset=preset).mask == "limited"

    def test_nothing_given_is_the_default(self):
        assert distill_recipe() == completed(DistillRecipe())

    def test_a_number_of_seeds_or_the_seeds(self):
        assert distill_recipe(seeds=3).seeds == (0, 1, 2)
        assert distill_recipe(seeds=[7, 1]).seeds == (7, 1)

    @pytest.mark.parametrize("name", TERMS.names())
    def test_every_setting_of_a_term_is_stated_and_can_be_set_by_its_path(self, name):
        named = distill_recipe(settings={f"weights.{name}": 1.0}).terms[name]
        assert named.keys() == term_type(name).settings_type.model_fields.keys()
        recipe = distill_recipe(settings={f"terms.{name}.warmup": 0.5})
        assert recipe.terms[name]["warmup"] == 0.5

    def test_a_recipe_is_read_back_from_what_a_run_states(self, tmp_path):
        recipe = distill_recipe(preset="lh+a", seeds=2, settings={"terms.role.roles": 4})
        text = json.dumps({"recipe": recipe.model_dump(mode="json"), "method": "kd-marl"})
        assert distill_recipe(file=write(tmp_path, text, "run.json")) == recipe


class TestFormerVersions:
    """The table ``switches`` of recipes and runs that were written before terms had settings."""

    @pytest.mark.parametrize(("name", "place"), sorted(FORMER_SWITCHES.items()))
    def test_every_switch_is_the_setting_of_today(self, name, place, tmp_path):
        odd: dict[str, object] = {
            "agents": "sum",
            "form": "eq6",
            "q_scale": "none",
            "relation": "mlp",
        }
        odd |= {"ce_target": "soft", "policy_term": "crr", "ratio": "joint", "roles": 5}
        odd |= {"policy_temperature": "kl", "pairs": "sum", "role_init": "pca", "gae_horizon": 3}
        odd |= {"regression_loss": "huber", "relation_width": 7}
        true = dict.fromkeys(("bootstrap_on_truncation", "centre"), True)
        false = dict.fromkeys(
            ("scale_by_temperature", "drop_forced", "learn_role_projection"), False
        )
        value = (odd | true | false).get(name, 0.25)
        today = distill_recipe(settings={place: value})
        assert today != distill_recipe()
        file = write(tmp_path, json.dumps({"switches": {name: value}}), "old.json")
        assert distill_recipe(settings={f"switches.{name}": value}) == today
        assert distill_recipe(file=file) == today
        assert completed(DistillRecipe.model_validate({"switches": {name: value}})) == today

    def test_no_policy_term_was_a_switch_and_is_a_weight(self, tmp_path):
        none = distill_recipe(settings={"switches.policy_term": "none"})
        assert none == distill_recipe(settings={"weights.policy": 0.0})
        file = write(tmp_path, '[switches]\npolicy_term = "none"\n')
        again = distill_recipe(file=file, settings={"terms.policy.form": "awr"})
        assert again.weights["policy"] == 0.1

    def test_a_later_layer_wins_by_either_name(self, tmp_path):
        file = write(tmp_path, "[switches]\ntemperature = 3.0\n")
        recipe = distill_recipe(file=file, settings={"terms.kl.temperature": 4.0})
        assert recipe.terms["kl"]["temperature"] == 4.0
        file = write(tmp_path, "[terms.kl]\ntemperature = 3.0\n")
        recipe = distill_recipe(file=file, settings={"switches.temperature": 5.0})
        assert recipe.terms["kl"]["temperature"] == 5.0

    @pytest.mark.parametrize("tables", [{"switches": 3}, {"weights": [1]}, {"terms": "kl"}])
    def test_what_is_no_table_is_refused(self, tables):
        with pytest.raises(UsageError, match=rf"{next(iter(tables))}"):
            distill_recipe(settings=tables)

    def test_a_term_that_is_no_table_is_refused(self):
        with pytest.raises(UsageError, match=r"terms\.kl"):
            distill_recipe(settings={"terms": {"kl": 3}, "switches": {"temperature": 2.0}})


class TestRefusals:
    def test_an_unknown_method(self):
        with pytest.raises(UnknownNameError, match="did you mean 'kd-marl'"):
            distill_recipe(method="kdmarl")

    @pytest.mark.parametrize("table", ["switches", "terms.policy"])
    def test_an_unknown_setting_of_a_term_names_the_nearest(self, table):
        with pytest.raises(UnknownNameError, match=rf"the recipe, {table}.*did you mean 'ratio'"):
            distill_recipe(settings={f"{table}.ratoi": "joint"})

    @pytest.mark.parametrize("table", ["weights.policies", "terms.policies.clip"])
    def test_an_unknown_term_lists_the_terms(self, table, tmp_path):
        words = r"unknown loss term 'policies': allowed are kl, ce, .*did you mean 'policy'"
        with pytest.raises(UnknownNameError, match=words):
            distill_recipe(settings={table: 0.1})
        file = write(tmp_path, f"{table} = 0.1\n")
        with pytest.raises(UnknownNameError, match=f"{words}.*the recipe in '{file}' names it"):
            distill_recipe(file=file)

    @pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "much"])
    def test_a_weight_is_a_finite_number_of_zero_or_more(self, weight):
        with pytest.raises(UsageError, match=r"weights\.kl is .*correct that setting"):
            distill_recipe(settings={"weights.kl": weight})

    def test_an_unknown_table(self):
        with pytest.raises(UnknownNameError, match=r"'therms'.*did you mean 'terms'"):
            distill_recipe(settings={"therms.kl": 1})

    def test_an_impossible_value_names_the_setting_and_what_was_got(self):
        with pytest.raises(UsageError, match=r"terms\.policy: ratio is 'both'.*'per_agent' or"):
            distill_recipe(settings={"terms.policy.ratio": "both"})

    def test_a_table_where_a_value_belongs(self):
        with pytest.raises(UsageError, match="mask"):
            distill_recipe(settings={"mask.name": "limited"})

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(UsageError, match="cannot be read: No such file"):
            recipes.read_recipe(tmp_path / "absent.toml")

    @pytest.mark.parametrize(("name", "kind"), [("a.toml", "TOML"), ("a.json", "JSON")])
    def test_a_broken_file(self, tmp_path, name, kind):
        with pytest.raises(UsageError, match=f"not valid {kind}"):
            recipes.read_recipe(write(tmp_path, "{ = ", name))

    def test_a_file_without_settings(self, tmp_path):
        with pytest.raises(UsageError, match="no table of settings"):
            recipes.read_recipe(write(tmp_path, "[1, 2]", "a.json"))


class TestAssignments:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("a=1", 1),
            ("a=0.5", 0.5),
            ("a=true", True),
            ("a=none", None),
            ("a=joint", "joint"),
            ("a='1'", "1"),
            ("a=[32, 16]", [32, 16]),
            ("a=x=y", "x=y"),
            ("a=", ""),
        ],
    )
    def test_values(self, text, value):
        assert recipes.assignment(text) == ("a", value)

    @pytest.mark.parametrize("text", ["a", "=1", ""])
    def test_refused(self, text):
        with pytest.raises(UsageError, match="NAME=VALUE"):
            recipes.assignment(text)

    @given(st.text(max_size=30))
    def test_any_value_is_read_without_an_error(self, text):
        assert recipes.assignment(f"name={text}")[0] == "name"


class TestTraining:
    def test_needs_an_environment(self):
        with pytest.raises(UsageError, match="no environment given"):
            train_recipe()

    def test_options_beat_the_file(self, tmp_path):
        file = write(tmp_path, 'environment = "a"\nframes = 10\nentropy = 0.5\n')
        recipe = train_recipe(file=file, settings={"frames": 20})
        assert isinstance(recipe, PolicyRecipe)
        assert (recipe.environment, recipe.frames, recipe.entropy) == ("a", 20, 0.5)
        assert train_recipe("b", file=file).environment == "b"

    def test_width_and_memory(self):
        assert train_recipe("a", hidden=32).architecture.trunk == (32, 32)
        assert train_recipe("a", hidden=32).architecture.gru == 32
        plain = train_recipe("a", hidden=32, gru=False).architecture
        assert (plain.trunk, plain.gru, plain.critic_gru) == ((32, 32), None, None)

    def test_the_algorithm_decides_the_critic(self):
        assert train_recipe("a").architecture.critic == "central"
        assert train_recipe("a", algorithm="ippo").architecture.critic == "local"
        with pytest.raises(UsageError, match="critic is 'central', which should be 'local'"):
            train_recipe("a", algorithm="ippo", critic="central")

    def test_memory_without_a_width(self, tmp_path):
        file = write(tmp_path, json.dumps({"architecture": {"gru": None}}), "a.json")
        with pytest.raises(UsageError, match="give both gru=True, hidden"):
            train_recipe("a", gru=True, file=file)
