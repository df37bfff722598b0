"""What quickstart.sh ends with: what meta-training changed, what the meta-cell saves, and where to look next.

python -m utils.quickstart_table --trained DIR --untrained DIR --tfml DIR
"""

from utils.run.start import begin

if __name__ == "__main__":
    begin("utils.quickstart_table")  # before what takes seconds to import

from pathlib import Path

from utils.errors import InputError
from utils.results.log_rows import MetaEpochRow
from utils.results.row_log import read_rows
from utils.results.schema import FewShotResults, read_results
from utils.run.cli import ArgumentParser, run


def table(trained: Path, untrained: Path, tfml: Path) -> str:
    """The table, a line a string's line.

    Args:
        trained, untrained: the folders that onnas.py wrote with the trained and with the untrained meta-cell.
        tfml: the folder that tfml.py wrote.
    """
    results = {"untrained": _read(untrained), "trained": _read(trained)}
    result = results["trained"]
    training = read_rows(tfml / "metrics.jsonl", MetaEpochRow)
    whole, folded = result.supernet_storage_mib, result.meta_cell_storage_mib
    lines = [
        f"{result.tasks} {result.dataset} tasks, {result.ways}-way {result.shots}-shot, "
        f"{result.queries} queries a class",
        "",
        f"{'meta-cell':<12}{'before adapting':<18}{'after (95 % interval)':<24}seconds a task",
    ]
    for name, row in results.items():
        after = f"{row.accuracy:.1%}" + ("" if row.accuracy_ci95 is None else f" +- {row.accuracy_ci95:.1%}")
        lines.append(f"{name:<12}{row.accuracy_before:<18.1%}{after:<24}{row.seconds_per_task:.1f}")
    lines += [
        "",
        f"supernet       {result.supernet_parameters:,} parameters",
        f"storage        {whole:.3f} MiB unfolded, {folded:.3f} MiB as a meta-cell: {whole / folded:.2f} times less",
        f"peak memory    {result.peak_memory_mib:.1f} MiB while adapting",
        f"meta-training  {sum(row.seconds for row in training):.0f} s for {len(training)} meta-epochs",
        "",
        f"meta-cell      {tfml / 'meta_cell.pt'}",
        f"pictures       {trained / 'report.html'}",
        f"               {tfml / 'report.html'}",
        f"step by step   tensorboard --logdir {tfml.parent}",
        "next           README.md: Omniglot, your own images, the paper's tables",
    ]
    return "\n".join(lines)


def _read(path: Path) -> FewShotResults:
    """Raises:
    InputError: there are no results, or those of something else.
    """
    results = read_results(path / "results.json")
    needed = ("peak_memory_mib", "supernet_parameters", "supernet_storage_mib", "meta_cell_storage_mib")
    if not isinstance(results, FewShotResults) or not all(getattr(results, name) for name in needed):
        raise InputError(f"{path / 'results.json'} is not of few-shot tasks: name a folder that onnas.py wrote.")
    return results


def main():
    parser = ArgumentParser(prog="utils.quickstart_table", description=__doc__.splitlines()[0])
    parser.add_argument("--trained", type=Path, required=True, help="what onnas.py wrote with the trained meta-cell")
    parser.add_argument("--untrained", type=Path, required=True, help="what it wrote with the untrained one")
    parser.add_argument("--tfml", type=Path, required=True, help="what tfml.py wrote when it trained")
    args = parser.parse_args()
    print(table(args.trained, args.untrained, args.tfml))


if __name__ == "__main__":
    run(main, "utils.quickstart_table", "it only reads.")
