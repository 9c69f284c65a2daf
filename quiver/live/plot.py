"""Pictures of a live network. The only file of the live node that knows networkx and matplotlib; import it where it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import networkx as nx
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from quiver.errors import UsageError

# Beyond it names would only cover one another.
NAMES_MAX = 60


def draw_network(peers: Mapping[str, bool], edges: Sequence[tuple[str, str]], path: Path, *, title: str) -> None:
    """Peers (name -> whether it answered) and who knows whom, as a picture; the file's ending chooses its format."""
    graph = nx.DiGraph()
    graph.add_nodes_from(peers)
    graph.add_edges_from((one, other) for one, other in edges if other in peers)
    figure = Figure(figsize=(9, 9), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = nx.spring_layout(graph, seed=1)
    alive = [name for name, answered in peers.items() if answered]
    silent = [name for name, answered in peers.items() if not answered]
    nx.draw_networkx_edges(graph, places, ax=axes, edge_color="0.75", width=0.6, arrowsize=6)
    for names, colour, label in ((alive, "tab:blue", "answered"), (silent, "tab:red", "did not answer")):
        if names:
            nx.draw_networkx_nodes(
                graph, places, nodelist=names, ax=axes, node_color=colour, node_size=60, label=f"{len(names)} {label}"
            )
    if len(peers) <= NAMES_MAX:
        nx.draw_networkx_labels(graph, places, ax=axes, font_size=6, verticalalignment="bottom")
    axes.set_title(f"{title}\nan arrow leads from a peer to one it knows; names are the last 8 letters of the peer id")
    axes.legend(loc="lower right")
    axes.set_axis_off()
    try:
        canvas.print_figure(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UsageError(f"the graph cannot be written to {path}: {error}") from error
