"""The networks, and how gradients go through them. What the paper says, and where it is:

"a cell is a DAG; an edge mixes its candidates"     search_cell.py      edge_list, Mixture, Source, SearchCell
"the candidates: pools, skip, convolutions"         operations.py       CANDIDATES; listed in primitives.py
"the supernet is stem, n cells and a linear head"   supernet.py         SupernetSettings, Supernet
"reduction cells use stride 2"                      search_cell.py      SearchCell, with operations.py: FactorizedReduce
"drop-path"                                         supernet.py         Supernet.draw_drop_path
"only the chosen operations get gradient"           search_cell.py      Mixture.trained, Source.forward
"step-by-step back-propagation"                     step_by_step.py     step_by_step_backward
the meta-update, Reptile's, with w_meta_lr          meta_cell.py        first_fold
"cells are folded into one meta-cell"               meta_cell.py        first_fold (tasks), second_fold (cells)
"the meta-cell is unfolded on the device"           meta_cell.py        MetaCell.unfold
one meta-cell in all places at once                  tied_cells.py       TiedCells
"the task's own network"                            pruned_network.py   PrunedNetwork
the same in a file, to classify later               adapted_network.py  AdaptedNetwork
"the genotype is trained as a discrete network"     derived_network.py  DerivedSettings, DerivedNetwork
PC-DARTS's partial channel connections              partial_cell.py     PartialCell

What makes it small and fast:

BN that keeps its output only                       batch_norm.py       BatchNorm, Tracking, average_statistics
one candidate on several edges run as one           merged_candidates.py
several tasks run as one network                    batched_supernet.py, with batched_mix.py: a node's sum, BN included
tied cells as few, large convolutions, for a GPU    dense_supernet.py
PyTorch's own BN, for exporters                     textbook_norm.py    with_textbook_norm
multiply-accumulates                                macs.py             count_macs

An operation is defined once, in operations.py; the ordinary, merged, batched, step-by-step, pruned and derived forms
all run its layers.
"""
