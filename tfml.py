"""Two-Fold Meta-Learning: condenses the n cells of a supernet into one meta-cell.

    python tfml.py --dataset omniglot --path runs/omniglot
    torchrun --standalone --nproc_per_node 2 -- tfml.py --dataset omniglot --path runs/omniglot

Writes meta_cell.pt, checkpoint.pt, args.json, metrics.jsonl and TensorBoard events into --path, at the end results.json
and report.html. On a CPU the meta-cell is the same for any number of processes: each computes on one thread, unless
OMP_NUM_THREADS says otherwise.
"""

from utils.run.start import begin

if __name__ == "__main__":
    begin("tfml.py")

from search_space.flags.tfml import TfmlFlags, parse_tfml_flags

if __name__ == "__main__":
    parse_tfml_flags(__doc__)  # --help and a refusal come before PyTorch is imported, which takes seconds

import time
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from statistics import fmean

from models.meta_cell import MetaCell, TrainedOn, first_fold, second_fold
from models.supernet import EDGES, PAIRS, SupernetSettings
from search_space.agreement import folder_as_trained
from search_space.board.opening import open_board
from search_space.board.search_record import SearchRecord
from search_space.deciding.training import DecidingTraining
from search_space.evaluation import TEST_TASK, Start, search_task
from search_space.flags.less_memory import less_memory
from search_space.meta.batched_search import adapt_tasks
from search_space.pretraining.loop import pretrain
from search_space.pretraining.training import Pretraining
from search_space.primitives import FEW_SHOT
from search_space.resume import epoch_log, load_checkpoint, save_checkpoint
from search_space.search_network import SearchNetwork, check_meta_cell, load_meta_cell
from torchmeta_loader import FewShotTasks, content_digest, episodes, few_shot_tasks, held_out_split
from utils.data.views import DRAWINGS, PHOTOGRAPHS
from utils.errors import InputError
from utils.results.intervals import mean_and_ci95
from utils.results.log_rows import MetaEpochRow, TaskRow
from utils.results.schema import MetaTrainingResults, write_results
from utils.run.cli import run
from utils.run.device import choose_device, device_name
from utils.run.files import file_digest
from utils.run.process_memory import process_memory
from utils.run.progress import progress_bar
from utils.run.ranks import Ranks, join_ranks, use_one_thread
from utils.run.report import make_report
from utils.run.run_directory import check_run, open_run
from utils.run.torchrun import is_restarted, remember_run

LEARNING_RATES = ("w_lr", "alpha_lr", "w_meta_lr", "a_meta_lr")  # what TensorBoard shows of the flags


def parse_args() -> TfmlFlags:
    return parse_tfml_flags(__doc__)


def load_tasks(flags: TfmlFlags, earlier: MetaCell | None) -> tuple[FewShotTasks, FewShotTasks]:
    """The tasks of meta-training, and those of the meta-tests, on classes that are not trained on.

    Args:
        earlier: the meta-cell to start from, whose images and split of classes are taken over.
    """
    tasks, vinyals = flags.tasks, bool(flags.tasks.use_vinyals_split)
    source = {
        "seed": flags.run.seed,
        "data_path": tasks.data_path,
        "use_vinyals_split": vinyals,
        "download": tasks.download,
        "input_size": tasks.input_size,
    }
    if earlier is not None and tasks.dataset == "imagefolder":
        source |= folder_as_trained(earlier, tasks.input_size, flags.training.meta_cell)
    # A training task has one query a class: Omniglot has only 20 drawings a character.
    train = few_shot_tasks(tasks.dataset, "train", ways=tasks.n, shots=flags.training.n_train, queries=1, **source)
    split = held_out_split(tasks.dataset, vinyals)
    return train, few_shot_tasks(tasks.dataset, split, ways=tasks.n, shots=tasks.k, queries=tasks.q, **source)


