"""On-device search: a network for each new few-shot task, for a few images of one's own, or for one full data set.

    python onnas.py --meta_cell FILE --support photographs --query new_photographs --path runs/parts
    python onnas.py --adapted runs/parts/adapted.pt --query more_photographs --path runs/parts_2
    python onnas.py --meta_cell runs/omniglot/meta_cell.pt --dataset omniglot --path runs/omniglot_onnas
    torchrun --standalone --nproc_per_node 2 -- onnas.py ...  # test tasks side by side, as on one thread
    python onnas.py --task full --dataset imagefolder --data_path photographs --path runs/photographs

Own images: adapts to a few of each class and classifies others, see search_space/own_images/__init__.py. Few-shot:
unfolds a meta-cell, searches and trains it on each task's support set, and tests it on the queries; writes tasks.jsonl
(a line a task), examples.jsonl, results.json, args.json and report.html into --path. Full task: searches on the two
halves of the training set, from a meta-cell or from scratch, then trains the network that was found; writes
search.jsonl, derived.jsonl (a line an epoch), genotype.json, .txt and .png, results.json, args.json, report.html and
what --resume needs. The last two write TensorBoard events into tb/.
"""

from utils.run.start import begin

if __name__ == "__main__":
    begin("onnas.py")

from search_space.flags.onnas import OnnasFlags, parse_onnas_flags

if __name__ == "__main__":
    parse_onnas_flags(__doc__)  # --help and a refusal come before PyTorch is imported, which takes seconds

import json
from collections import Counter
from dataclasses import asdict, replace
from statistics import fmean, median

import torch

from search_space.agreement import folder_as_trained, head_note, head_start, searched_network
from search_space.board.opening import open_board
from search_space.board.search_record import record_of
from search_space.evaluation import TEST_TASK, Start, search_task
from search_space.exporting import EXPORTING, export_task_network
from search_space.flags.declare import FULL, OWN
from search_space.flags.less_memory import less_memory
from search_space.found_figures import of_all_tasks
from search_space.memory.fit import split_note
from search_space.memory.process import plan_within
from search_space.memory.size import Size
from search_space.resume import checked_values
from search_space.search_network import SearchNetwork
from search_space.settings import AUTO, SearchSettings
from search_space.task_network import task_network
from torchmeta_loader import FewShotTasks, content_digest, episodes, few_shot_tasks
from utils.data.episode import Episode
from utils.data.names import INPUT_SHAPES
from utils.export_path import check_export_path
from utils.results.examples import EXAMPLES, example_of
from utils.results.exports import ExportedFile, exports_text
from utils.results.intervals import mean_and_ci95
from utils.results.log_rows import ExampleRow, TaskRow
from utils.results.row_log import RowLog, read_rows
from utils.results.schema import FewShotResults, write_results
from utils.run.cli import run
from utils.run.device import choose_device, device_name
from utils.run.process_memory import process_memory
from utils.run.progress import progress_bar
from utils.run.ranks import join_ranks
from utils.run.report import make_report
from utils.run.run_directory import open_run
from utils.run.torchrun import refuse_processes, remember_run

METERED_TASKS = 5  # the first tasks are measured: the meter slows them down, and the others are timed


def parse_args() -> OnnasFlags:
    return parse_onnas_flags(__doc__)


