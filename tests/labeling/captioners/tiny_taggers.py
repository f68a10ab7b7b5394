"""Taggers whose scores are read off one known pixel: a wrong colour order or a wrong place shows at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = tuple[str, str, tuple[float, float, float], float]
"""Name, category, factors of the pixel's three values (in the model's order, 0 to 1), what is added."""
ROWS: tuple[Row, ...] = (
    ("general", "9", (0, 0, 0), 0.2),
    ("explicit", "9", (0, 0, 1), 0.0),
    ("blue_sky", "0", (1, 0, 0), 0.0),
    ("green_grass", "0", (0, 1, 0), 0.0),
    ("red_dress", "0", (0, 0, 1), 0.0),
    ("^_^", "0", (0, 0, 0), 0.5),
    ("hatsune_miku", "4", (0, 0, 1), 0.0),
)


def write_tagger(
    folder: Path,
    rows: Sequence[Row] = ROWS,
    *,
    size: int = 8,
    planes: bool = False,
    batch: int | None = None,
    at: tuple[int, int] = (4, 4),
    scale: float = 255.0,
    raw: bool = False,
    header: str = "tag_id,name,category,count",
) -> Path:
    """``at``: (row, column) of the pixel; ``scale``: what its values are divided by; ``raw``: logits whose
    sigmoid is the score, beside an output of another width."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    number: Any = "N" if batch is None else batch
    shape = [number, 3, size, size] if planes else [number, size, size, 3]
    factors = np.array([row[2] for row in rows], np.float32).T
    added = np.array([row[3] for row in rows], np.float32)
    constants = {
        "y": np.array(at[0]),
        "x": np.array(at[1]),
        "scale": np.array(scale, np.float32),
        "factors": factors,
        "added": added,
        "steep": np.array(20, np.float32),
        "half": np.array(0.5, np.float32),
    }
    axis = 2 if planes else 1
    nodes = [
        helper.make_node("Gather", ["pictures", "y"], ["line"], axis=axis),
        helper.make_node("Gather", ["line", "x"], ["pixel"], axis=axis),
        helper.make_node("Div", ["pixel", "scale"], ["values"]),
        helper.make_node("MatMul", ["values", "factors"], ["weighed"]),
        helper.make_node("Add", ["weighed", "added"], ["scores"]),
    ]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [number, len(rows)])]
    if raw:
        nodes += [
            helper.make_node("Sub", ["scores", "half"], ["centred"]),
            helper.make_node("Mul", ["centred", "steep"], ["logits"]),
        ]
        outputs = [
            helper.make_tensor_value_info("values", TensorProto.FLOAT, [number, 3]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [number, len(rows)]),
        ]
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info("pictures", TensorProto.FLOAT, shape)],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "model.onnx"))
    table = [header, *(f"{n},{name},{category},1" for n, (name, category, *_) in enumerate(rows))]
    (folder / "selected_tags.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    return folder
