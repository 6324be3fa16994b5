"""Graph networks on detections: layers against PyTorch Geometric's and the formulas, permutations, targets, losses."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import peers  # noqa: F401 - effdet scripts functions, which fails once torch_geometric is imported

pytest.importorskip("torch_geometric")

from torch_geometric.nn import ChebConv, GATv2Conv, GCNConv

from phidet.architectures.processes import Processes
from phidet.architectures.registry import architecture_of, published_config
from phidet.architectures.relations.architecture import RELATIONS
from phidet.architectures.relations.batch import RelationsBatch, collate
from phidet.architectures.relations.config import ANSWERS, LOSS_SETTINGS, Layer, RelationsConfig
from phidet.architectures.relations.decode import relate
from phidet.architectures.relations.features import graph_inputs, score_logits
from phidet.architectures.relations.layers import build_layers
from phidet.architectures.relations.targets import graph_targets, match
from phidet.core.errors import CheckpointError, ConfigError, InputError, UnknownNameError
from phidet.detections.boxes import decode, elementwise_iou, encode
from phidet.detections.detections import Detections
from phidet.detections.graphs.edges import EdgeRule, symmetric
from phidet.detections.graphs.graph import DetectionGraph, detection_graph
from phidet.weights.native import load_model, save_model
from relations_data import NAMES, SIZE_HW, answers_of, config, detections, graph, network, objects

LAYERS: tuple[Layer, ...] = get_args(Layer)
FIVE = symmetric(np.array([(0, 1), (0, 2), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]).T, 5)
"""Of the nodes 0…4, 1 and 2 are joined to all others, 3 and 4 to all but 0."""
ALONE = Processes(1, lambda value: value)


def layer_of(kind: Layer, edge_width: int = 5) -> torch.nn.Module:
    torch.manual_seed(1)
    return build_layers(config(kind, depth=3), edge_width)[0].double()


def dense(edges: np.ndarray, count: int) -> torch.Tensor:
    """A[target, source]."""
    matrix = torch.zeros(count, count, dtype=torch.float64)
    matrix[edges[1], edges[0]] = 1
    return matrix


def inputs_for(found: DetectionGraph, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(len(found), 8, generator=g, dtype=torch.float64)
    e = torch.randn(found.edges.shape[1], 5, generator=g, dtype=torch.float64)
    return x, torch.from_numpy(found.edges), e


@pytest.mark.parametrize("count", [1, 2, 12])
def test_layers_equal_those_of_pytorch_geometric_that_add_loops_by_themselves(count: int) -> None:
    x, edges, e = inputs_for(graph(count, 3))
    attention, gcn, cheb = (layer_of(kind) for kind in ("attention", "gcn", "chebyshev"))
    theirs = GATv2Conv(8, 4, 2, edge_dim=5, fill_value=0.0).double()
    theirs.load_state_dict(attention.conv.state_dict())
    torch.testing.assert_close(attention(x, edges, e), theirs(x, edges, e), rtol=1e-12, atol=1e-12)
    theirs = GCNConv(8, 8).double()
    theirs.load_state_dict(gcn.conv.state_dict())
    torch.testing.assert_close(gcn(x, edges, e), theirs(x, edges), rtol=1e-12, atol=1e-12)
    theirs = ChebConv(8, 8, 3).double()
    theirs.load_state_dict(cheb.conv.state_dict())
    torch.testing.assert_close(cheb(x, edges, e), theirs(x, edges, lambda_max=2.0), rtol=1e-12, atol=1e-12)


def test_layers_equal_their_papers_formulas_on_dense_matrices() -> None:
    found = graph(9, 5)
    x, edges, e = inputs_for(found)
    a = dense(found.edges, 9)
    with torch.no_grad():
        gcn = layer_of("gcn").conv
        looped = a + torch.eye(9)
        d = looped.sum(1).rsqrt()
        expected = d[:, None] * looped * d @ x @ gcn.lin.weight.T + gcn.bias
        torch.testing.assert_close(layer_of("gcn")(x, edges, e), expected, rtol=1e-10, atol=1e-10)

        sage = layer_of("sage").conv
        expected = (a / a.sum(1, keepdim=True)) @ x @ sage.lin_l.weight.T + sage.lin_l.bias + x @ sage.lin_r.weight.T
        torch.testing.assert_close(layer_of("sage")(x, edges, e), expected, rtol=1e-10, atol=1e-10)

        cheb = layer_of("chebyshev").conv
        d = a.sum(1).rsqrt()
        laplacian = torch.eye(9) - d[:, None] * a * d
        scaled = 2 * laplacian / 2 - torch.eye(9)
        polynomials = [x, scaled @ x]
        polynomials.append(2 * scaled @ polynomials[1] - x)
        expected = sum(t @ lin.weight.T for t, lin in zip(polynomials, cheb.lins, strict=True)) + cheb.bias
        torch.testing.assert_close(layer_of("chebyshev")(x, edges, e), expected, rtol=1e-10, atol=1e-10)

        gated = layer_of("gated").conv
        h = x
        for step in range(3):  # h' = GRU(A h W, h)
            m = a @ h @ gated.weight[step]
            gates_m = m @ gated.rnn.weight_ih.T + gated.rnn.bias_ih
            gates_h = h @ gated.rnn.weight_hh.T + gated.rnn.bias_hh
            r, z = (torch.sigmoid(gates_m[:, s] + gates_h[:, s]) for s in (slice(0, 8), slice(8, 16)))
            n = torch.tanh(gates_m[:, 16:] + r * gates_h[:, 16:])
            h = (1 - z) * n + z * h
        torch.testing.assert_close(layer_of("gated")(x, edges, e), h, rtol=1e-10, atol=1e-10)

        attention = layer_of("attention").conv
        left, right = (
            x @ attention.lin_l.weight.T + attention.lin_l.bias,
            x @ attention.lin_r.weight.T + attention.lin_r.bias,
        )
        expected = torch.zeros(9, 8, dtype=torch.float64)
        for i in range(9):
            joined = [(j, e[k]) for k, (j, to) in enumerate(edges.T.tolist()) if to == i]
            joined.append((i, torch.zeros(5, dtype=torch.float64)))
            for head in (slice(0, 4), slice(4, 8)):
                weight = attention.att[0, head.start // 4]
                seen = [left[j, head] + right[i, head] + (attention.lin_edge.weight @ f)[head] for j, f in joined]
                alphas = torch.stack([torch.nn.functional.leaky_relu(s, 0.2) @ weight for s in seen]).softmax(0)
                expected[i, head] = sum(alpha * left[j, head] for alpha, (j, _) in zip(alphas, joined, strict=True))
        torch.testing.assert_close(
            layer_of("attention")(x, edges, e), expected + attention.bias, rtol=1e-10, atol=1e-10
        )


def test_a_layer_on_a_plus_i_cannot_tell_nodes_with_the_same_neighbourhood_apart() -> None:
    """Why loops matter: with A + I the nodes 1 and 2 of the example become equal, and 3 and 4; without, they do not."""
    x, e = torch.eye(5, 8, dtype=torch.float64), torch.zeros(FIVE.shape[1], 5, dtype=torch.float64)
    edges = torch.from_numpy(FIVE)
    with torch.no_grad():
        looped, plain = layer_of("gcn")(x, edges, e), layer_of("chebyshev")(x, edges, e)
    for i, j in ((1, 2), (3, 4)):
        torch.testing.assert_close(looped[i], looped[j], rtol=1e-12, atol=1e-12)
        assert float((plain[i] - plain[j]).abs().max()) > 0.1
    for i, j in ((0, 1), (0, 3), (1, 3)):
        assert float((looped[i] - looped[j]).abs().max()) > 0.01


@pytest.mark.parametrize("layer", LAYERS)
def test_permuting_nodes_permutes_the_answers(layer: Layer) -> None:
    model, found = network(layer), graph(12, 7)
    order = np.random.default_rng(0).permutation(12)
    number = np.argsort(order)
    inputs = graph_inputs(model.config, found)
    # Another order of edges as well: sums must not depend on it.
    edge_order = np.random.default_rng(1).permutation(found.edges.shape[1])
    nodes, edge_features = (torch.from_numpy(a).double() for a in (inputs.nodes, inputs.edge_features))
    edges, renumbered = (torch.from_numpy(a) for a in (inputs.edges, number[inputs.edges[:, edge_order]]))
    with torch.no_grad():
        ours = model(nodes, edges, edge_features)
        theirs = model(nodes[order], renumbered, edge_features[edge_order])
    assert set(ours) == set(architecture_of(model.config).output_shapes(model.config))
    for name, values in ours.items():
        by = order if name in ("label_logits", "score_logits", "box_deltas") else edge_order
        expected = values if name == "right_logits" else values[by]
        torch.testing.assert_close(theirs[name], expected, rtol=1e-9, atol=1e-9)
        assert float(values.std(correction=0)) > 1e-3 or name == "right_logits"


@pytest.mark.parametrize("layer", LAYERS)
def test_a_batch_of_graphs_is_each_of_them_alone(layer: Layer) -> None:
    model = network(layer)
    graphs = [graph(count, seed) for seed, count in enumerate((5, 0, 1, 12))]
    targets = [graph_targets(g, objects([], [])) for g in graphs]
    batch = collate([(graph_inputs(model.config, g), t) for g, t in zip(graphs, targets, strict=True)])
    with torch.no_grad():
        together = model(batch.nodes.double(), batch.edges, batch.edge_features.double(), batch.graph, 4)
    alone = [answers_of(model, g) for g in graphs]
    for name, values in together.items():
        expected = np.concatenate([one[name] for one in alone])
        np.testing.assert_allclose(values.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_whole_is_right_if_all_its_parts_are(layer: Layer) -> None:
    """Of parts that are not joined, the probabilities multiply; of no parts, nothing is right."""
    model = network(layer, answers=("right",))
    graphs = [graph(count, seed) for seed, count in enumerate((5, 9, 3))]
    examples = [(graph_inputs(model.config, g), graph_targets(g, objects([], []))) for g in graphs]
    batch = collate(examples)
    with torch.no_grad():
        inputs = batch.nodes.double(), batch.edges, batch.edge_features.double()
        as_one = model(*inputs)["right_logits"].sigmoid()
        each = model(*inputs, batch.graph, 3)["right_logits"].sigmoid()
    assert 0.001 < float(each.min()) < float(each.max()) < 0.999
    torch.testing.assert_close(as_one[0], each.prod(), rtol=1e-9, atol=1e-12)
    nothing = graph(0, 0)
    assert relate(nothing, answers_of(model, nothing)).right == 0


@pytest.mark.parametrize("layer", LAYERS)
def test_an_untrained_network_returns_the_detections_as_they_are(layer: Layer) -> None:
    torch.manual_seed(0)
    model, found = RELATIONS.build(config(layer)).eval(), graph(15, 2)
    related = relate(found, answers_of(model, found))
    np.testing.assert_array_equal(related.graph.edges, found.edges)
    kept = related.detections
    np.testing.assert_allclose(kept.boxes_xyxy, found.detections.boxes_xyxy, atol=1e-4)
    np.testing.assert_allclose(kept.scores, found.detections.scores, atol=1e-6)
    np.testing.assert_array_equal(kept.class_ids, found.detections.class_ids)
    # So little doubt at each of the 15 places that the whole is as likely right as wrong.
    assert related.right == pytest.approx((1 - 1 / (1 + np.exp(4))) ** 15, rel=1e-5)
    assert related.together is not None
    assert (related.together == 0.5).all()


def test_a_model_file_holds_the_network(tmp_path: object) -> None:
    model = network("gated").float()
    path = tmp_path / "relations.safetensors"  # type: ignore[operator]
    save_model(model, path)
    loaded = load_model(path)
    assert loaded.config == model.config
    ours, theirs = answers_of(model, graph(9, 4)), answers_of(loaded, graph(9, 4))  # type: ignore[arg-type]
    assert all(np.array_equal(values, theirs[name]) for name, values in ours.items())


# Features


def test_features_do_not_depend_on_the_size_of_the_image_and_say_where_things_are() -> None:
    found = detections(6, 1)
    doubled = replace(found, boxes_xyxy=2 * found.boxes_xyxy, image_size_hw=(600, 800))
    ours, theirs = (graph_inputs(config(), detection_graph(d, config().edges)) for d in (found, doubled))
    np.testing.assert_allclose(ours.nodes, theirs.nodes, atol=1e-5)
    np.testing.assert_allclose(ours.edge_features, theirs.edge_features, atol=1e-5)

    boxes = np.array([[100, 100, 140, 110], [180, 100, 220, 110]], float)  # 400 px² each, 80 pixels apart
    two = Detections(boxes, np.array([0.9, 0.5]), np.array([2, 2]), NAMES, SIZE_HW)
    nodes, edges, edge_features = graph_inputs(config(), detection_graph(two))
    assert nodes[0].tolist() == pytest.approx(
        [
            0,
            0,
            1,
            np.log(9),
            2 * 120 / 400 - 1,
            2 * 105 / 300 - 1,
            np.log(40 / 500),
            np.log(10 / 500),
            np.log(4),
            105 / 500,
        ],
        abs=1e-5,
    )
    assert edges.tolist() == [[0, 1], [1, 0]]
    # The first edge leads from 0 to 1: the source lies 80 pixels to the left of the target.
    assert edge_features[0].tolist() == pytest.approx(
        [np.arcsinh(-4), 0, -80 / 500, 0, np.log1p(4), 80 / 500, 0, 0, 0, 1], abs=1e-5
    )


def test_scores_become_logits_and_stay_finite() -> None:
    assert score_logits(np.array([0.5, 0.75])).tolist() == pytest.approx([0, np.log(3)])
    assert score_logits(np.array([0.0, 1.0], np.float32)).tolist() == pytest.approx([-9, 9])


def test_fields_are_seen_and_detections_of_others_are_refused() -> None:
    seen = config(fields={"appearance": 2, "age": 1})
    found = detections(3, 0).with_fields({"appearance": np.arange(6.0).reshape(3, 2), "age": np.array([7, 8, 9])})
    nodes = graph_inputs(seen, detection_graph(found)).nodes
    assert nodes[:, -3:].tolist() == [[0, 1, 7], [2, 3, 8], [4, 5, 9]]
    assert graph_inputs(seen, detection_graph(Detections.empty(NAMES, SIZE_HW))).nodes.shape == (0, 13)
    for wrong, message in (
        (detections(3, 0), "expected detections with the field 'appearance'"),
        (found.with_fields({"appearance": np.ones(3)}), "expected the field 'appearance' as 2 numbers, got 1"),
        (replace(found, names=("a", "b", "c")), "expected detections of bolt, nut, washer …, got a, b, c …"),
        (replace(found, names=(), class_ids=np.array([0, 1, 3])), "expected classes 0…2, got 3"),
        (replace(found, image_size_hw=None), "expected detections with image_size_hw"),
    ):
        with pytest.raises(InputError, match=message):
            graph_inputs(seen, detection_graph(wrong))


# Answers


def test_answers_correct_detections_and_edges_follow_them_into_the_new_order() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 40, 10], [60, 0, 70, 10], [390, 290, 400, 300]], float)
    found = Detections(boxes, np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 1, 2]), NAMES, SIZE_HW)
    found = found.with_fields({"track": np.array([10, 11, 12, 13])})
    given = DetectionGraph(found, symmetric(np.array([[0, 1], [1, 2], [2, 3]]).T, 4))
    joined = {(0, 1): 3.0, (1, 0): 1.0, (1, 2): -2.0, (2, 1): -2.0, (2, 3): 0.5, (3, 2): -0.2}
    related = relate(
        given,
        {
            "label_logits": np.array([[0, 1, 0], [2, 0, 0], [0, 2, 0], [0, 0, 1]], np.float32),
            "score_logits": np.array([-1, 0, 2, 1], np.float32),
            "box_deltas": np.array([[0] * 4, [0.5, 0.25, 0, np.log(0.5)], [0] * 4, [1, 1, 0, 0]], np.float32),
            "together_logits": np.array([joined[i, j] for i, j in given.edges.T.tolist()], np.float32),
            "right_logits": np.array([np.log(4)], np.float32),
        },
    )
    kept = related.detections
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    assert kept.scores.tolist() == pytest.approx([sigmoid(2), sigmoid(1), 0.5, sigmoid(-1)])
    assert kept.fields["track"].tolist() == [12, 13, 11, 10]
    assert kept.class_ids.tolist() == [1, 2, 0, 1]
    assert kept.fields["detected_class_id"].tolist() == [1, 2, 0, 0]
    assert kept.fields["detected_score"].tolist() == pytest.approx([0.7, 0.6, 0.8, 0.9])
    # Half a height down, a quarter of a width to the right, half as wide; and one that would leave the image.
    assert kept.boxes_xyxy[2].tolist() == pytest.approx([30, 5, 40, 15])
    assert kept.boxes_xyxy[1].tolist() == [400, 300, 400, 300]
    by_track = {
        (kept.fields["track"][i], kept.fields["track"][j]): share
        for (i, j), share in zip(related.graph.edges.T.tolist(), related.together, strict=True)
    }
    for i, j in ((0, 1), (1, 2), (2, 3)):
        expected = (sigmoid(joined[i, j]) + sigmoid(joined[j, i])) / 2
        assert by_track[10 + i, 10 + j] == pytest.approx(expected)
        assert by_track[10 + j, 10 + i] == pytest.approx(expected)
    # 10–11 and 12–13 belong together, 11–12 do not; groups are numbered by their best detections.
    assert kept.fields["group"].tolist() == [0, 0, 1, 1]
    assert related.right == pytest.approx(0.8)
    assert kept.fields["right"].tolist() == pytest.approx([0.8] * 4)


def test_answers_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(CheckpointError, match="NaN or infinity in score_logits; check its weights"):
        relate(graph(2, 0), {"score_logits": np.array([0, np.nan], np.float32)})


# Targets and loss


def test_the_best_detection_of_an_object_is_right_and_others_are_not() -> None:
    boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [0, 100, 10, 110], [100, 100, 104, 104]]
    found = Detections(np.array(boxes, float), np.linspace(0.9, 0.5, 5), np.array([0, 0, 1, 2, 0]), NAMES, SIZE_HW)
    truth = objects([[0, 0, 10, 10], [50, 50, 60, 65], [90, 90, 120, 120], [0, 100, 10, 104]], [0, 2, 0, 2], crowd=(2,))
    matched = match(found, truth, by_class=False)
    assert matched.objects.tolist() == [0, -1, 1, -1, -1]
    assert matched.ious.tolist() == pytest.approx([1, 0, 2 / 3, 0, 0], abs=1e-5)
    assert matched.ignored.tolist() == [False] * 5  # 16 of 900 pixels of a crowd
    assert match(found, truth, by_class=True).objects.tolist() == [0, -1, -1, -1, -1]
    inside = replace(found, boxes_xyxy=np.array([*boxes[:4], [90, 90, 120, 110]], float))
    assert match(inside, truth, by_class=False).ignored.tolist() == [False] * 4 + [True]


def test_of_objects_at_one_place_a_detection_is_the_one_of_its_class() -> None:
    found = Detections(np.array([[0, 0, 10, 10.0]]), np.array([0.9]), np.array([1]), NAMES, SIZE_HW)
    truth = objects([[0, 0, 10, 10], [0, 0, 10, 10]], [0, 1])
    assert match(found, truth, by_class=False).objects.tolist() == [1]


def test_targets_are_the_truth_of_nodes_edges_and_graph() -> None:
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [200, 200, 210, 210]]
    found = Detections(np.array(boxes, float), np.linspace(0.9, 0.5, 4), np.array([0, 1, 1, 2]), NAMES, SIZE_HW)
    given = DetectionGraph(found, symmetric(np.array([[0, 1], [1, 2], [0, 3]]).T, 4))
    truth = objects([[1, 0, 11, 10], [20, 0, 30, 12], [40, 0, 50, 10]], [2, 1, 1], group=[4, 4, -1])
    targets = graph_targets(given, truth, right=False)
    assert targets.class_ids.tolist() == [2, 1, 1, -1]
    assert targets.ious.tolist() == pytest.approx([9 / 11, 10 / 12, 1, 0], abs=1e-5)
    np.testing.assert_allclose(decode(targets.box_deltas[:3], found.boxes_xyxy[:3]), truth.boxes_xyxy, atol=1e-4)
    assert targets.box_deltas[3].tolist() == [0] * 4
    assert {pair: t for pair, t in zip(map(tuple, given.edges.T.tolist()), targets.together, strict=True) if t} == {
        (0, 1): 1,
        (1, 0): 1,
    }
    assert targets.right == 0.0
    unknown = graph_targets(given, objects([], []))
    assert (unknown.class_ids.tolist(), unknown.right) == ([-1] * 4, -1.0)
    assert set(unknown.together.tolist()) == {-1.0}


def loss_of(outputs: dict[str, torch.Tensor], batch: RelationsBatch, **changes: object) -> dict[str, float]:
    loss = RELATIONS.loss(config(), {**LOSS_SETTINGS, **changes})
    return {name: float(value) for name, value in loss(outputs, batch, ALONE).items()}


def small_batch() -> RelationsBatch:
    return RelationsBatch(
        right=torch.tensor([1.0, -1.0, 0.0]),
        nodes=torch.zeros(4, 10),
        edges=torch.tensor([[0, 1], [1, 0]]),
        edge_features=torch.zeros(2, 10),
        graph=torch.tensor([0, 0, 1, 2]),
        class_ids=torch.tensor([0, 2, -1, -1]),
        ious=torch.tensor([0.8, 0.6, 0.0, -1.0]),
        box_deltas=torch.tensor([[0.1, 0, 0, 0], [0] * 4, [0] * 4, [0] * 4]),
        together=torch.tensor([1.0, -1.0]),
    )


def test_losses_are_means_over_what_is_known() -> None:
    logits = torch.zeros(4, 3)
    logits[0, 0] = np.log(2)
    outputs = {
        "label_logits": logits,
        "score_logits": torch.tensor([np.log(3), 0.0, np.log(3), 99.0]),
        "box_deltas": torch.zeros(4, 4),
        "together_logits": torch.tensor([np.log(3), 5.0]),
        "right_logits": torch.tensor([np.log(4), 3.0, np.log(4)]),
    }
    losses = loss_of(outputs, small_batch())
    expected = {
        "label": (np.log(2) + np.log(3)) / 2,  # shares 1/2 and 1/3
        "score": (np.log(4 / 3) + np.log(2) + np.log(4)) / 3,
        "place": (0.1 - 0.01) / 8,  # smooth L1 with β = 0.02
        "together": np.log(4 / 3),
        "right": (np.log(5 / 4) + np.log(5)) / 2,
    }
    total = sum(LOSS_SETTINGS[name] * value for name, value in expected.items())
    assert losses == pytest.approx({"loss": total, **expected}, rel=1e-5)
    # With quality, IoU 0.8 reaches seven of the ten thresholds 0.5, 0.55 …, and 0.6 three.
    quality = loss_of({"score_logits": outputs["score_logits"]}, small_batch(), quality=True)["score"]
    each = 0.7 * np.log(4 / 3) + 0.3 * np.log(4), np.log(2), np.log(4)
    assert quality == pytest.approx(sum(each) / 3, rel=1e-5)
    assert loss_of(outputs, small_batch(), label=0.0, score=0, place=0, right=0)["loss"] == pytest.approx(np.log(4 / 3))
    with pytest.raises(ConfigError, match="loss place must be a number ≥ 0, got -1"):
        loss_of(outputs, small_batch(), place=-1)


def test_the_mean_of_two_processes_losses_is_that_of_the_whole_batch() -> None:
    model = network(answers=ANSWERS)
    graphs = [graph(count, seed) for seed, count in enumerate((9, 4))]
    examples = []
    for found, right in zip(graphs, (True, False), strict=True):
        boxes = found.detections.boxes_xyxy[: 3 if right else 2].tolist()
        truth = objects(boxes, [0] * len(boxes), group=[0] * len(boxes))
        examples.append((graph_inputs(model.config, found), graph_targets(found, truth, right)))

    def losses(part: list[int], processes: Processes) -> torch.Tensor:
        batch = collate([examples[i] for i in part])
        nodes, edge_features = batch.nodes.double(), batch.edge_features.double()
        outputs = model(nodes, batch.edges, edge_features, batch.graph, len(part))
        return RELATIONS.loss(model.config, LOSS_SETTINGS)(outputs, batch, processes)["loss"]

    def gradient(parts: list[list[int]]) -> torch.Tensor:
        # What all processes would add up is found out first: every term asks once for the number of its values.
        asked: list[list[torch.Tensor]] = [[] for _ in parts]
        for part, seen in zip(parts, asked, strict=True):
            losses(part, Processes(len(parts), lambda value, seen=seen: seen.append(value) or value))
        model.zero_grad()
        for part in parts:
            totals = iter([sum(values) for values in zip(*asked, strict=True)])
            (losses(part, Processes(len(parts), lambda _, totals=totals: next(totals))) / len(parts)).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    torch.testing.assert_close(gradient([[0], [1]]), gradient([[0, 1]]), rtol=1e-5, atol=1e-6)


# Settings


def test_settings_out_of_range_are_named() -> None:
    for changes, message in (
        ({"layer": "attentive"}, "Did you mean attention"),
        ({"answers": ("labels",)}, "Did you mean label"),
        ({"answers": ()}, "at least one answer: label, score, place, together, right"),
        ({"width": 9}, "width must be a multiple of heads, got 9 and 2"),
        ({"depth": 0}, "depth must be a whole number ≥ 1, got 0"),
        ({"fields": {"age": 0}}, "the field 'age' must have a width ≥ 1, got 0"),
        ({"score": 1.0}, "score must be in 0…1, below 1, got 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            config(**{"layer": "gcn", **changes})  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="Did you mean relations-gated"):
        published_config("relations-gate")


def test_published_names_are_the_kinds_of_layers() -> None:
    for layer in LAYERS:
        published = published_config(f"relations-{layer}")
        assert isinstance(published, RelationsConfig)
        assert published.layer == layer
        assert RELATIONS.published_config(published.name, NAMES).class_names == NAMES


def test_a_network_on_detections_says_so_where_one_on_images_is_expected() -> None:
    for needs in (
        lambda: RELATIONS.decoder(config()),
        lambda: RELATIONS.prepare(config(), np.zeros((9, 9, 3), np.uint8)),
        lambda: RELATIONS.resized(config(), (64, 64)),
    ):
        with pytest.raises(ConfigError, match="relates detections and looks at no image"):
            needs()
    detector = published_config("efficientdet-d0")
    with pytest.raises(ConfigError, match="efficientdet-d0 detects in images"):
        architecture_of(detector).relating(detector)


@settings(max_examples=25)
@given(st.integers(0, 20), st.integers(0, 10**6))
def test_deltas_of_targets_are_those_of_the_boxes(count: int, seed: int) -> None:
    """What the network learns to say of a box is what the decoder makes a box of."""
    found = detections(count, seed)
    moved = found.boxes_xyxy + np.random.default_rng(seed).uniform(-1, 1, (count, 4)).astype(np.float32)
    targets = graph_targets(detection_graph(found, EdgeRule(kind="all")), objects(moved.tolist(), [0] * count))
    hit = targets.ious > 0
    best = decode(targets.box_deltas[hit], found.boxes_xyxy[hit])
    overlaps = elementwise_iou(best[:, None], moved[None], "iou").max(axis=1, initial=0)
    assert (overlaps > 0.999).all()
    assert encode(found.boxes_xyxy, found.boxes_xyxy) == pytest.approx(0)
