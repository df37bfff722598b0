"""A full task, as CIFAR-10: a search on the two halves of its training set, then the found network.

task               from its data to its results
plan               what is run: networks, settings, memory, decided before hours of search
run                the two loops, epoch by epoch
search             the search, half of the images for the weights, half for alpha and beta
derived_training   training the network that was found
epochs             what the two share: steps of an epoch, epochs that go on where a run was stopped, testing
"""
