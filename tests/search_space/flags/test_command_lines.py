"""What the two command lines make of their flags, and what they refuse; nothing is read or written."""

import subprocess
import sys
from pathlib import Path

import pytest

from search_space.flags.onnas import OnnasFlags, parse_onnas_flags
from search_space.flags.tfml import TfmlFlags, parse_tfml_flags
from search_space.normalizers import Normalizer
from search_space.settings import FASTEST, LEANEST, ORDINARY, Schedule
from tests.conftest import ROOT
from utils.errors import InputError


@pytest.fixture
def tfml(monkeypatch):
    def parse(flags: str = "") -> TfmlFlags:
        monkeypatch.setattr(sys, "argv", ["tfml.py", *flags.split()])
        return parse_tfml_flags("-")

    return parse


@pytest.fixture
def onnas(monkeypatch):
    def parse(flags: str = "") -> OnnasFlags:
        monkeypatch.setattr(sys, "argv", ["onnas.py", "--meta_cell", "x", *flags.split()])
        return parse_onnas_flags("-")

    return parse


# --- Presets and defaults -------------------------------------------------------------------------------------------

ONE_FOR_BOTH = {"task_train_steps": 5, "n_train": 15, "batch_size": 20, "meta_batch_size": 10}
ONE_FOR_BOTH |= {"w_meta_lr": 1.0, "a_meta_lr": 0.6}
IN_METANAS = {**ONE_FOR_BOTH, "w_lr": 0.01, "alpha_lr": 0.01}
OG_METANAS = {**ONE_FOR_BOTH, "w_lr": 0.005, "alpha_lr": 0.005}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--dataset miniimagenet", {**IN_METANAS, "test_batch_size": 15}),
        ("--dataset miniimagenet --k 1", {**IN_METANAS, "test_batch_size": 5}),
        ("--dataset omniglot", {**OG_METANAS, "test_batch_size": 10}),
        ("--dataset omniglot --k 1", {**OG_METANAS, "test_batch_size": 10}),
        ("--dataset synthetic", {**OG_METANAS, "test_batch_size": 10}),
        ("--dataset omniglot --hp_setting in_metanas", {**IN_METANAS, "test_batch_size": 15}),
        ("--dataset miniimagenet --hp_setting og_metanas", {**OG_METANAS, "test_batch_size": 10}),
    ],
)
def test_presets_of_meta_training_are_the_published_ones(tfml, flags, expected):
    values = tfml(flags).as_dict()
    assert {name: values[name] for name in expected} == expected
    published = {"meta_epochs": 30000, "warm_up_epochs": 15000, "eval_freq": 1500, "drop_path_prob": 0.2, "seed": 21}
    published |= {"init_channels": 28, "layers": 4, "nodes": 3, "reduction_layers": [1, 3]}
    assert {name: values[name] for name in published} == published


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--dataset miniimagenet", (0.01, 0.01, 15)),
        ("--dataset miniimagenet --k 1", (0.01, 0.01, 5)),
        ("--dataset omniglot --k 1", (0.005, 0.005, 10)),
        ("--dataset omniglot --hp_setting in_metanas", (0.01, 0.01, 15)),
        ("--dataset miniimagenet --k 1 --w_lr 0 --alpha_lr 0 --batch_size 2", (0, 0, 2)),
        ("--task full", (0.025, 3e-4, 64)),
    ],
)
def test_presets_of_a_search_are_the_published_ones(onnas, flags, expected):
    values = onnas(flags).as_dict()
    assert tuple(values[name] for name in ("w_lr", "alpha_lr", "batch_size")) == expected
    assert [values[name] for name in ("eval_epochs", "sampleno", "seed")] == [100, 2, 21]


def test_explicit_flags_beat_the_preset(tfml):
    values = {"task_train_steps": 1, "n_train": 2, "batch_size": 3, "test_batch_size": 4, "meta_batch_size": 5}
    values |= {"w_lr": 0.0, "alpha_lr": 0.0, "w_meta_lr": 0.0, "a_meta_lr": 0.0}
    given = " ".join(f"--{name} {value}" for name, value in values.items())
    for setting in ("in_metanas", "og_metanas"):
        found = tfml(f"--hp_setting {setting} --k 1 {given}").as_dict()
        assert {name: found[name] for name in values} == values


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        *(("omniglot", 5), ("synthetic", 5), ("miniimagenet", 1)),
        *(("imagefolder", 1), ("imagefolder --input_size 32", 5), ("imagefolder --input_size 33", 1)),
    ],
)
def test_tasks_at_once_depends_on_the_images(tfml, dataset, expected):
    assert tfml(f"--dataset {dataset}").training.tasks_at_once == expected


