import torch
from torch.nn import functional as F

from search_space.head_start import LARGEST_LOGIT, centroid_head


def support(ways=4, shots=3, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(ways).repeat(shots)
    places = 2 * torch.randn(ways, width, generator=generator)
    return 5 + places[labels] + torch.randn(len(labels), width, generator=generator), labels


def test_the_head_decides_as_the_nearest_class_mean_by_centred_cosine():
    features, labels = support()
    weight, bias = centroid_head(features, labels, 4)
    queries, _ = support(shots=50, seed=1)
    for query in queries:
        cosines = []
        for label in range(4):
            own = [F.normalize(feature - features.mean(0), dim=0) for feature in features[labels == label]]
            cosines.append(F.cosine_similarity(query - features.mean(0), sum(own) / len(own), dim=0))
        assert F.linear(query, weight, bias).argmax() == torch.stack(cosines).argmax()


def test_an_image_of_mean_length_in_the_direction_of_a_class_has_the_largest_logit():
    features, labels = support()
    weight, bias = centroid_head(features, labels, 4)
    centre = features.mean(0)
    length = (features - centre).norm(dim=1).mean()
    logits = F.linear(centre + length * F.normalize(weight, dim=1), weight, bias)
    torch.testing.assert_close(logits.diagonal(), torch.full((4,), LARGEST_LOGIT), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(F.linear(centre, weight, bias), torch.zeros(4), rtol=0, atol=1e-4)


def test_features_that_are_all_the_same_give_a_head_of_zeros():
    weight, bias = centroid_head(torch.ones(4, 6), torch.arange(4), 4)
    assert not weight.any()
    assert not bias.any()
