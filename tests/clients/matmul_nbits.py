"""A packed weight of a compressed-tensors folder in ONNX Runtime's MatMulNBits, on given inputs.

    python matmul_nbits.py FOLDER LAYER BITS inputs.f32 outputs.f32

The packed words go to the operator byte for byte: that it computes the layer shows that the order of codes in them is the one it
expects. Inputs are rows of the layer's width, little-endian f32; so are outputs.
"""

import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file


def main():
    folder, layer, bits, inputs, outputs = sys.argv[1:]
    bits = int(bits)
    tensors = load_file(f"{folder}/model.safetensors")
    packed = np.ascontiguousarray(tensors[f"{layer}.weight_packed"])
    scale = tensors[f"{layer}.weight_scale"].astype(np.float32)
    rows, columns = tensors[f"{layer}.weight_shape"].tolist()
    groups = scale.shape[1]
    codes = packed.view(np.uint8).reshape(rows, groups, columns // groups * bits // 8)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "codes", "scale"],
        ["y"],
        domain="com.microsoft",
        K=columns,
        N=rows,
        bits=bits,
        block_size=columns // groups,
    )
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, rows])],
        [numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(scale.reshape(-1), "scale")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.fromfile(inputs, "<f4").reshape(-1, columns)
    session.run(None, {"x": x})[0].astype("<f4").tofile(outputs)


if __name__ == "__main__":
    main()