def search_few_shot_tasks(flags: OnnasFlags, device: torch.device) -> None:
    tasks, path, seed = flags.tasks, flags.run.path, flags.run.seed
    ranks = join_ranks(device)

    # Settings: the meta-cell brings its network; the memory budget, if there is one, chooses the schedule.
    folder = tasks.dataset == "imagefolder"
    meta_cell, network_settings = searched_network(flags, None if folder else INPUT_SHAPES[tasks.dataset][0])
    as_trained = folder_as_trained(meta_cell, tasks.input_size, flags.kind.meta_cell) if folder else {}
    side = as_trained.get("input_size")
    shape = (network_settings.in_channels, side, side) if folder else INPUT_SHAPES[tasks.dataset]
    size = Size(tasks.n, tasks.n * tasks.k, tasks.n * tasks.q, shape)
    asked = replace(flags.search_settings(), head_init=head_start(flags.adaptation.head_init, meta_cell))
    settings, prediction = plan_within(asked, flags.memory, network_settings, size, device)
    if prediction is not None:
        print(prediction.as_text(settings))
    if flags.memory.dry_run:
        return

    # Data, and what every task starts from.
    test_tasks = load_tasks(flags, as_trained)
    split_up = split_note(flags.memory.split_num, size, settings)
    notes = (split_up, head_note(meta_cell, flags.kind.meta_cell, tasks.n, settings), *test_tasks.notes)
    for note in filter(None, notes):
        print(note)
    start = Start(meta_cell, SearchNetwork.build(network_settings, tasks.n, seed, device), settings, seed)
    values, log = ranks.from_first(lambda: open_or_resume(flags, settings, test_tasks))
    rows = log.rows
    if ranks.is_first:
        examples = RowLog(path / "examples.jsonl", ExampleRow, before=len(rows))
        board = open_board(flags.run.tensorboard, path / "tb", network_settings, len(rows))

    # The loop: as many tasks at a time as there are processes.
    left = range(len(rows), flags.search.eval_epochs)
    test_episodes = episodes(test_tasks, ranks.share(left), tasks.workers)

    def search(number: int):
        """Its row, and what there is to show of it."""
        episode, record = next(test_episodes), record_of(number) if flags.run.tensorboard else None
        search = start.unfold(TEST_TASK, episode.number)
        row = search_task(search, episode, number < METERED_TASKS, record)
        search.refuse_divergence(f"the search of task {number}")
        return row, record, example_of(episode, row.predictions) if number < EXAMPLES else None

    name = flags.run.name or flags.search.search
    with progress_bar(None, name, "task", len(rows), flags.search.eval_epochs, ranks.is_first) as progress:
        for place in range(0, len(left), ranks.size):
            for row, record, example in ranks.gather(search, left[place : place + ranks.size]):
                if not ranks.is_first:
                    continue
                if example is not None:
                    examples.append(ExampleRow(**example))
                log.append(row)
                board.add_task(row, record)
                progress.update()
                progress.set_postfix(accuracy=f"{fmean(row.accuracy for row in rows):.4f}", refresh=False)
    ranks.leave()
    if ranks.is_first:
        finish(flags, test_tasks, start, rows, values)


def load_tasks(flags: OnnasFlags, as_trained: dict) -> FewShotTasks:
    """The test tasks; of a folder with the images and the split of classes of the meta-cell's training."""
    tasks = flags.tasks
    return few_shot_tasks(
        tasks.dataset,
        flags.search.split,
        ways=tasks.n,
        shots=tasks.k,
        queries=tasks.q,
        seed=flags.run.seed,
        data_path=tasks.data_path,
        use_vinyals_split=bool(tasks.use_vinyals_split),
        download=tasks.download,
        **as_trained,
    )


def open_or_resume(flags: OnnasFlags, settings: SearchSettings, tasks: FewShotTasks) -> tuple[dict, RowLog[TaskRow]]:
    """The values for args.json, and the log with the rows of the tasks that are done."""
    path, found = flags.run.path, {"data_path (SHA-256)": content_digest(tasks)}
    values = checked_values(flags, settings, "tasks.jsonl", found)
    read_rows(path / "tasks.jsonl", TaskRow)  # a damaged one is refused before anything is written
    remember_run(path)
    open_run(path, values)
    return values, RowLog(path / "tasks.jsonl", TaskRow)


