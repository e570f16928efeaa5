"""A small net trained as the project trains, eagerly and captured, its graph closed at the end: no rule is broken."""

import torch

from tests.cuda import counters

STEPS, REPLAYS = 3, 5
NET = torch.nn.Sequential(
    torch.nn.Conv2d(1, 4, 4, stride=2),
    torch.nn.Flatten(),
    torch.nn.LazyLinear(8),
    torch.nn.SiLU(),
    torch.nn.Linear(8, 1),
).cuda()
IMAGES = torch.ones(16, 1, 10, 10).pin_memory().to("cuda", non_blocking=True)
NET(IMAGES)
OPTIMIZER = torch.optim.AdamW(NET.parameters(), fused=True, capturable=True)


def update() -> None:
    OPTIMIZER.zero_grad(set_to_none=False)
    torch.special.entr(NET(IMAGES)).sum().backward()
    OPTIMIZER.step()


def main() -> None:
    """Count what the host launches, and what it waits for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        update()  # makes gradients and the optimizer's state
        with counters.step(), counters.between() as eager:
            for _ in range(STEPS):
                update()
    torch.cuda.current_stream().wait_stream(side)
    assert eager.readbacks == eager.pageable == {}, eager
    products = 2 * 3 + 2  # forward, of the weights, of the input; the first layer's input has no gradient
    assert eager.launches["products"] == STEPS * products, eager.names
    assert any("entr" in name for name in eager.names), eager.names

    graph = torch.cuda.CUDAGraph()
    with counters.between() as capture, torch.cuda.graph(graph):
        update()
    [seen] = counters.graphs()
    assert len(seen.nodes) == sum(capture.captured.values()) == sum(eager.launches.values()) / STEPS, capture
    assert sum(node.startswith("product cudnn") for node in seen.nodes) == 2, seen.nodes
    with counters.step(), counters.between() as replayed:
        for _ in range(REPLAYS):
            graph.replay()
    assert replayed.launches == {"graphs": REPLAYS}, replayed

    flags = torch.full((4,), 7, dtype=torch.int32, device="cuda")  # a fill is run
    with counters.between() as asked:
        assert flags.tolist() == [7, 7, 7, 7]
    assert asked.readbacks == {"cudaStreamSynchronize": 1}, asked
    assert asked.copies == {"device to pageable": 1}, asked
    graph.reset()
    assert counters.graphs() == []
    assert [graph.replays for graph in counters.graphs(alive=False)] == [REPLAYS]
    assert counters.violations() == [], counters.violations()


if __name__ == "__main__":
    main()