@pytest.mark.parametrize(("layers", "expected"), [(1, []), (2, [1]), (4, [1, 3]), (9, [1, 3])])
def test_reductions_default_to_those_that_are_there(tfml, layers, expected):
    assert tfml(f"--layers {layers}").network.reduction_layers == expected


def test_paths_begin_at_the_home_folder(tfml, onnas):
    flags = tfml("--path ~/runs --data_path ~ --meta_cell ~/cell.pt")
    assert (flags.run.path, flags.tasks.data_path) == (Path.home() / "runs", Path.home())
    assert flags.training.meta_cell == Path.home() / "cell.pt"
    own = onnas("--support ~/a --query ~/b --export ~/net").own
    assert (own.support, own.query) == (Path.home() / "a", Path.home() / "b")
    flags = onnas("--task full --genotype ~/g.json --export ~/net --meta_cell ~/cell.pt")
    paths = (flags.full_task.genotype, flags.derived.export, flags.kind.meta_cell)
    assert [path.parent for path in paths] == [Path.home()] * 3


# --- What follows from the flags ------------------------------------------------------------------------------------


def test_a_longer_run_goes_on_only_without_a_decay(tfml):
    assert "meta_epochs" in tfml().may_change()
    assert "meta_epochs" not in tfml("--meta_lr_decay linear").may_change()
    assert "w_lr" not in tfml().may_change()