def network_settings(flags: TfmlFlags, channels: int) -> SupernetSettings:
    network = flags.network
    return SupernetSettings(
        in_channels=channels,
        init_channels=network.init_channels,
        layers=network.layers,
        nodes=network.nodes,
        reduction_layers=tuple(network.reduction_layers),
        primitives=FEW_SHOT,
        edge_weights=PAIRS if network.partial_channels == 1 else EDGES,
        partial_channels=network.partial_channels,
    )


def start_from(meta_cell: MetaCell, path: Path, cells: str, network: SearchNetwork) -> None:
    """Copies a meta-cell, an earlier run's, into a new network.

    Args:
        path: where it was read.

    Raises:
        InputError: it does not fit the network, or --cells.
    """
    asked = network.settings.as_dict()
    for name, value in meta_cell.settings.as_dict().items():
        if value != asked[name]:
            raise InputError(
                f"--meta_cell {path} is of another network than asked for: {name} {value}, not {asked[name]}."
            )
    if len(meta_cell.cells) > 1 and cells == "meta":
        raise InputError(f"--meta_cell {path} holds a cell for each place: it needs --cells separate.")
    network.unfold(meta_cell)


def open_or_resume(flags: TfmlFlags, new: MetaCell, data: str | None) -> tuple[dict, MetaCell, int]:
    """The values for args.json, the state and how many meta-epochs it has: ``new``, or of the run to resume.

    Args:
        data: the digest of the data's content. A run is to go on with the same, wherever they lie.
    """
    path, start = flags.run.path, flags.training.meta_cell
    values = {
        **flags.as_dict(),
        "data_path (SHA-256)": data,
        "meta_cell (SHA-256)": start and file_digest(start),
        "resume": flags.run.resume or is_restarted(path),
    }
    values = check_run(path, values, "tfml.py", ("checkpoint.pt", "meta_cell.pt"), flags.may_change())
    meta_cell, checkpoint = new, path / "checkpoint.pt"

    def load(state: dict) -> None:
        nonlocal meta_cell
        meta_cell = MetaCell.from_dict(state, checkpoint)
        check_meta_cell(meta_cell, checkpoint)
        if (meta_cell.settings, meta_cell.ways, len(meta_cell.cells)) != (new.settings, new.ways, len(new.cells)):
            raise ValueError("another network")

    done = load_checkpoint(checkpoint, load)
    if checkpoint.exists():
        print(f"{path} has {done} meta-epochs; going on to {max(done, flags.training.meta_epochs)}.")
    remember_run(path)
    open_run(path, values)
    return values, meta_cell, done


def meta_test(
    ranks: Ranks, start: Start, tasks: FewShotTasks, flags: TfmlFlags
) -> tuple[dict[str, float | None], TaskRow, SearchRecord]:
    """Searches the first --eval_epochs test tasks.

    Returns:
        The figures of a meta-test, the first task's row and its record; the latter in the first process alone.
    """
    numbers, record = range(flags.test.eval_epochs), SearchRecord()
    test_episodes = episodes(tasks, ranks.share(numbers), flags.tasks.workers)

    def search(number: int) -> TaskRow:
        episode, first = next(test_episodes), number == 0
        return search_task(start.unfold(TEST_TASK, episode.number), episode, first, record if first else None)

    rows = ranks.gather(search, numbers)
    accuracy, ci95 = mean_and_ci95([row.accuracy for row in rows])
    losses = [row.loss for row in rows]
    loss = None if None in losses else fmean(losses)
    return {"test_loss": loss, "test_accuracy": accuracy, "test_accuracy_ci95": ci95}, rows[0], record


