"""From a network to a sealed bundle: ONNX, simplification, parity, packing."""
