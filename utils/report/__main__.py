"""Writes the page of a run, finished or not, from the files in its folder.

python -m utils.report RUN_FOLDER
"""

from utils.run.start import begin

if __name__ == "__main__":
    begin("utils.report")  # before what takes seconds to import

from utils.report.page import write_report
from utils.run.cli import ArgumentParser, place, run


def main():
    parser = ArgumentParser(prog="utils.report", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=place, metavar="RUN_FOLDER", help="the --path of a run of tfml.py or onnas.py")
    print(write_report(parser.parse_args().run))


if __name__ == "__main__":
    run(main, "utils.report", "nothing half-written is left.")
