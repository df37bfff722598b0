"""What the paper is about. From a sentence of the method to its code:

candidates of an edge                              primitives.py: FEW_SHOT, FULL_TASK
alpha on edges, beta on pairs of inputs            architecture.py: Architecture; mixtures() weighs the mixed ops
softmax with temperature T, and other normalizers  normalizers.py: AnnealedNormalizer
T falls over a task                                normalizers.py: Normalizer.annealed
supernet, alpha and beta as one                    search_network.py: SearchNetwork
unfold the meta-cell for a task                    evaluation.py: Start.unfold
adapt on the support set, test on the queries      task_search.py: TaskSearch.adapt, TaskSearch.classify
an architecture step, then a weight step           task_search.py: TaskSearch.step
expectation-based operation and edge-pair search   selection.py: Selector.choose, expected_final
Adam (0, 0.999); no gradient, no step              adam.py: MomentumFreeAdam
batches and micro-batches                          batches.py
what gets gradient and how it is taken             settings.py: SearchSettings, Schedule
second-order DARTS, for comparison                 unrolled.py
onnas, random, full, metanas, darts, pcdarts       methods.py: METHODS
reading off the genotype                           genotype.py: read_genotype
the found network, with the adapted weights        found.py: genotype_mixtures; task_network.py: which classifies
warm-up: weights alone at first                    flags/tfml.py: of_training_task
alpha and beta trained until they decide           deciding/
a few images of one's own                          own_images/
all classes told apart before meta-training        pretraining/
a head that starts at the classes' means           head_start.py
training tasks side by side                        meta/
full task: search, then the derived network        full_task/
memory, predicted and within a budget              memory/; the paper's table, measured: memory_table.py

First and second fold are in models/meta_cell.py, step-by-step back-propagation is in models/step_by_step.py; the loops
over tasks are tfml.py and onnas.py. Beside the method: flags/ (the command lines), agreement.py (a meta-cell and the
flags), resume.py (where a run goes on), board/ (TensorBoard).
"""