def test_decay_reaches_zero_at_the_end(tfml):
    training = tfml("--meta_lr_decay linear --meta_epochs 4").training
    assert [training.meta_lrs(epoch)[0] for epoch in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert tfml().training.meta_lrs(20_000) == (1.0, 0.6)


def test_warm_up_adapts_weights_only(tfml):
    flags = tfml("--warm_up_epochs 3 --task_train_steps 4")
    assert [flags.of_training_task(epoch).architecture_epochs for epoch in (0, 2, 3)] == [0, 0, 4]


@pytest.mark.parametrize(
    ("flags", "schedules", "preferred"),
    [
        ("", (FASTEST, LEANEST), Schedule(FASTEST, 1)),
        ("--split_num 5", (FASTEST, LEANEST), Schedule(FASTEST, 5)),
        ("--schedule leanest", (LEANEST,), Schedule(LEANEST, 1)),
        ("--step_by_step 0", (ORDINARY,), Schedule(ORDINARY, 1)),
        ("--search pcdarts", (ORDINARY,), Schedule(ORDINARY, 1)),
    ],
)
def test_how_gradients_are_taken_is_one_setting(onnas, flags, schedules, preferred):
    found = onnas(flags)
    assert found.memory.schedules == schedules
    assert found.search_settings().schedule == preferred


def test_full_task_searches_after_its_warm_up(onnas):
    settings = onnas("--task full --epochs 7 --warm_up_epochs 3").search_settings()
    assert (settings.epochs, settings.architecture_epochs, settings.transductive) == (7, 4, False)


# --- Flags that a method or a task settles --------------------------------------------------------------------------

PLAIN = "--normalizer softmax --normalizer_temp_anneal_mode none --normalizer_t_max 1 --alpha_prune_threshold 0"


@pytest.mark.parametrize("method", ["darts", "pcdarts"])
@pytest.mark.parametrize("given", ["", "--normalizer_temp_anneal_mode none", PLAIN])
def test_method_that_does_not_relax_is_recorded_with_what_it_takes(onnas, method, given):
    adaptation = onnas(f"--search {method} {given}").adaptation
    assert adaptation.annealing() == Normalizer("softmax", "none", 1.0, 1.0)
    assert adaptation.alpha_prune_threshold == 0


@pytest.mark.parametrize("method", ["onnas", "random", "full", "metanas"])
def test_method_that_relaxes_takes_what_is_given(onnas, method):
    given, left_out = (onnas(f"--search {method} {flags}").adaptation for flags in (PLAIN, ""))
    assert (given.annealing(), given.alpha_prune_threshold) == (Normalizer("softmax", "none"), 0)
    assert (left_out.annealing(), left_out.alpha_prune_threshold) == (Normalizer(), 0.01)


def test_what_a_full_task_has_no_use_for_is_recorded_as_none(onnas):
    values = onnas("--task full").as_dict()
    of_few_shot = ("hp_setting", "test_task_train_steps", "test_adapt_steps", "transductive")
    assert [values[flag] for flag in of_few_shot] == [None] * 4


# --- What is refused ------------------------------------------------------------------------------------------------

HUGE = ("1e20", "1" + 20 * "0", "1e308", "nan", "inf", "-1", "x")
NUMBERS = {
    "tfml": "n k q workers meta_epochs warm_up_epochs meta_batch_size n_train task_train_steps batch_size "
    "tasks_at_once "
    "w_lr alpha_lr w_meta_lr a_meta_lr drop_path_prob init_channels layers nodes reduction_layers partial_channels "
    "eval_freq eval_epochs test_batch_size test_task_train_steps test_adapt_steps normalizer_t_max normalizer_t_min "
    "alpha_prune_threshold use_vinyals_split transductive compile tf32",
    "onnas": "batch_size eval_epochs split_num memory_budget step_by_step alpha_expect beta_sampling unrolled epochs "
    "warm_up_epochs input_size derived_epochs derived_channels derived_layers derived_lr cutout auxiliary",
}
MISTAKES = {
    "tfml": {
        "--compile 1 --tasks_at_once 1": "--compile",
        "--compile 1 --meta_batch_size 1": "--compile",
        "--compile 1 --partial_channels 2": "--compile",
        "--pretrain_epochs 1 --partial_channels 2": "--pretrain_epochs",
        "--decide 1": "--pretrain_epochs 1 or more",
        "--pretrain_epochs 1 --decide 1 --pretrain_random 1": "--decide 1 knows 0 only",
        "--pretrain_epochs 1 --decide 1 --pretrain_batch_size 6": "--decide 1 needs 8 images",
        "--decide_work 0.5": "--decide_work: goes with --decide 1",
        "--n 1": "--n",
        "--q 1.5": "--q",
        "--w_lr nan": "--w_lr",
        "--a_meta_lr -inf": "--a_meta_lr",
        "--drop_path_prob 1": "--drop_path_prob",
        "--test_adapt_steps 1.1": "--test_adapt_steps",
        "--normalizer_t_min 0": "--normalizer_t_min",
        "--normalizer_t_max 0.5 --normalizer_t_min 0.6": "--normalizer_t_min: must be at most --normalizer_t_max 0.5",
        "--normalizer hardmax": "--normalizer",
        "--layers 65": "--layers",
        "--nodes 9": "--nodes",
        "--init_channels 4098": "--init_channels",
        "--reduction_layers 0 -1": "--reduction_layers",
        "--workers 100000": "--workers",
        "--seed 9223372036854775808": "--seed",
        "--w_lr 101": "--w_lr",
        "--meta_epochs": "--meta_epochs",
        "--meta_ep 3": "--meta_ep",
        "--sampleno 2": "--sampleno",
        "--dataset mnist": "--dataset",
        "--use_vinyals_split yes": "--use_vinyals_split",
        "--transductive 2": "--transductive",
        "--hp_setting best": "--hp_setting",
        "--path ~no-such-user/run": "--path",
        "--input_size 64": "--input_size: goes with --dataset imagefolder, not omniglot",
        "surplus": "surplus",
    },
    "onnas": {
        "--sampleno 0": "--sampleno",
        "--alpha_lr nan": "--alpha_lr",
        "--schedule ordinary": "--schedule",
        "--step_by_step 0 --schedule leanest": "--schedule",
        "--memory_budget 0": "--memory_budget",
        "--n 1000000000000 --dry_run": "--n",
        "--batch_size 1": "--batch_size",
        "--search best": "--search",
        "--meta_epochs 3": "--meta_epochs",
        "--eval_ep 3": "--eval_ep",
        "--dataset cifar10": "--dataset: --task fewshot knows omniglot, miniimagenet, synthetic, imagefolder",
        "--input_size 64": "--input_size: goes with --dataset imagefolder, not omniglot",
        "--split train": "--split",
        "--task full --split val": "--split: goes with --task fewshot",
        "--task own": "--task: own needs --support DIR",
        "--folds 3": "--folds: goes with --task own",
        "--support x --folds 1": "--folds",
        "--support x --n 3": "--n: goes with --task fewshot or full",
        "--support x --dataset omniglot": "--dataset: goes with --task fewshot or full",
        "--support x --epochs 3": "--epochs: goes with --task full",
        "--support x --transductive 1": "--transductive: own images are classified one by one",
        "--task full --support x": "--support: goes with --task own",
        "--adapted a.pt --query x": "--meta_cell: --adapted classifies without a search",
        "--genotype g.json": "--genotype: goes with --task full",
        "--derived_lr 0.1": "--derived_lr: goes with --task full",
        "--unrolled 1": "--unrolled",
        "--partial_channels 2": "--partial_channels",
        "--search darts --normalizer relusoftmax": "--normalizer: --search darts knows softmax only",
        "--search darts --normalizer_temp_anneal_mode linear": "--normalizer_temp_anneal_mode",  # the others' default
        "--search pcdarts --normalizer_t_max 5": "--normalizer_t_max: --search pcdarts knows 1.0 only",
        "--search pcdarts --alpha_prune_threshold 0.01": "--alpha_prune_threshold: --search pcdarts knows 0.0 only",
        "--search pcdarts --step_by_step 1": "--step_by_step: --search pcdarts knows 0 only",
        "--task full --dataset omniglot": "--dataset",
        "--task full --warm_up_epochs 50": "--warm_up_epochs: must be less than --epochs 50",
        "--task full --input_size 7": "--input_size",
        "--task full --drop_path_prob 1": "--drop_path_prob",
        "--task full --hp_setting in_metanas": "--hp_setting: goes with --task fewshot",
        "--task full --transductive 1": "--transductive: goes with --task fewshot",
        "--task full --inherit_weights 1 --genotype any.json": "--inherit_weights",
    },
}


def refusal(capsys, parse, flags: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(flags)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("script", NUMBERS)
def test_every_number_has_bounds(script, request, capsys):
    parse, full = request.getfixturevalue(script), "--task full " if script == "onnas" else ""
    for name in NUMBERS[script].split():
        for value in HUGE:
            assert f"argument --{name}: expected" in refusal(capsys, parse, f"{full}--{name} {value}".strip())


@pytest.mark.parametrize(("script", "mistake"), [(script, each) for script in MISTAKES for each in MISTAKES[script]])
def test_mistaken_flag_is_refused_by_name(script, mistake, request, capsys):
    assert MISTAKES[script][mistake] in refusal(capsys, request.getfixturevalue(script), mistake)


@pytest.mark.parametrize("flag", ["--path", "--data_path", "--meta_cell"])
def test_empty_path_is_refused(monkeypatch, capsys, flag):
    """As of a shell variable that was not set."""
    monkeypatch.setattr(sys, "argv", ["onnas.py", "--meta_cell", "x", flag, ""])
    with pytest.raises(SystemExit):
        parse_onnas_flags("-")
    assert f"argument {flag}: expected a path" in capsys.readouterr().err


def test_few_shot_task_needs_a_meta_cell(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["onnas.py"])
    with pytest.raises(SystemExit):
        parse_onnas_flags("-")
    assert "--meta_cell: --task fewshot needs one" in capsys.readouterr().err


def test_adapted_needs_no_meta_cell_but_images(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["onnas.py", "--adapted", "~/adapted.pt"])
    with pytest.raises(SystemExit):
        parse_onnas_flags("-")
    assert "--adapted: needs --query DIR" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["onnas.py", "--adapted", "~/adapted.pt", "--query", "x"])
    assert parse_onnas_flags("-").own.adapted == Path.home() / "adapted.pt"


ADAPTATION = {"w_lr": 0.003, "normalizer_temp_anneal_mode": "none", "batch_size": 7, "test_task_train_steps": 4}


def test_own_images_are_adapted_to_as_the_meta_cell_says_where_flags_do_not(onnas):
    flags = onnas("--support x --w_lr 0.5").completed(ADAPTATION)
    settings = flags.search_settings()
    assert (settings.w_lr, settings.batch_size, settings.epochs) == (0.5, 7, 4)
    assert (settings.normalizer.anneal_mode, settings.normalizer.t_max, settings.transductive) == ("none", 1.0, False)
    assert settings.alpha_lr == OG_METANAS["alpha_lr"]  # neither says one
    preset = onnas("--support x --hp_setting in_metanas").completed(ADAPTATION).search_settings()
    assert (preset.w_lr, preset.batch_size, preset.epochs) == (0.01, 15, 4)
    darts = onnas("--support x --search darts").completed({"normalizer": "relusoftmax"})
    assert darts.adaptation.normalizer == "softmax"  # which the method settles


@pytest.mark.parametrize(
    ("adaptation", "wrong"),
    [
        ({"w_lr": "much"}, "--w_lr"),
        ({"batch_size": 1}, "--batch_size"),
        ({"normalizer": "hardmax"}, "--normalizer"),
        ({"normalizer_t_min": 5.0}, "--normalizer_t_min"),
    ],
)
def test_what_a_meta_cell_says_is_checked_as_the_flags_are(onnas, adaptation, wrong):
    with pytest.raises(InputError, match=wrong):
        onnas("--support x").completed(adaptation)


def test_flags_are_read_without_torch():
    code = "import search_space.flags.onnas, search_space.flags.tfml, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