def main():
    flags = parse_args()
    training, path, seed = flags.training, flags.run.path, flags.run.seed
    device = choose_device(flags.run.device, tf32=bool(flags.run.tf32))
    use_one_thread()
    ranks = join_ranks(device)

    # Data: classes to train on, and others to test on.
    earlier = None if training.meta_cell is None else load_meta_cell(training.meta_cell)
    train_tasks, test_tasks = load_tasks(flags, earlier)
    settings = network_settings(flags, train_tasks.shape[0])
    for note in dict.fromkeys((*train_tasks.notes, *test_tasks.notes)):
        print(note)
    warm_up = training.warm_up_epochs
    if 0 < training.meta_epochs <= warm_up:
        print(f"All {training.meta_epochs} meta-epochs adapt weights only: --warm_up_epochs is {warm_up}.")

    # The network, and what is trained of it: meta-cell, stem and head, alpha and beta.
    network = SearchNetwork.build(settings, flags.tasks.n, seed, device)
    if earlier is not None:
        start_from(earlier, training.meta_cell, training.cells, network)
    new, digest = network.state(separate=training.cells == "separate"), content_digest(train_tasks, test_tasks)
    values, meta_cell, first = ranks.from_first(lambda: open_or_resume(flags, new, digest))
    if ranks.is_first:
        metrics = epoch_log(path / "metrics.jsonl", MetaEpochRow, first)
        board = open_board(flags.run.tensorboard, path / "tb", settings, first)
        save(flags, train_tasks, meta_cell, first)

    # Before the loop: the meta-cell learns to tell all classes apart.
    if flags.pretraining.pretrain_epochs and first == 0:
        meta_cell = pretrained(flags, network, train_tasks, ranks)
        if ranks.is_first:
            save(flags, train_tasks, meta_cell, 0)

    # The loop: a meta-epoch adapts to a meta-batch of tasks, in groups that are adapted side by side.
    def groups(meta_epoch: int) -> list[range]:
        tasks = range(meta_epoch * training.meta_batch_size, (meta_epoch + 1) * training.meta_batch_size)
        return [tasks[place : place + training.tasks_at_once] for place in range(0, len(tasks), training.tasks_at_once)]

    meta_epochs = range(first, training.meta_epochs)
    own_tasks = [task for meta_epoch in meta_epochs for group in ranks.share(groups(meta_epoch)) for task in group]
    train_episodes = episodes(train_tasks, own_tasks, flags.tasks.workers)
    progress = progress_bar(
        meta_epochs, flags.run.name or "TFML", "meta-epoch", first, training.meta_epochs, ranks.is_first
    )
    for meta_epoch in progress:
        started = time.perf_counter()
        tests = (meta_epoch + 1) % flags.test.eval_freq == 0 or meta_epoch + 1 == training.meta_epochs

        # Unfold for each task, adapt on its support set.
        start = Start(meta_cell, network, flags.of_training_task(meta_epoch), seed)
        first_group = groups(meta_epoch)[0]

        def adapt(group, start=start, measured=first_group if tests else None):
            return adapt_tasks(start, [next(train_episodes) for _ in group], measure=group == measured)

        ends, memory = zip(*ranks.gather(adapt, groups(meta_epoch)), strict=True)
        adapted, losses, accuracies = zip(*chain.from_iterable(ends), strict=True)
        # First fold, over tasks; second fold, over cells.
        folded = first_fold(
            meta_cell.separate(network.supernet), adapted, training.task_weighting, *training.meta_lrs(meta_epoch)
        )
        separate = training.cells == "separate"
        meta_cell = folded if separate else second_fold(meta_cell, folded, training.cell_weighting)
        if not meta_cell.is_usable():
            rates = "--w_lr, --alpha_lr, --w_meta_lr or --a_meta_lr"
            raise InputError(f"the fold of meta-epoch {meta_epoch} diverged: {rates} is too large.")
        seconds = time.perf_counter() - started

        tested, first_task, record = {}, None, None
        if tests:
            test = Start(meta_cell, network, flags.search.of_test_task(flags.test.test_batch_size), seed)
            tested, first_task, record = meta_test(ranks, test, test_tasks, flags)
            accuracy = f"accuracy {tested['test_accuracy']:.4f} on classes not trained on"
            progress.write(f"Meta-epoch {meta_epoch + 1}: {accuracy}")
        row = MetaEpochRow(
            meta_epoch=meta_epoch,
            train_loss=fmean(losses),
            train_accuracy=fmean(accuracies),
            seconds=seconds,
            tasks_per_second=training.meta_batch_size / seconds,
            **memory[0],
            **tested,
        )
        if ranks.is_first:
            metrics.append(row)
            if tests:
                board.add_meta_test(meta_epoch, first_task, record)
            board.add_meta_epoch(row, {name: values[name] for name in LEARNING_RATES} if tests else {})
            progress.set_postfix(loss=f"{row.train_loss:.3f}", accuracy=f"{row.train_accuracy:.3f}", refresh=False)
            save(flags, train_tasks, meta_cell, meta_epoch + 1)
    ranks.leave()
    if ranks.is_first:
        finish(flags, network, meta_cell, max(first, training.meta_epochs), asdict(train_tasks.size), values)