def finish(flags: OnnasFlags, tasks: FewShotTasks, start: Start, rows: list[TaskRow], values: dict) -> None:
    """Writes results.json, what --export asks for and the report, and says the accuracy."""
    path, results = flags.run.path, few_shot_results(flags, tasks, start, rows, values)
    write_results(path / "results.json", results)
    if flags.derived.export is not None:
        print(f"{EXPORTING} ...", flush=True)
        (episode,) = episodes(tasks, [len(rows) - 1])
        exports = export_episode(flags, start, episode)
        print(f"task {episode.number}'s network:\n{exports_text(exports)}")
        write_results(path / "results.json", replace(results, exports=exports))
    if flags.run.report:
        make_report(path)
    ci95 = "" if results.accuracy_ci95 is None else f" +- {results.accuracy_ci95:.4f}"
    found = "" if results.found_accuracy is None else f", of the network found {results.found_accuracy:.4f}"
    print(f"accuracy {results.accuracy:.4f}{ci95}{found} over {len(rows)} tasks; {path / 'results.json'}")


def few_shot_results(
    flags: OnnasFlags, tasks: FewShotTasks, start: Start, rows: list[TaskRow], values: dict
) -> FewShotResults:
    """Means over the tasks; memory is of the heaviest of the measured ones, times are of the others."""
    accuracy, ci95 = mean_and_ci95([row.accuracy for row in rows])
    measured, timed = rows[:METERED_TASKS], rows[METERED_TASKS:] or rows
    heaviest = max(measured, key=lambda row: row.peak_memory_mib or 0)
    genotypes = Counter(json.dumps(row.genotype) for row in rows)
    return FewShotResults(
        dataset=flags.tasks.dataset,
        data=asdict(tasks.size),
        device=device_name(start.network.device),
        network=start.network.settings.as_dict(),
        search=flags.search.search,
        ways=flags.tasks.n,
        shots=flags.tasks.k,
        queries=flags.tasks.q,
        tasks=len(rows),
        accuracy=accuracy,
        accuracy_ci95=ci95,
        accuracy_before=fmean(row.accuracy_before for row in rows),
        seconds_per_task=fmean(row.seconds for row in timed),
        seconds_per_step=median(row.seconds_per_step for row in timed),
        peak_memory_mib=heaviest.peak_memory_mib,
        peak_memory_breakdown_mib=heaviest.peak_memory_breakdown_mib,
        peak_memory_test_mib=max(row.peak_memory_test_mib or 0 for row in measured),
        genotype=json.loads(genotypes.most_common(1)[0][0]),
        settings=values,
        **of_all_tasks(rows),
        **process_memory(),
        **start.network.sizes(start.meta_cell),
    )


def export_episode(flags: OnnasFlags, start: Start, episode: Episode) -> list[ExportedFile]:
    """Adapts to an episode once more, and exports the network that comes of it."""
    device = start.network.device
    support, labels = episode.support.to(device), episode.support_labels.to(device)
    search = start.unfold(TEST_TASK, episode.number)
    search.adapt(support, labels)
    chosen = task_network(search, support, labels, flags.search.export_network or AUTO)
    if chosen.why is not None:
        print(chosen.why)
    return export_task_network(
        chosen.network,
        flags.derived.export,
        episode.query,
        episode.query_labels,
        calibration=episode.support,
        classes=episode.class_names,
        extra={"dataset": flags.tasks.dataset, "task": episode.number, "seed": flags.run.seed, "network": chosen.which},
    )


def main():
    flags = parse_args()
    if flags.derived.export is not None:
        check_export_path(flags.derived.export)
    device = choose_device(flags.run.device, tf32=bool(flags.run.tf32))
    # Each kind of task imports what it needs: hundreds of MiB that the others do without.
    if flags.kind.task == FULL:
        from search_space.full_task.task import search_full_task

        refuse_processes("--task full")
        search_full_task(flags, device)
    elif flags.own.adapted is not None:
        from search_space.own_images.classify_later import classify_later

        classify_later(flags, device)
    elif flags.kind.task == OWN:
        from search_space.own_images.search import search_own_images

        refuse_processes("--support")
        search_own_images(flags, device)
    else:
        search_few_shot_tasks(flags, device)


if __name__ == "__main__":
    run(
        main,
        "onnas.py",
        "--resume goes on after the last whole task or epoch.",
        less_memory=lambda: less_memory(parse_args().as_dict()),
    )
