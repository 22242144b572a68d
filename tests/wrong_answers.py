"""Mistakes a student may make: for each notebook and each of its exercises three (mistake, answer) that must fail."""

WRONG = {
    "00_networks": [
        [
            (
                "the point before any training is counted as the first epoch",
                "answer = max(int((c < c[-1] - 0.04).sum()) for c in curves.values()) + 1",
            ),
            (
                "the first network to get there, not the last",
                "answer = min(int((c < c[-1] - 0.04).sum()) for c in curves.values())",
            ),
            ("the accuracy is read off, not the epoch", "answer = 0.5"),
        ],
        [
            (
                "the standard deviation of one image in place of its variance",
                "def images_needed(accuracy, points):\n"
                "    return (accuracy * (1 - accuracy)) ** 0.5 / (points / 100)",
            ),
            (
                "percentage points are taken for shares",
                "def images_needed(accuracy, points):\n"
                "    return accuracy * (1 - accuracy) / points**2",
            ),
            (
                "the variance of a right or wrong answer is taken to be the accuracy",
                "def images_needed(accuracy, points):\n"
                "    return accuracy / (points / 100) ** 2",
            ),
        ],
        [
            (
                "the best image of each class, not the best class of each image",
                "def committee(logits):\n"
                "    return np.sum(logits, axis=0).argmax(axis=0)",
            ),
            (
                "each network casts one vote, however sure it is",
                "def committee(logits):\n"
                "    votes = np.array([network.argmax(axis=1) for network in logits])\n"
                "    return np.array([np.bincount(image).argmax() for image in votes.T])",
            ),
            (
                "probabilities are added, not logits",
                "def committee(logits):\n"
                "    odds = np.exp(logits)\n"
                "    return (odds / odds.sum(axis=2, keepdims=True)).sum(axis=0).argmax(axis=1)",
            ),
        ],
    ],
    "01_activation_statistics": [
        [
            ("the factor, not its logarithm", "answer = 10 ** width(trained, 'net1', 'conv1')"),
            ("powers of e, not of ten", "answer = width(trained, 'net1', 'conv1') * np.log(10).item()"),
            (
                "the difference of the two ends, not their ratio",
                "values = mean(trained, 'net1', 'conv1')\nanswer = (values.max() - values.min()).item()",
            ),
        ],
        [
            ("only the means are compared", "def distance(a, b):\n    return abs(np.mean(a) - np.mean(b))"),
            (
                "the shares differ, but how far apart the values are is not counted",
                "def distance(a, b):\n"
                "    steps = np.sort(np.concatenate([a, b]))\n"
                "    below_a, below_b = ((values[:, None] <= steps).mean(axis=0) for values in (a, b))\n"
                "    return np.abs(below_a - below_b).sum()",
            ),
            (
                "the longer layer is cut to the length of the shorter",
                "def distance(a, b):\n"
                "    n = min(len(a), len(b))\n"
                "    return np.mean(np.abs(np.sort(a)[-n:] - np.sort(b)[-n:]))",
            ),
        ],
        [
            (
                "the biases are forgotten",
                "import copy\n\ndef rescaled(network, factor):\n    network = copy.deepcopy(network)\n"
                "    with torch.no_grad():\n        network.conv1[0].weight *= factor\n"
                "        network.conv2[0].weight /= factor\n    return network",
            ),
            (
                "what reads the layer does not undo the factor",
                "import copy\n\ndef rescaled(network, factor):\n    network = copy.deepcopy(network)\n"
                "    with torch.no_grad():\n        network.conv1[0].weight *= factor\n"
                "        network.conv1[0].bias *= factor\n    return network",
            ),
            (
                "the network itself is changed",
                "def rescaled(network, factor):\n    with torch.no_grad():\n        network.conv1[0].weight *= factor\n"
                "        network.conv1[0].bias *= factor\n        network.conv2[0].weight /= factor\n"
                "    return network",
            ),
        ],
    ],
    "02_one_to_one_matching": [
        [
            ("columns choose among rows", "answer = ((0.9 + 0.8 + 0.4) / 3, (0.8 + 0.85 + 0.4) / 3)"),
            (
                "the best pair is taken first, the rest gets what is left",
                "answer = ((0.9 + 0.85 + 0.75) / 3, (0.9 + 0.75 + 0.1) / 3)",
            ),
            ("totals, not means", "answer = (0.9 + 0.85 + 0.75, 0.8 + 0.85 + 0.4)"),
        ],
        [
            (
                "both means weigh the same, though the parts differ in size",
                "def merge_means_and_scatter(a, b):\n"
                "    (n, mean, scatter), (m, other, spread) = a, b\n"
                "    apart = other - mean\n"
                "    return n + m, (mean + other) / 2, scatter + spread + apart**2 * n * m / (n + m)",
            ),
            (
                "the distance between the two means is forgotten",
                "def merge_means_and_scatter(a, b):\n"
                "    (n, mean, scatter), (m, other, spread) = a, b\n"
                "    return n + m, (n * mean + m * other) / (n + m), scatter + spread",
            ),
            (
                "only the first part is moved to the new mean",
                "def merge_means_and_scatter(a, b):\n"
                "    (n, mean, scatter), (m, other, spread) = a, b\n"
                "    whole = (n * mean + m * other) / (n + m)\n"
                "    return n + m, whole, scatter + spread + n * (mean - whole) ** 2",
            ),
        ],
        [
            (
                "mean maps are correlated, and divided by their own deviations",
                "def layout_correlation(x, y):\n"
                "    x, y = (acts.mean(dim=0) - acts.mean(dim=(0, 1)) for acts in (x, y))\n"
                "    return x.T @ y / torch.outer(x.norm(dim=0), y.norm(dim=0))",
            ),
            (
                "places are averaged away, images are kept",
                "def layout_correlation(x, y):\n"
                "    x, y = (acts.mean(dim=1) - acts.mean(dim=(0, 1)) for acts in (x, y))\n"
                "    return x.T @ y / torch.outer(x.norm(dim=0), y.norm(dim=0))",
            ),
            (
                "the mean over places is not taken off the maps",
                "def layout_correlation(x, y):\n"
                "    covariance = x.mean(dim=0).T @ y.mean(dim=0) / x.shape[1]\n"
                "    deviations = (acts.flatten(0, 1).std(dim=0, correction=0) for acts in (x, y))\n"
                "    return covariance / torch.outer(*deviations)",
            ),
        ],
    ],
    "03_mutual_information": [
        [
            ("a bit is taken to be larger than a nat", "answer = (1.08 * np.log(2), np.sqrt(1 - np.exp(-2 * 1.08)))"),
            ("the two in front of the information is lost", "answer = (1.08 / np.log(2), np.sqrt(1 - np.exp(-1.08)))"),
            ("the square of the correlation", "answer = (1.08 / np.log(2), 1 - np.exp(-2 * 1.08))"),
        ],
        [
            (
                "empty bins are not left out",
                "def entropy_of(counts):\n"
                "    shares = counts / counts.sum()\n"
                "    with np.errstate(all='ignore'):\n"
                "        return -(shares * np.log(shares)).sum()",
            ),
            (
                "in bits",
                "def entropy_of(counts):\n"
                "    shares = counts[counts > 0] / counts.sum()\n"
                "    return -(shares * np.log2(shares)).sum()",
            ),
            (
                "counts are taken for shares",
                "def entropy_of(counts):\n"
                "    counts = counts[counts > 0]\n"
                "    return -(counts * np.log(counts)).sum()",
            ),
        ],
        [
            (
                "the sign is turned round",
                "def to_add(counts):\n"
                "    x, y, xy = (counts.sum(1) > 0).sum(), (counts.sum(0) > 0).sum(), (counts > 0).sum()\n"
                "    return ((xy - 1) - (x - 1) - (y - 1)) / (2 * counts.sum())",
            ),
            (
                "bins that hold nothing are counted",
                "def to_add(counts):\n"
                "    x, y = counts.shape\n"
                "    return -(x - 1) * (y - 1) / (2 * counts.sum())",
            ),
            (
                "all bins for all but one, as Li et al. had it",
                "def to_add(counts):\n"
                "    return -counts.size / (2 * counts.sum())",
            ),
        ],
    ],
    "04_sparse_mapping": [
        [
            ("the loss is taken for the variance left", 'answer = 0.416**2 - (1 - min(published["conv5"]))'),
            ("a correlation is taken for a share of variance", 'answer = 0.416 - (1 - 2 * min(published["conv5"]))'),
            ("the loss itself is taken for the share explained", 'answer = 0.416**2 - min(published["conv5"])'),
        ],
        [
            (
                "small weights are cut, large ones not shrunk",
                "def soft_threshold(pull, penalty):\n    return pull if abs(pull) > penalty else 0.0",
            ),
            (
                "the sign is lost",
                "def soft_threshold(pull, penalty):\n    return max(abs(pull) - penalty, 0)",
            ),
            (
                "a squared penalty: weights shrink and none is cut",
                "def soft_threshold(pull, penalty):\n    return pull / (1 + penalty)",
            ),
        ],
        [
            (
                "what is left of the weights, not of their variance",
                "def remembered(values, t):\n    return (values * np.exp(-values * t)).sum() / values.sum()",
            ),
            (
                "all directions count alike in the predictions",
                "def remembered(values, t):\n    return np.exp(-2 * values * t).mean()",
            ),
            (
                "the mean direction stands for all of them",
                "def remembered(values, t):\n    return np.exp(-2 * values.mean() * t)",
            ),
        ],
    ],
    "05_spectral_clustering": [
        [
            ("the first unit is put back", "answer = 2 * (24 / 72) * (48 / 72)"),
            ("the first unit is taken to be of the narrow layer", "answer = 48 / 71"),
            ("two kinds, so one half", "answer = 0.5"),
        ],
        [
            (
                "v itself is compared, however many links a unit has",
                "def roughness(affinity, v):\n    return (affinity * (v[:, None] - v) ** 2).sum() / 2",
            ),
            (
                "every pair is counted twice",
                "def roughness(affinity, v):\n"
                "    scaled = v / np.sqrt(affinity.sum(axis=1))\n"
                "    return (affinity * (scaled[:, None] - scaled) ** 2).sum()",
            ),
            (
                "differences are not squared",
                "def roughness(affinity, v):\n"
                "    scaled = v / np.sqrt(affinity.sum(axis=1))\n"
                "    return (affinity * np.abs(scaled[:, None] - scaled)).sum() / 2",
            ),
        ],
        [
            (
                "rows move as a whole",
                "def permute_columns(weights, generator):\n    return generator.permutation(weights)",
            ),
            (
                "the columns change places",
                "def permute_columns(weights, generator):\n    return generator.permutation(weights, axis=1)",
            ),
            (
                "all entries are shuffled",
                "def permute_columns(weights, generator):\n"
                "    return generator.permutation(weights.ravel()).reshape(weights.shape)",
            ),
        ],
    ],
    "06_svcca": [
        [
            ("the layer that gains most, not least", "answer = layers[(now - before)[0, 1:].mean(axis=0).argmax()]"),
            ("the layer that was most alike before", "answer = layers[before[0, 1:].mean(axis=0).argmax()]"),
            ("the number of the layer, not its name", "answer = 2"),
        ],
        [
            (
                "not centred",
                "def canonical_correlations(x, y):\n"
                "    bases = [np.linalg.qr(part)[0] for part in (x, y)]\n"
                "    return np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)",
            ),
            (
                "only one of the two is whitened",
                "def canonical_correlations(x, y):\n"
                "    x, y = (part - part.mean(axis=0) for part in (x, y))\n"
                "    scaled = y / np.linalg.norm(y, axis=0)\n"
                "    return np.linalg.svd(np.linalg.qr(x)[0].T @ scaled, compute_uv=False)",
            ),
            (
                "correlations of units, not of directions",
                "def canonical_correlations(x, y):\n"
                "    between = np.corrcoef(x, y, rowvar=False)[: x.shape[1], x.shape[1] :]\n"
                "    return np.linalg.svd(between, compute_uv=False)",
            ),
        ],
        [
            (
                "a layer with itself",
                "def chance(units, images, generator):\n"
                "    a = generator.normal(size=(images, units))\n"
                "    return canonical_correlations(a, a).mean()",
            ),
            (
                "the same numbers whatever the generator",
                "def chance(units, images, generator):\n"
                "    a, b = np.random.default_rng(0).normal(size=(2, images, units))\n"
                "    return canonical_correlations(a, b).mean()",
            ),
            (
                "the mean of the squares",
                "def chance(units, images, generator):\n"
                "    a, b = generator.normal(size=(2, images, units))\n"
                "    return (canonical_correlations(a, b) ** 2).mean()",
            ),
        ],
    ],
    "07_pwcca": [
        [
            (
                "the layer where sharing does least",
                'v = similar[SEEN, "PWCCA"]\nanswer = layers[(within(v, shared) - within(v, own))[:7].argmin()]',
            ),
            (
                "the layer where networks with a shared permutation are least alike",
                'answer = layers[within(similar[SEEN, "PWCCA"], shared)[: len(layers)].argmin()]',
            ),
            ("the number of the layer, not its name", "answer = 5"),
        ],
        [
            (
                "the left-out numbers' own deviation",
                "def standard_error(number, first, second):\n"
                "    one = [number(np.delete(first, k), second) for k in range(len(first))]\n"
                "    two = [number(first, np.delete(second, k)) for k in range(len(second))]\n"
                "    return np.sqrt(np.var(one) + np.var(two))",
            ),
            (
                "only the first group varies",
                "def standard_error(number, first, second):\n"
                "    one = [number(np.delete(first, k), second) for k in range(len(first))]\n"
                "    return np.sqrt((len(first) - 1) * np.var(one))",
            ),
            (
                "errors are added, not their squares",
                "def standard_error(number, first, second):\n"
                "    one = [number(np.delete(first, k), second) for k in range(len(first))]\n"
                "    two = [number(first, np.delete(second, k)) for k in range(len(second))]\n"
                "    return np.sqrt((len(first) - 1) * np.var(one)) + np.sqrt((len(second) - 1) * np.var(two))",
            ),
        ],
        [
            (
                "judged where they were chosen",
                "def chosen(units, images, generator):\n"
                "    a, b = generator.normal(size=(2, images // 2, units))\n"
                "    r = np.sort([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T)])\n"
                "    return [float(r[units // 2 :].mean() - r[: units // 2].mean())] * 2",
            ),
            (
                "the same numbers whatever the generator",
                "def chosen(units, images, generator):\n"
                "    a, b = np.random.default_rng(0).normal(size=(2, images, units))\n"
                "    here, there = (\n"
                "        np.array([np.corrcoef(x, y)[0, 1] for x, y in zip(a[k::2].T, b[k::2].T)]) for k in (0, 1)\n"
                "    )\n"
                "    order, n = here.argsort(), units // 2\n"
                "    return [float(r[order[n:]].mean() - r[order[:n]].mean()) for r in (here, there)]",
            ),
            (
                "sorted anew over the other images",
                "def chosen(units, images, generator):\n"
                "    a, b = generator.normal(size=(2, images, units))\n"
                "    rs = [np.sort([np.corrcoef(x, y)[0, 1] for x, y in zip(a[k::2].T, b[k::2].T)]) for k in (0, 1)]\n"
                "    return [float(r[units // 2 :].mean() - r[: units // 2].mean()) for r in rs]",
            ),
        ],
    ],
    "08_maps": [
        [
            (
                "the layer where it loses least",
                'answer = min(layers, key=lambda k: table_of["linear"][k] - table_of["bipartite"][k])',
            ),
            ("the last layer, whose units are classes", "answer = paper.layers[-1]"),
            (
                "the accuracy that is lost, not the layer",
                'answer = max(table_of["linear"][k] - table_of["bipartite"][k] for k in layers)',
            ),
        ],
        [
            (
                "columns of length 1, which do not stand at right angles",
                "def turn(C):\n    return C / np.linalg.norm(C, axis=0)",
            ),
            (
                "NumPy's SVD gives V transposed, and it is transposed once more",
                "def turn(C):\n    left, _, right = np.linalg.svd(C)\n    return left @ right.T",
            ),
            (
                "the way back, from the second network to the first",
                "def turn(C):\n    left, _, right = np.linalg.svd(C)\n    return (left @ right).T",
            ),
        ],
        [
            (
                "drawn towards 0, not towards the mean",
                "def narrowed(acts, mean, share):\n    return share * acts",
            ),
            (
                "what should be kept is taken away",
                "def narrowed(acts, mean, share):\n"
                "    mean = mean[:, None, None]\n"
                "    return mean + (1 - share) * (acts - mean)",
            ),
            (
                "all units are drawn towards one mean",
                "def narrowed(acts, mean, share):\n    return mean.mean() + share * (acts - mean.mean())",
            ),
        ],
    ],
    "09_architectures": [
        [
            ("the one that finds most", 'answer = max(maps["residual"], key=lambda k: again(k, "residual").estimate)'),
            ("a family", 'answer = "residual"'),
            ("the share, not the name", 'answer = min(again(k, "residual").estimate for k in maps["residual"])'),
        ],
        [
            (
                "zeros come first",
                "def around(maps, stride, units):\n"
                "    kept = maps[:, :, ::stride, ::stride]\n"
                "    return torch.cat([kept.new_zeros(len(kept), units - kept.shape[1], *kept.shape[2:]), kept], 1)",
            ),
            (
                "the mean over places in place of every second one",
                "def around(maps, stride, units):\n"
                "    kept = torch.nn.functional.avg_pool2d(maps, stride, ceil_mode=True)\n"
                "    missing = kept.new_zeros(len(kept), units - kept.shape[1], *kept.shape[2:])\n"
                "    return torch.cat([kept, missing], 1)",
            ),
            (
                "units are repeated",
                "def around(maps, stride, units):\n"
                "    kept = maps[:, :, ::stride, ::stride]\n"
                "    return torch.cat([kept, kept], 1)[:, :units]",
            ),
        ],
        [
            ("nothing is shuffled", "def by_chance(matrix):\n    return np.diag(matrix).mean()"),
            ("zero", "def by_chance(matrix):\n    return 0.0"),
            (
                "a unit never meets itself",
                "def by_chance(matrix):\n"
                "    n = len(matrix)\n"
                "    return (matrix.sum() - np.trace(matrix)) / (n * (n - 1))",
            ),
        ],
    ],
    "10_unique_units": [
        [
            (
                "where they are least unique",
                "answer = min(layers, key=lambda k: np.mean([1 - shared_with(k, net).mean() for net in members]))",
            ),
            ("a network", 'answer = "net1"'),
            ("the uniqueness, not the layer", "answer = 0.59"),
        ],
        [
            ("the best partner on the other half", "def held_out(fit, held):\n    return held.max(1)"),
            ("read where it was chosen", "def held_out(fit, held):\n    return fit.max(1)"),
            (
                "the largest without its sign",
                "def held_out(fit, held):\n"
                "    return np.take_along_axis(held, np.abs(fit).argmax(1)[:, None], axis=1)[:, 0]",
            ),
        ],
        [
            (
                "the error falls with the number",
                "def needed(difference, error, networks):\n"
                "    return int(np.ceil(networks * abs(2.8 * error / difference)))",
            ),
            (
                "rounded",
                "def needed(difference, error, networks):\n"
                "    return round(networks * (2.8 * error / difference) ** 2)",
            ),
            (
                "without the 2.8",
                "def needed(difference, error, networks):\n"
                "    return int(np.ceil(networks * (error / difference) ** 2))",
            ),
        ],
    ],
    "11_shared_spaces": [
        [
            ("the most there are", "answer = sizes.anchors[-1]"),
            ("the fewest there are", "answer = sizes.anchors[0]"),
            ("the share, not the number of anchors", "answer = 0.9"),
        ],
        [
            (
                "an image is its own neighbour",
                "def shared_neighbours(a, b, k):\n"
                "    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b)]\n"
                "    near = [np.argsort(-(rows @ rows.T), axis=1)[:, :k] for rows in unit]\n"
                "    return float(np.mean([len(set(x) & set(y)) / k for x, y in zip(*near)]))",
            ),
            (
                "by distance, not by angle",
                "def shared_neighbours(a, b, k):\n"
                "    near = []\n"
                "    for rows in (a, b):\n"
                "        distance = np.linalg.norm(rows[:, None] - rows, axis=2)\n"
                "        np.fill_diagonal(distance, np.inf)\n"
                "        near.append(np.argsort(distance, axis=1)[:, :k])\n"
                "    return float(np.mean([len(set(x) & set(y)) / k for x, y in zip(*near)]))",
            ),
            (
                "the number, not the share",
                "def shared_neighbours(a, b, k):\n"
                "    return k * float(cu.mutual_knn(torch.from_numpy(a), torch.from_numpy(b), k=k))",
            ),
        ],
        [
            (
                "the other way round",
                "def rotation(a, b):\n    left, _, right = np.linalg.svd(a.T @ b)\n    return left @ right",
            ),
            (
                "least squares, no rotation",
                "def rotation(a, b):\n    return np.linalg.lstsq(b, a + 0.1 * a**2, rcond=None)[0]",
            ),
            ("the left factor alone", "def rotation(a, b):\n    return np.linalg.svd(b.T @ a)[0]"),
        ],
    ],
    "12_your_networks": [
        [
            ("the layer with the highest match", 'answer = by_layer.loc["found"].idxmax()'),
            ("the layer where a turned network matches best", 'answer = by_layer.loc["rotated"].idxmax()'),
            ("the number, not the layer", "answer = 0.17"),
        ],
        [
            (
                "padding is left out of the sum, but counted",
                "def mean_of_text(states, mask):\n"
                "    return (states * mask[:, :, None]).mean(dim=1)",
            ),
            ("padding counts", "def mean_of_text(states, mask):\n    return states.mean(dim=1)"),
            (
                "the tokens of all texts are counted together",
                "def mean_of_text(states, mask):\n"
                "    return (states * mask[:, :, None]).sum(dim=1) / mask.sum()",
            ),
        ],
        [
            (
                "nothing is centred",
                "def alike(size, generator):\n"
                "    x, y = generator.normal(size=(2, 1000, 50)) * np.r_[size, np.ones(999)][:, None]\n"
                "    shared, own_x, own_y = (np.linalg.norm(a.T @ b) for a, b in ((x, y), (x, x), (y, y)))\n"
                "    return shared**2 / (own_x * own_y)",
            ),
            (
                "the root is taken",
                "def alike(size, generator):\n"
                "    x, y = generator.normal(size=(2, 1000, 50)) * np.r_[size, np.ones(999)][:, None]\n"
                "    x, y = x - x.mean(axis=0), y - y.mean(axis=0)\n"
                "    shared, own_x, own_y = (np.linalg.norm(a.T @ b) for a, b in ((x, y), (x, x), (y, y)))\n"
                "    return shared / np.sqrt(own_x * own_y)",
            ),
            (
                "the input is made larger in one of the layers",
                "def alike(size, generator):\n"
                "    x, y = generator.normal(size=(2, 1000, 50))\n"
                "    x[0] *= size\n"
                "    x, y = x - x.mean(axis=0), y - y.mean(axis=0)\n"
                "    shared, own_x, own_y = (np.linalg.norm(a.T @ b) for a, b in ((x, y), (x, x), (y, y)))\n"
                "    return shared**2 / (own_x * own_y)",
            ),
        ],
    ],
}  # fmt: skip