def pretrained(flags: TfmlFlags, network: SearchNetwork, tasks: FewShotTasks, ranks: Ranks) -> MetaCell:
    """The meta-cell after the pre-training on all classes of ``tasks``, from what ``network`` is now."""
    images, asked, seed = tasks.labelled(), flags.pretraining, flags.run.seed
    views = DRAWINGS if network.settings.in_channels == 1 else PHOTOGRAPHS
    own = SearchNetwork.build(network.settings, images.classes, seed, network.device)
    own.unfold(network.state(separate=False))
    kind = DecidingTraining if asked.decide else Pretraining
    training = kind(own, images, views, asked.settings(dense=network.device.type == "cuda"), seed)
    name = f"{flags.run.name or 'TFML'}, pre-training"
    pretrain(training, ranks, flags.run.path, name, flags.run.tensorboard)
    return training.meta_cell(flags.tasks.n, flags.training.cells == "separate")


def save(flags: TfmlFlags, tasks: FewShotTasks, meta_cell: MetaCell, meta_epochs: int) -> None:
    """Writes what --resume goes on from, and the meta-cell with what it was trained on."""
    path = flags.run.path
    trained_on = TrainedOn(
        dataset=flags.tasks.dataset,
        shape=list(tasks.shape),
        ways=flags.tasks.n,
        shots=flags.training.n_train,
        meta_epochs=meta_epochs,
        split_seed=tasks.split_seed,
        adaptation=flags.adaptation(),
    )
    save_checkpoint(path / "checkpoint.pt", meta_epochs, meta_cell.as_dict())
    replace(meta_cell, trained_on=trained_on).save(path / "meta_cell.pt")


def finish(
    flags: TfmlFlags, network: SearchNetwork, meta_cell: MetaCell, meta_epochs: int, data: dict, values: dict
) -> None:
    """Writes results.json and the report, and says where the meta-cell is."""
    path = flags.run.path
    results = MetaTrainingResults(
        dataset=flags.tasks.dataset,
        data=data,
        device=device_name(network.device),
        network=network.settings.as_dict(),
        meta_epochs=meta_epochs,
        meta_cell_sha256=file_digest(path / "meta_cell.pt"),
        settings=values,
        **process_memory(),
        **network.sizes(meta_cell),
    )
    write_results(path / "results.json", results)
    if flags.run.report:
        make_report(path)
    stored, unfolded = results.meta_cell_storage_mib, results.supernet_storage_mib
    print(f"{path / 'meta_cell.pt'}: {stored:.3f} MiB of parameters, unfolded {unfolded:.3f} MiB")


if __name__ == "__main__":
    run(
        main,
        "tfml.py",
        "--resume goes on after the last whole meta-epoch.",
        less_memory=lambda: less_memory(parse_args().as_dict()),
    )
