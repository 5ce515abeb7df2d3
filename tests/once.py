"""What torch does anew for every export, a second each time, done once for all tests.

The exporter reads its library of operators into a registry that it does not change afterwards; a
process, and what is forked from it, shares one.
"""

from functools import cache

from torch.onnx._internal.exporter._registration import ONNXRegistry

from capdeploy.export.graph import OPSET

ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))
ONNXRegistry.from_torchlib(opset_version=OPSET)
